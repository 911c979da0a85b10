"""API keys over HTTP: made, used, rotated, revoked, expired."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from esp_common.auth import key_digest, key_id_of

ME = "/api/v1/auth/me"


async def _make(auth: Any, **fields: Any) -> dict[str, Any]:
    body = {"name": "a machine", "scopes": ["assets:read"], **fields}
    response = await auth.client.post("/api/v1/api-keys", json=body)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def _works(auth: Any, key: str) -> bool:
    auth_status = (await auth.bare.get(ME, headers={"X-API-Key": key})).status_code
    assert auth_status in (200, 401)
    return bool(auth_status == 200)


async def test_a_key_works_and_is_shown_once(auth: Any) -> None:
    made = await _make(auth, scopes=["telemetry:write", "assets:read"], gateway_id="gw-17")
    assert key_id_of(made["key"]) == made["id"]
    me = (await auth.bare.get(ME, headers={"Authorization": f"Bearer {made['key']}"})).json()
    assert me == {
        "id": made["id"],
        "kind": "key",
        "name": "a machine",
        "scopes": ["assets:read", "telemetry:write"],
        "gateway_id": "gw-17",
        "must": [],
    }
    shown = (await auth.client.get(f"/api/v1/api-keys/{made['id']}")).json()
    listed = (await auth.client.get("/api/v1/api-keys", params={"gateway_id": "gw-17"})).json()["items"]
    assert "key" not in shown
    assert [key["id"] for key in listed] == [made["id"]]


async def test_the_key_is_stored_nowhere(auth: Any) -> None:
    made = await _make(auth)
    secret = made["key"].rsplit("_", 1)[1]
    for table in ("api_keys", "outbox"):
        for row in await auth.rows(f"SELECT * FROM auth.{table}"):
            text = str(dict(row))
            assert secret not in text
            assert key_digest(made["key"]) not in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"name": ""},
        {"name": "nul\0"},
        {"gateway_id": "a b"},
        {"gateway_id": "gw-1"},
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01T00:00:00"},
        {"expires_at": "9999-12-31T23:59:59-12:00"},
        {"more": 1},
    ],
    ids=["none", "scope", "name", "nul", "gateway", "unscoped", "over", "zoneless", "far", "more"],
)
async def test_a_key_that_cannot_be_is_refused(wrong: dict[str, Any], auth: Any) -> None:
    body = {"name": "a machine", "scopes": ["assets:read"], **wrong}
    assert (await auth.client.post("/api/v1/api-keys", json=body)).status_code == 422


async def test_a_revoked_key_is_refused_at_once(auth: Any) -> None:
    made = await _make(auth)
    assert await _works(auth, made["key"])
    for _ in range(2):
        revoked = await auth.client.post(f"/api/v1/api-keys/{made['id']}/revoke")
        assert revoked.status_code == 200
        assert revoked.json()["revoked_at"]
    assert not await _works(auth, made["key"])
    assert await auth.identity.api_keys.verify(key_digest(made["key"])) is None
    assert {"key_id": made["id"]} in await auth.events("auth.key-revoked")
    assert len([r for r in await auth.records("api-key.revoke") if made["id"] in str(r)]) == 1


async def test_a_rotated_keys_old_secret_stays_good_for_the_overlap(auth: Any) -> None:
    made = await _make(auth)
    rotated = (await auth.client.post(f"/api/v1/api-keys/{made['id']}/rotate")).json()
    assert rotated["id"] == made["id"]
    assert rotated["key"] != made["key"]
    left = datetime.fromisoformat(rotated["previous_expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    verify = auth.identity.api_keys.verify
    assert await verify(key_digest(made["key"])) == await verify(key_digest(rotated["key"]))
    await auth.rows("UPDATE auth.api_keys SET previous_expires_at = now() WHERE key_id = $1", made["id"])
    assert await verify(key_digest(made["key"])) is None
    assert await verify(key_digest(rotated["key"]))


async def test_a_rotation_without_overlap_ends_the_old_secret_at_once(auth: Any) -> None:
    made = await _make(auth)
    place = f"/api/v1/api-keys/{made['id']}/rotate"
    rotated = (await auth.client.post(place, json={"overlap_s": 0})).json()
    assert await auth.identity.api_keys.verify(key_digest(made["key"])) is None
    assert await _works(auth, rotated["key"])
    assert {"key_id": made["id"]} in await auth.events("auth.key-revoked")


async def test_a_second_rotation_ends_the_first_secret(auth: Any) -> None:
    first = await _make(auth)
    place = f"/api/v1/api-keys/{first['id']}/rotate"
    second, third = [(await auth.client.post(place)).json() for _ in range(2)]
    verify = auth.identity.api_keys.verify
    assert await verify(key_digest(first["key"])) is None
    assert await verify(key_digest(second["key"]))
    assert await verify(key_digest(third["key"]))


async def test_a_key_expires(auth: Any) -> None:
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    made = await _make(auth, expires_at=soon)
    assert await auth.identity.api_keys.verify(key_digest(made["key"]))
    await auth.rows("UPDATE auth.api_keys SET expires_at = now() WHERE key_id = $1", made["id"])
    assert await auth.identity.api_keys.verify(key_digest(made["key"])) is None
    assert (await auth.client.post(f"/api/v1/api-keys/{made['id']}/rotate")).status_code == 409


async def test_use_is_noted_at_most_once_a_minute(auth: Any) -> None:
    made = await _make(auth)
    api_keys = auth.identity.api_keys

    async def used() -> Any:
        await api_keys.verify(key_digest(made["key"]))
        await api_keys.close()
        ((at,),) = await auth.rows("SELECT last_used_at FROM auth.api_keys WHERE key_id = $1", made["id"])
        return at

    first = await used()
    assert first is not None
    assert await used() == first
    await auth.rows(
        "UPDATE auth.api_keys SET last_used_at = last_used_at - interval '2 minutes' WHERE key_id = $1",
        made["id"],
    )
    assert await used() > first


@pytest.mark.parametrize("act", ["rotate", "revoke"])
async def test_no_key_is_not_found(act: str, auth: Any) -> None:
    assert (await auth.client.post(f"/api/v1/api-keys/no-such-key/{act}")).status_code == 404
    assert (await auth.client.get("/api/v1/api-keys/no-such-key")).status_code == 404


async def test_pages_hold_every_key_once(auth: Any) -> None:
    for _ in range(3):
        await _make(auth)
    found: list[str] = []
    cursor = None
    while True:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await auth.client.get("/api/v1/api-keys", params=query)).json()
        found += [key["id"] for key in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == sorted(set(found))
    assert "everything" in found
