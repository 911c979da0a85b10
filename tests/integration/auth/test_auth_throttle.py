"""Throttling: who guesses waits, and keeps nobody else out."""

import asyncio
from itertools import count
from typing import Any, Final

import httpx
import pytest

PASSWORD: Final = "seven wells under the rain"
OTHER: Final = "nine pumps below the ice"
_NUMBERS = count(1)


def new_address() -> str:
    """Return an address that nobody has used."""
    number = next(_NUMBERS)
    return f"203.{number // 250}.{number % 250}.9"


async def fail(auth: Any, username: str, times: int, address: str) -> list[int]:
    answers = [await auth.try_log_in(username, OTHER, address=address) for _ in range(times)]
    return [answer.status_code for answer in answers]


async def fail_from_everywhere(auth: Any, username: str, times: int) -> None:
    for _ in range(times):
        assert (await auth.try_log_in(username, OTHER, address=new_address())).status_code == 401


@pytest.mark.parametrize("exists", [True, False], ids=["exists", "does-not"])
async def test_an_account_is_refused_after_failures_from_an_address(exists: bool, auth: Any) -> None:
    name = (await auth.user("viewer")).username if exists else "never-created"
    address = new_address()
    assert await fail(auth, name, 5, address) == [401] * 5
    answer = await auth.try_log_in(name, PASSWORD, address=address)
    assert answer.status_code == 429, "even the right password waits"
    assert 0 < int(answer.headers["Retry-After"]) <= 30
    assert answer.json()["code"] == "rate-limited"


async def test_failures_elsewhere_keep_no_owner_out_from_an_address_never_seen_before(auth: Any) -> None:
    user = await auth.user("viewer")
    assert await fail(auth, user.username, 6, new_address()) == [401] * 5 + [429]
    assert (await auth.try_log_in(user.username, PASSWORD, address=new_address())).status_code == 200


async def test_failures_from_everywhere_keep_no_owner_out_either(auth: Any) -> None:
    user = await auth.user("viewer")
    await fail_from_everywhere(auth, user.username, auth.settings.delay_account_failures + 2)
    assert (await auth.try_log_in(user.username, PASSWORD, address=new_address())).status_code == 200


async def test_an_address_that_failed_often_keeps_no_other_account_out(auth: Any) -> None:
    """Many people behind one address: the mistakes of some are not the others'."""
    address = new_address()
    for number in range(auth.settings.delay_address_failures + 2):
        answer = await auth.try_log_in(f"guess{number}", OTHER, address=address)
        assert answer.status_code == 401
    user = await auth.user("viewer")
    assert (await auth.try_log_in(user.username, PASSWORD, address=address)).status_code == 200


async def test_many_wrong_logins_at_once_from_the_owners_address_keep_no_owner_out(auth: Any) -> None:
    address = new_address()
    user = await auth.user("viewer")
    assert (await auth.try_log_in(user.username, PASSWORD, address=address)).status_code == 200

    async def attack(number: int) -> None:
        for each in range(8):
            await auth.try_log_in(f"attacked{number}-{each}", OTHER, address=address)

    attackers = [asyncio.create_task(attack(number)) for number in range(12)]
    answer = await auth.try_log_in(user.username, PASSWORD, address=address)
    others = [attacker for attacker in attackers if not attacker.done()]
    await asyncio.gather(*attackers)
    assert answer.status_code == 200
    assert others, "the login waited for the attackers"


async def test_the_networks_of_ipv6_subscribers_count_as_one_address(auth: Any) -> None:
    user = await auth.user("viewer")
    guesses = [await fail(auth, user.username, 1, f"2001:db8:1:2::{number:x}") for number in range(1, 7)]
    assert guesses == [[401]] * 5 + [[429]]
    assert (await auth.try_log_in(user.username, PASSWORD, address="2001:db8:1:3::1")).status_code == 200


async def test_an_administrator_unlocks_an_account_everywhere(auth: Any) -> None:
    user = await auth.user("viewer")
    addresses = [new_address(), new_address()]
    for address in addresses:
        await fail(auth, user.username, 5, address)
        assert (await auth.try_log_in(user.username, PASSWORD, address=address)).status_code == 429
    assert (await auth.client.post(f"/api/v1/users/{user.user_id}/unlock")).status_code == 204
    for address in addresses:
        assert (await auth.try_log_in(user.username, PASSWORD, address=address)).status_code == 200


async def test_the_wait_is_over_after_its_time(auth: Any) -> None:
    user, address = await auth.user("viewer"), new_address()
    await fail(auth, user.username, 5, address)
    await auth.rows("UPDATE auth.login_attempts SET last_at = last_at - interval '31 seconds'")
    assert (await auth.try_log_in(user.username, PASSWORD, address=address)).status_code == 200


async def test_a_success_forgets_the_failures_before_it(auth: Any) -> None:
    user, address = await auth.user("viewer"), new_address()
    for _ in range(3):
        await fail(auth, user.username, 4, address)
        assert (await auth.try_log_in(user.username, PASSWORD, address=address)).status_code == 200


async def test_guesses_at_the_same_time_are_counted_before_the_next_are_heard(auth: Any) -> None:
    user, address = await auth.user("viewer"), new_address()
    tries = [auth.try_log_in(user.username, OTHER, address=address) for _ in range(30)]
    heard = [answer.status_code for answer in await asyncio.gather(*tries)].count(401)
    assert heard <= auth.settings.lockout_account_failures + auth.settings.hashes_at_once


async def change_password(auth: Any, session: Any, current: str) -> httpx.Response:
    return await auth.bare.post(
        "/api/v1/auth/password",
        json={"current": current, "new": "a fine new passphrase"},
        headers={**session.header, "X-Forwarded-For": new_address()},
    )


async def test_a_stolen_token_guesses_from_no_other_address_and_keeps_no_owner_out(auth: Any) -> None:
    user = await auth.user("viewer")
    stolen = await auth.log_in(user)
    statuses = [(await change_password(auth, stolen, OTHER)).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    own = await auth.log_in(user)
    assert (await change_password(auth, own, PASSWORD)).status_code == 204


async def test_codes_that_confirm_a_second_factor_are_counted(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    await auth.bare.post("/api/v1/auth/totp", json={"password": PASSWORD}, headers=session.header)
    answers = [
        await auth.bare.post("/api/v1/auth/totp/confirm", json={"code": "000000"}, headers=session.header)
        for _ in range(6)
    ]
    assert [answer.status_code for answer in answers] == [422] * 5 + [429]
    records = await auth.records("totp.confirm")
    assert [record["outcome"] for record in records[-5:]] == ["denied"] * 5
