"""Users and second factors over HTTP."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest
from esp_auth.changes import Actor
from esp_auth.domain import totp
from esp_auth.identity import Identity

PASSWORD = "seven wells under the rain"
OTHER = "nine pumps below the ice"


async def _users(auth: Any) -> list[dict[str, Any]]:
    """Return every user, by pages of two."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await auth.client.get("/api/v1/users", params=query)).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


# --- administrators ---------------------------------------------------------------------------------------


async def test_a_user_is_created_listed_changed_and_deleted(auth: Any) -> None:
    body = {"username": "Rosa.Prada", "password": PASSWORD, "roles": ["engineer"]}
    response = await auth.client.post("/api/v1/users", json=body)
    assert response.status_code == 201, response.text
    user = response.json()
    assert (user["username"], user["roles"], user["must_change_password"]) == (
        "rosa.prada",
        ["engineer"],
        True,
    )
    place = response.headers["Location"]
    assert (await auth.client.get(place)).json() == user
    assert user in await _users(auth)
    changed = (await auth.client.patch(place, json={"roles": ["viewer", "auditor"]})).json()
    assert changed["roles"] == ["auditor", "viewer"]
    assert (await auth.client.delete(place)).status_code == 204
    assert (await auth.client.get(place)).status_code == 404
    assert (await auth.try_log_in("rosa.prada", PASSWORD)).status_code == 401


async def test_pages_hold_every_user_once_by_name(auth: Any) -> None:
    for _ in range(3):
        await auth.user("viewer")
    names = [user["username"] for user in await _users(auth)]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"username": "taken.name"}, 409),
        ({"username": "TAKEN.name"}, 409),
        ({"username": "a b"}, 422),
        ({"password": "short"}, 422),
        ({"password": "password12345"}, 422),
        ({"password": "\0" * 12}, 422),
        ({"roles": ["root"]}, 422),
        ({"roles": None}, 422),
        ({"more": 1}, 422),
    ],
    ids=["taken", "case", "space", "short", "common", "nul", "role", "none", "more"],
)
async def test_a_user_who_cannot_be_is_refused(change: dict[str, Any], status: int, auth: Any) -> None:
    body = {"username": "taken.name", "password": PASSWORD, "roles": []}
    await auth.client.post("/api/v1/users", json=body)
    body = {"username": "new.name", "password": PASSWORD, "roles": [], **change}
    response = await auth.client.post("/api/v1/users", json=body)
    assert response.status_code == status
    assert str(body["password"]) not in response.text


async def test_two_who_take_a_name_at_the_same_time_do_not_both_get_it(auth: Any) -> None:
    body = {"username": "wanted.by.all", "password": PASSWORD, "roles": []}
    answers = await asyncio.gather(*(auth.client.post("/api/v1/users", json=body) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_nobody_is_not_found(method: str, auth: Any) -> None:
    body = {"json": {"disabled": True}} if method == "PATCH" else {}
    assert (await auth.client.request(method, f"/api/v1/users/{uuid4()}", **body)).status_code == 404


async def test_a_disabled_user_is_out_at_once_and_may_come_back(auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    place = f"/api/v1/users/{user.user_id}"
    assert (await auth.client.patch(place, json={"disabled": True})).json()["disabled"] is True
    assert await auth.me(session) == 401
    assert (await auth.refresh(session.refresh_token)).status_code == 401
    await auth.client.patch(place, json={"disabled": False})
    await auth.log_in(user)
    assert await auth.me(session) == 401, "what was revoked stays so"


async def test_a_deleted_users_tokens_are_refused(auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    await auth.client.delete(f"/api/v1/users/{user.user_id}")
    assert await auth.me(session) == 401
    assert (await auth.refresh(session.refresh_token)).status_code == 401


async def test_a_reset_password_must_be_changed_and_ends_every_session(auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    place = f"/api/v1/users/{user.user_id}/password"
    assert (await auth.client.post(place, json={"password": OTHER})).status_code == 204
    assert await auth.me(session) == 401
    answer = await auth.try_log_in(user.username, OTHER)
    assert answer.json()["must"] == ["password"]


async def _admins(auth: Any) -> set[str]:
    return {u["id"] for u in await _users(auth) if "admin" in u["roles"] and not u["disabled"]}


@pytest.fixture
async def two_admins(auth: Any) -> list[str]:
    """The only administrators there are."""
    ours = [str((await auth.user("admin")).user_id) for _ in range(2)]
    for other in await _admins(auth) - set(ours):
        assert (await auth.client.delete(f"/api/v1/users/{other}")).status_code == 204
    return ours


REMOVALS: dict[str, dict[str, Any]] = {
    "delete": {"method": "DELETE"},
    "disable": {"method": "PATCH", "json": {"disabled": True}},
    "demote": {"method": "PATCH", "json": {"roles": ["viewer"]}},
}


@pytest.mark.parametrize("how", list(REMOVALS))
async def test_the_last_administrator_stays(how: str, auth: Any, two_admins: list[str]) -> None:
    first, last = (f"/api/v1/users/{id_}" for id_ in two_admins)
    assert (await auth.client.request(url=first, **REMOVALS[how])).is_success
    refused = await auth.client.request(url=last, **REMOVALS[how])
    assert refused.status_code == 409
    assert len(await _admins(auth)) == 1


@pytest.mark.parametrize("how", list(REMOVALS))
async def test_of_two_administrators_removed_at_the_same_time_one_stays(
    how: str, auth: Any, two_admins: list[str]
) -> None:
    requests = [auth.client.request(url=f"/api/v1/users/{id_}", **REMOVALS[how]) for id_ in two_admins]
    answers: list[httpx.Response] = await asyncio.gather(*requests)
    assert sorted(answer.is_success for answer in answers) == [False, True]
    assert len(await _admins(auth)) == 1


async def test_who_may_not_manage_users_is_refused(auth: Any) -> None:
    session = await auth.log_in(await auth.user("engineer", "operator", "viewer", "auditor"))
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("DELETE", f"/{uuid4()}"),
        ("POST", f"/{uuid4()}/revoke"),
    ):
        response = await auth.bare.request(method, f"/api/v1/users{path}", headers=session.header)
        assert response.status_code == 403


async def test_every_change_has_a_record_and_an_event(auth: Any) -> None:
    user = await auth.user("viewer")
    await auth.client.patch(f"/api/v1/users/{user.user_id}", json={"roles": ["operator"]})
    records = [r for r in await auth.records("user.update") if str(user.user_id) in str(r)]
    assert len(records) == 1
    assert "everything" in str(records[0]), "the key that did it"
    assert {"user_id": str(user.user_id)} in await auth.events("auth.user-changed")


# --- the second factor ------------------------------------------------------------------------------------


PROOF = {"password": PASSWORD}


async def _enrol(auth: Any, session: Any) -> str:
    """Enrol and confirm a second factor with the code of the step before; return its secret."""
    enrolled = await auth.bare.post("/api/v1/auth/totp", json=PROOF, headers=session.header)
    assert enrolled.status_code == 201
    secret: str = enrolled.json()["secret"]
    assert f"secret={secret}" in enrolled.json()["otpauth_uri"]
    body = {"code": totp.code_at(secret, int(time.time() // 30) - 1)}
    confirmed = await auth.bare.post("/api/v1/auth/totp/confirm", json=body, headers=session.header)
    assert confirmed.status_code == 204
    return secret


def _now(secret: str) -> str:
    return totp.code_at(secret, int(time.time() // 30))


async def test_a_login_with_a_second_factor_needs_its_code(auth: Any) -> None:
    user = await auth.user("viewer")
    secret = await _enrol(auth, await auth.log_in(user))
    without = await auth.try_log_in(user.username, PASSWORD)
    assert (without.status_code, without.json()["code"]) == (401, "totp-required")
    wrong = await auth.try_log_in(user.username, PASSWORD, totp="000000")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "unauthenticated")
    assert (await auth.try_log_in(user.username, OTHER)).json()["code"] == "unauthenticated"
    await auth.log_in(user, totp=_now(secret))


async def test_a_code_is_good_once_even_for_two_at_the_same_time(auth: Any) -> None:
    user = await auth.user("viewer")
    secret = await _enrol(auth, await auth.log_in(user))
    code = _now(secret)
    tries = [auth.try_log_in(user.username, PASSWORD, totp=code) for _ in range(4)]
    answers = await asyncio.gather(*tries)
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
    assert (await auth.try_log_in(user.username, PASSWORD, totp=code)).status_code in (401, 429)


async def test_the_code_that_confirmed_does_not_log_in(auth: Any) -> None:
    user = await auth.user("viewer")
    secret = await _enrol(auth, await auth.log_in(user))
    before = totp.code_at(secret, int(time.time() // 30) - 1)
    assert (await auth.try_log_in(user.username, PASSWORD, totp=before)).status_code == 401


async def test_guessing_codes_locks_the_account(auth: Any) -> None:
    user = await auth.user("viewer")
    await _enrol(auth, await auth.log_in(user))
    answers = [await auth.try_log_in(user.username, PASSWORD, totp="000000") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]


async def test_codes_guessed_at_the_same_time_are_counted_one_by_one(auth: Any) -> None:
    user = await auth.user("viewer")
    await _enrol(auth, await auth.log_in(user))
    tries = [auth.try_log_in(user.username, PASSWORD, totp="000000") for _ in range(20)]
    statuses = [answer.status_code for answer in await asyncio.gather(*tries)]
    assert statuses.count(401) == auth.settings.lockout_account_failures
    assert statuses.count(429) == 20 - auth.settings.lockout_account_failures


async def test_an_unconfirmed_second_factor_is_not_asked_for(auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    await auth.bare.post("/api/v1/auth/totp", json=PROOF, headers=session.header)
    wrong = {"code": "000000"}
    answer = await auth.bare.post("/api/v1/auth/totp/confirm", json=wrong, headers=session.header)
    assert answer.status_code == 422
    await auth.log_in(user)


async def test_a_second_factor_in_use_is_not_replaced(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    await _enrol(auth, session)
    assert (await auth.bare.post("/api/v1/auth/totp", json=PROOF, headers=session.header)).status_code == 409


async def test_a_stolen_token_enrols_no_second_factor(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    for body, status in (({"password": OTHER}, 401), ({}, 422)):
        answer = await auth.bare.post("/api/v1/auth/totp", json=body, headers=session.header)
        assert answer.status_code == status


async def test_a_second_factor_is_removed_with_the_password(auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    await _enrol(auth, session)
    delete = {"method": "DELETE", "url": "/api/v1/auth/totp", "headers": session.header}
    assert (await auth.bare.request(**delete, json={"password": OTHER})).status_code == 401
    assert (await auth.bare.request(**delete, json={"password": PASSWORD})).status_code == 204
    assert (await auth.bare.request(**delete, json={"password": PASSWORD})).status_code == 409
    await auth.log_in(user)


async def test_an_administrator_takes_a_lost_second_factor_away(auth: Any) -> None:
    user = await auth.user("viewer")
    await _enrol(auth, await auth.log_in(user))
    place = f"/api/v1/users/{user.user_id}"
    assert (await auth.client.get(place)).json()["totp_enabled"] is True
    answer = await auth.client.patch(place, json={"totp_enabled": False})
    assert answer.json()["totp_enabled"] is False
    await auth.log_in(user)


async def test_its_secret_is_sealed_in_the_database(auth: Any) -> None:
    user = await auth.user("viewer")
    secret = await _enrol(auth, await auth.log_in(user))
    ((stored,),) = await auth.rows("SELECT totp_secret FROM auth.users WHERE user_id = $1", user.user_id)
    assert secret.encode() not in stored
    bodies = [row["body"] for row in await auth.rows("SELECT body FROM auth.outbox")]
    assert not any(secret.encode() in body for body in bodies)


async def test_an_administrator_has_to_enrol_one_where_the_setting_says_so(auth: Any) -> None:
    settings = auth.settings.model_copy(update={"totp_required_for_admin": True})
    strict = Identity(auth.pool, settings)
    admin, viewer = await auth.user("admin"), await auth.user("viewer")
    nobody = Actor(None, "anonymous")
    assert list((await strict.logins.log_in(viewer.username, PASSWORD, None, nobody)).must) == []
    grant = await strict.logins.log_in(admin.username, PASSWORD, None, nobody)
    header = {"Authorization": f"Bearer {grant.access_token}"}
    assert list(grant.must) == ["totp"]
    assert (await auth.bare.get("/api/v1/users", headers=header)).status_code == 403
    secret = (await auth.bare.post("/api/v1/auth/totp", json=PROOF, headers=header)).json()["secret"]
    body = {"code": _now(secret)}
    assert (await auth.bare.post("/api/v1/auth/totp/confirm", json=body, headers=header)).status_code == 204
    assert list((await strict.sessions.refresh(grant.refresh_token, nobody)).must) == []
