"""Logging in and out, refreshing, and changing one's password, over HTTP."""

import asyncio
import statistics
import time
from typing import Any

import httpx
import pytest
from esp_auth.changes import Actor
from esp_auth.domain.passwords import Cost, Passwords

PASSWORD = "seven wells under the rain"
OTHER = "nine pumps below the ice"
NOBODY = Actor(None, "anonymous")


async def test_a_login_gives_tokens_that_work(auth: Any) -> None:
    user = await auth.user("engineer", "viewer")
    session = await auth.log_in(user)
    assert session.tokens["token_type"] == "Bearer"
    assert session.tokens["expires_in"] == 3600
    assert session.tokens["must"] == []
    me = (await auth.bare.get("/api/v1/auth/me", headers=session.header)).json()
    assert me["id"] == str(user.user_id)
    assert me["name"] == user.username
    assert {"assets:write", "telemetry:read"} <= set(me["scopes"])
    claims = session.claims
    assert claims["exp"] == int(claims["iat"]) + 3600
    assert claims["roles"] == ["engineer", "viewer"]


async def test_names_are_the_same_in_any_case(auth: Any) -> None:
    user = await auth.user("viewer")
    assert (await auth.try_log_in(user.username.upper(), PASSWORD)).status_code == 200


@pytest.mark.parametrize("username", ["nobody", "", "x" * 2000, "nul\0", "Ünicode", "a b", "' OR 1=1"])
async def test_no_name_is_answered_with_more_than_a_refusal(username: str, auth: Any) -> None:
    assert (await auth.try_log_in(username, PASSWORD)).status_code in (401, 422)


async def test_a_wrong_name_a_wrong_password_and_a_disabled_user_are_answered_alike(auth: Any) -> None:
    user, disabled = await auth.user("viewer"), await auth.user("viewer")
    await auth.client.patch(f"/api/v1/users/{disabled.user_id}", json={"disabled": True})
    answers = [
        await auth.try_log_in(user.username, OTHER),
        await auth.try_log_in("nobody-has-this-name", OTHER),
        await auth.try_log_in(disabled.username, PASSWORD),
    ]
    assert {answer.status_code for answer in answers} == {401}
    told = [{k: v for k, v in answer.json().items() if k != "error_id"} for answer in answers]
    assert told[0] == told[1] == told[2]


async def test_a_name_nobody_has_takes_as_long_as_one_that_exists(auth: Any) -> None:
    user = await auth.user("viewer")
    slow = Passwords(Cost(16 * 1024, 4, 1))
    hashing = auth.identity.hashing
    passwords, hashing._passwords = hashing._passwords, slow
    try:
        await auth.identity.users.reset_password(user.user_id, PASSWORD, NOBODY)
        took: dict[str, list[float]] = {user.username: [], "nobody-has-this": []}
        for _ in range(5):
            for name, times in took.items():
                started = time.perf_counter()
                with pytest.raises(Exception, match=r"wrong|too many"):
                    await auth.identity.logins.log_in(name, OTHER, None, NOBODY)
                times.append(time.perf_counter() - started)
                await auth.rows("DELETE FROM auth.login_attempts")
        known, unknown = (statistics.median(times) for times in took.values())
        assert 0.5 < known / unknown < 2
    finally:
        hashing._passwords = passwords


async def test_what_was_typed_as_a_name_is_stored_nowhere(auth: Any) -> None:
    await auth.try_log_in("my-secret-password", OTHER)
    dump = [
        str(dict(row))
        for table in ("login_attempts", "known_addresses", "outbox")
        for row in await auth.rows(f"SELECT * FROM auth.{table}")
    ]
    assert not any("my-secret-password" in text or OTHER in text for text in dump)


async def test_logins_are_recorded_with_who_and_from_where(auth: Any) -> None:
    user = await auth.user("viewer")
    await auth.try_log_in(user.username, OTHER, address="198.51.100.7")
    await auth.try_log_in(user.username, PASSWORD, address="198.51.100.7")
    refused, opened = [
        [r for r in await auth.records(action) if r["object"] == str(user.user_id)]
        for action in ("session.refuse", "session.open")
    ]
    (record,) = refused
    assert (record["actor_id"], record["actor_kind"], record["outcome"]) == (None, "anonymous", "denied")
    assert record["source_address"] == "198.51.100.7"
    (record,) = opened
    assert (record["actor_id"], record["actor_kind"]) == (str(user.user_id), "user")
    assert record["outcome"] == "success"
    assert record["trace_id"]


# --- hashes -----------------------------------------------------------------------------------------------


async def test_a_login_brings_a_hash_of_another_cost_up_to_date(auth: Any) -> None:
    user = await auth.user("viewer")
    old = Passwords(Cost(32, 2, 1)).hash(PASSWORD)
    await auth.rows("UPDATE auth.users SET password_hash = $1 WHERE user_id = $2", old, user.user_id)
    await auth.log_in(user)
    ((stored,),) = await auth.rows("SELECT password_hash FROM auth.users WHERE user_id = $1", user.user_id)
    assert "m=64,t=1" in stored
    await auth.log_in(user)


# --- refresh ----------------------------------------------------------------------------------------------


async def test_a_refresh_gives_new_tokens_and_spends_the_old_one(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    first = await auth.refresh(session.refresh_token)
    assert first.status_code == 200
    second = await auth.refresh(first.json()["refresh_token"])
    assert second.status_code == 200


async def test_reuse_of_a_refresh_token_ends_the_session_for_everybody(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    following = (await auth.refresh(session.refresh_token)).json()
    assert (await auth.refresh(session.refresh_token)).status_code == 401
    assert (await auth.refresh(following["refresh_token"])).status_code == 401
    assert await auth.me(session) == 401
    assert any(
        session.claims["sid"] in event.get("sessions", {}) for event in await auth.events("auth.revoked")
    )


async def test_of_refreshes_of_one_token_at_the_same_time_one_wins_at_most(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    answers = await asyncio.gather(*(auth.refresh(session.refresh_token) for _ in range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] + [401] * 7
    (winner,) = [answer for answer in answers if answer.status_code == 200]
    assert (await auth.refresh(winner.json()["refresh_token"])).status_code == 401, "the family is revoked"


@pytest.mark.parametrize("token", ["x", "esp_refresh_", "esp_refresh_" + "a" * 43, "\ud7ff", "é" * 500])
async def test_no_other_text_refreshes(token: str, auth: Any) -> None:
    assert (await auth.refresh(token)).status_code == 401


async def test_an_unused_refresh_token_expires(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    await auth.rows("UPDATE auth.refresh_tokens SET expires_at = clock_timestamp()")
    assert (await auth.refresh(session.refresh_token)).status_code == 401


async def test_a_session_ends_however_often_it_is_refreshed(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    following = (await auth.refresh(session.refresh_token)).json()
    await auth.rows("UPDATE auth.sessions SET expires_at = clock_timestamp()")
    assert (await auth.refresh(following["refresh_token"])).status_code == 401


async def test_a_refresh_gives_the_roles_of_now(auth: Any) -> None:
    user = await auth.user("engineer")
    session = await auth.log_in(user)
    await auth.client.patch(f"/api/v1/users/{user.user_id}", json={"roles": ["viewer"]})
    assert await auth.me(session) == 401, "its token says engineer"
    answer = await auth.refresh(session.refresh_token)
    header = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    me = (await auth.bare.get("/api/v1/auth/me", headers=header)).json()
    assert "assets:write" not in me["scopes"]


# --- logout and revocation --------------------------------------------------------------------------------


async def test_a_logout_ends_this_session_and_no_other(auth: Any) -> None:
    user = await auth.user("viewer")
    one, other = await auth.log_in(user), await auth.log_in(user)
    response = await auth.bare.post("/api/v1/auth/logout", headers=one.header)
    assert response.status_code == 204
    assert await auth.me(one) == 401
    assert (await auth.refresh(one.refresh_token)).status_code == 401
    assert await auth.me(other) == 200


async def test_a_logout_everywhere_ends_every_session(auth: Any) -> None:
    user = await auth.user("viewer")
    one, other = await auth.log_in(user), await auth.log_in(user)
    body = {"everywhere": True}
    assert (await auth.bare.post("/api/v1/auth/logout", json=body, headers=one.header)).status_code == 204
    assert [await auth.me(one), await auth.me(other)] == [401, 401]
    assert (await auth.refresh(other.refresh_token)).status_code == 401


async def test_an_administrator_revokes_every_token_of_a_user_who_may_log_in_again(auth: Any) -> None:
    user = await auth.user("viewer")
    before = await auth.log_in(user)
    assert (await auth.client.post(f"/api/v1/users/{user.user_id}/revoke")).status_code == 204
    assert await auth.me(before) == 401
    assert await auth.me(await auth.log_in(user)) == 200


# --- one's own password -----------------------------------------------------------------------------------


async def _change(auth: Any, session: Any, current: str, new: str) -> httpx.Response:
    body = {"current": current, "new": new}
    response: httpx.Response = await auth.bare.post(
        "/api/v1/auth/password", json=body, headers=session.header
    )
    return response


async def test_a_password_change_ends_the_other_sessions(auth: Any) -> None:
    user = await auth.user("viewer")
    mine, other = await auth.log_in(user), await auth.log_in(user)
    assert (await _change(auth, mine, PASSWORD, OTHER)).status_code == 204
    assert [await auth.me(mine), await auth.me(other)] == [200, 401]
    assert (await auth.refresh(other.refresh_token)).status_code == 401
    assert (await auth.refresh(mine.refresh_token)).status_code == 200
    assert (await auth.try_log_in(user.username, PASSWORD)).status_code == 401
    assert (await auth.try_log_in(user.username, OTHER)).status_code == 200


@pytest.mark.parametrize(
    ("current", "new", "status"),
    [
        (OTHER, "a fine new passphrase", 401),
        (PASSWORD, PASSWORD, 422),
        (PASSWORD, "short", 422),
        (PASSWORD, "password1234", 422),
    ],
    ids=["wrong", "same", "short", "common"],
)
async def test_a_password_is_not_changed(current: str, new: str, status: int, auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    response = await _change(auth, session, current, new)
    assert response.status_code == status
    assert new not in response.text
    await auth.log_in(user)


async def test_a_stolen_token_does_not_serve_to_guess_the_password(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    statuses = [(await _change(auth, session, OTHER, "whatever it is")).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_a_new_user_must_change_the_password_before_anything_else(auth: Any) -> None:
    user = await auth.user("admin", fresh=True)
    session = await auth.log_in(user)
    assert session.tokens["must"] == ["password"]
    assert (await auth.bare.get("/api/v1/users", headers=session.header)).status_code == 403
    assert (await auth.bare.get("/api/v1/auth/me", headers=session.header)).json()["scopes"] == []
    assert (await _change(auth, session, PASSWORD, OTHER)).status_code == 204
    renewed = (await auth.refresh(session.refresh_token)).json()
    assert renewed["must"] == []
    header = {"Authorization": f"Bearer {renewed['access_token']}"}
    assert (await auth.bare.get("/api/v1/users", headers=header)).status_code == 200


async def test_a_key_has_no_password_and_no_session(auth: Any) -> None:
    assert (await auth.client.post("/api/v1/auth/logout")).status_code == 403
    body = {"current": PASSWORD, "new": OTHER}
    assert (await auth.client.post("/api/v1/auth/password", json=body)).status_code == 403
    assert (await auth.client.get("/api/v1/auth/me")).json()["kind"] == "key"


async def test_no_token_and_no_password_is_in_the_outbox(auth: Any) -> None:
    user = await auth.user("viewer")
    session = await auth.log_in(user)
    bodies = b"".join(row["body"] for row in await auth.rows("SELECT body FROM auth.outbox"))
    for secret in (session.tokens["access_token"], session.refresh_token, PASSWORD):
        assert secret.encode() not in bodies
    stored = await auth.rows("SELECT * FROM auth.refresh_tokens")
    assert session.refresh_token not in str(stored)
