"""Attacks that once worked on the auth service, or might have, as its callers can make them."""

from typing import Any

import pytest
from esp_auth.api_keys import NewKey
from esp_auth.changes import Actor
from esp_common.auth import PERMISSIONS, scopes_of
from esp_common.errors import Unauthenticated
from esp_common.messaging import Requester
from esp_common.redis import connect_redis
from esp_common.revocations import REDIS_KEY
from esp_common.tokens import Verifier

TESTER = Actor("tester", "service")


async def key_with(auth: Any, *scopes: str) -> dict[str, str]:
    """Return the header of a new key with these scopes."""
    issued = await auth.identity.api_keys.create(NewKey("attacker", scopes), TESTER)
    return {"X-API-Key": issued.key}


# --- a key that hands on more than it has -----------------------------------------------------------------


async def test_a_key_makes_no_key_that_may_do_more_than_itself(auth: Any) -> None:
    key = await key_with(auth, "api-keys:write", "telemetry:read")
    more = {"name": "more", "scopes": ["telemetry:read", "users:write"]}
    same = {"name": "same", "scopes": ["telemetry:read"]}
    refused = await auth.bare.post("/api/v1/api-keys", json=more, headers=key)
    made = await auth.bare.post("/api/v1/api-keys", json=same, headers=key)
    assert (refused.status_code, made.status_code) == (403, 201)
    assert "users:write" in refused.json()["detail"]


async def test_a_key_takes_over_no_key_that_may_do_more_by_rotating_it(auth: Any) -> None:
    strong = await auth.identity.api_keys.create(NewKey("strong", PERMISSIONS), TESTER)
    weak = await auth.identity.api_keys.create(NewKey("weak", ["telemetry:write"], "gw-77"), TESTER)
    key = await key_with(auth, "api-keys:write", "telemetry:write")
    answers = [
        await auth.bare.post(f"/api/v1/api-keys/{issued.record.key_id}/rotate", headers=key)
        for issued in (strong, weak)
    ]
    assert [answer.status_code for answer in answers] == [403, 200]
    still = await auth.bare.get("/api/v1/auth/me", headers={"X-API-Key": strong.key})
    assert still.status_code == 200


@pytest.mark.parametrize("role", ["admin", "engineer", "auditor"])
async def test_a_key_makes_nobody_more_than_itself(auth: Any, role: str) -> None:
    key = await key_with(auth, "users:write", *scopes_of(["viewer"]))
    person = {"username": f"made-{role}", "password": "a long way down the well", "roles": [role]}
    made = await auth.bare.post("/api/v1/users", json=person, headers=key)
    viewer = await auth.user("viewer")
    raised = await auth.bare.patch(f"/api/v1/users/{viewer.user_id}", json={"roles": [role]}, headers=key)
    lowered = await auth.bare.patch(f"/api/v1/users/{viewer.user_id}", json={"roles": []}, headers=key)
    assert [made.status_code, raised.status_code, lowered.status_code] == [403, 403, 200]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/password", {"password": "known to the attacker"}),
        ("PATCH", "", {"totp_enabled": False}),
        ("PATCH", "", {"disabled": False}),
    ],
    ids=["password", "second factor", "enabled"],
)
async def test_a_key_takes_over_nobody_who_may_do_more(
    auth: Any, method: str, path: str, body: dict[str, Any]
) -> None:
    key = await key_with(auth, "users:write")
    admin = await auth.user("admin")
    answer = await auth.bare.request(method, f"/api/v1/users/{admin.user_id}{path}", json=body, headers=key)
    assert answer.status_code == 403
    await auth.log_in(admin)


async def test_an_administrator_gives_keys_and_roles_what_administrators_lack(auth: Any) -> None:
    session = await auth.log_in(await auth.user("admin"))
    gateway = {"name": "gw", "scopes": ["telemetry:write"], "gateway_id": "gw-78"}
    made = await auth.bare.post("/api/v1/api-keys", json=gateway, headers=session.header)
    person = {"username": "an-engineer", "password": "a long way down the well", "roles": ["engineer"]}
    added = await auth.bare.post("/api/v1/users", json=person, headers=session.header)
    assert (made.status_code, added.status_code) == (201, 201)


# --- a copy of the revocations that is not auth's ---------------------------------------------------------


@pytest.mark.parametrize("forged", [b"{}", b'{"keys":[]}', b'{"version":"1"}', b"[]", b"null", b""])
async def test_a_copy_that_is_not_auths_hides_no_revocation(
    forged: bytes, auth_with_worker: Any, redis_url: str
) -> None:
    rig = auth_with_worker
    session = await rig.log_in(await rig.user("viewer"))
    await rig.bare.post("/api/v1/auth/logout", headers=session.header)
    async with Requester(rig.vhost.url_for("ingest")) as requester:
        verifier = Verifier(requester, redis_url=redis_url)
        redis = connect_redis(redis_url)
        await redis.set(REDIS_KEY, forged)
        with pytest.raises(Unauthenticated):
            await verifier.verify(session.tokens["access_token"])
        await redis.aclose()


# --- tokens that outlive what they were given for ---------------------------------------------------------


async def test_logging_out_refuses_a_token_whose_session_was_over_by_then(auth: Any) -> None:
    session = await auth.log_in(await auth.user("viewer"))
    await auth.rows(
        "UPDATE auth.sessions SET expires_at = now() - interval '1 minute' WHERE session_id = $1::text::uuid",
        session.claims["sid"],
    )
    answer = await auth.bare.post("/api/v1/auth/logout", headers=session.header)
    assert answer.status_code == 204
    assert await auth.me(session) == 401


async def test_another_password_refuses_tokens_of_sessions_that_are_over(auth: Any) -> None:
    user = await auth.user("viewer")
    stolen, own = await auth.log_in(user), await auth.log_in(user)
    await auth.rows(
        "UPDATE auth.sessions SET expires_at = now() - interval '1 minute' WHERE session_id = $1::text::uuid",
        stolen.claims["sid"],
    )
    change = {"current": "seven wells under the rain", "new": "nine pumps below the ice"}
    changed = await auth.bare.post("/api/v1/auth/password", json=change, headers=own.header)
    assert changed.status_code == 204
    assert await auth.me(stolen) == 401
    assert await auth.me(own) == 200
