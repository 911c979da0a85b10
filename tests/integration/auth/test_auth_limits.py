"""No key acts on what has more rights than itself, whatever the verb."""

from typing import Any, Final

import httpx
import pytest
from esp_auth.api_keys import NewKey
from esp_auth.changes import Actor

TESTER: Final = Actor("tester", "service")
MANAGER: Final = ("users:read", "users:write", "api-keys:read", "api-keys:write")
BODIES: Final[dict[str, Any]] = {
    "PATCH /api/v1/users/{id}": {"disabled": True},
    "POST /api/v1/users/{id}/password": {"password": "nine pumps below the ice"},
}


async def new_key(auth: Any, *scopes: str, gateway_id: str | None = None) -> Any:
    return await auth.identity.api_keys.create(NewKey("a key", scopes, gateway_id), TESTER)


async def verbs(auth: Any, path: str) -> list[tuple[str, str]]:
    """Return method and path of every operation that changes one thing under `path`, as documented."""
    document = (await auth.client.get("/openapi.json")).json()
    return [
        (method.upper(), each)
        for each, operations in document["paths"].items()
        for method in operations
        if each.startswith(f"{path}/{{id}}") and method != "get"
    ]


async def act(auth: Any, key: str, verb: tuple[str, str], subject: str) -> httpx.Response:
    method, path = verb
    body = BODIES.get(f"{method} {path}")
    return await auth.bare.request(
        method, path.replace("{id}", subject), json=body, headers={"X-API-Key": key}
    )


@pytest.mark.parametrize("roles", [["admin"], ["engineer"], ["viewer"], ["viewer", "auditor"]], ids=str)
async def test_a_key_does_nothing_to_a_user_with_more_rights(auth: Any, roles: list[str]) -> None:
    user = await auth.user(*roles)
    session = await auth.log_in(user)
    key = (await new_key(auth, *MANAGER)).key
    found = await verbs(auth, "/api/v1/users")
    assert len(found) >= 5
    before = await auth.rows("SELECT * FROM auth.users WHERE user_id = $1", user.user_id)
    for verb in found:
        answer = await act(auth, key, verb, str(user.user_id))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (verb, answer.text)
    assert await auth.rows("SELECT * FROM auth.users WHERE user_id = $1", user.user_id) == before
    assert await auth.me(session) == 200


async def test_it_does_everything_to_a_user_with_no_more_rights(auth: Any) -> None:
    key = (await new_key(auth, *MANAGER)).key
    for verb in await verbs(auth, "/api/v1/users"):
        user = await auth.user()
        answer = await act(auth, key, verb, str(user.user_id))
        assert answer.is_success, (verb, answer.text)


async def test_a_key_gives_no_user_more_rights_than_it_has(auth: Any) -> None:
    headers = {"X-API-Key": (await new_key(auth, *MANAGER)).key}
    body = {"username": "mallory", "password": "nine pumps below the ice", "roles": ["viewer"]}
    assert (await auth.bare.post("/api/v1/users", json=body, headers=headers)).status_code == 403
    user = await auth.user()
    answer = await auth.bare.patch(
        f"/api/v1/users/{user.user_id}", json={"roles": ["admin"]}, headers=headers
    )
    assert answer.status_code == 403
    assert (await auth.identity.users.get(user.user_id)).roles == []


async def test_a_key_does_nothing_to_a_key_with_more_rights(auth: Any) -> None:
    weak = (await new_key(auth, *MANAGER)).key
    strong = await new_key(auth, *MANAGER, "backups:write")
    found = await verbs(auth, "/api/v1/api-keys")
    assert len(found) >= 2
    for verb in found:
        answer = await act(auth, weak, verb, strong.record.key_id)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (verb, answer.text)
    assert (await auth.bare.get("/api/v1/auth/me", headers={"X-API-Key": strong.key})).status_code == 200


async def test_it_does_everything_to_a_key_with_no_more_rights(auth: Any) -> None:
    weak = (await new_key(auth, *MANAGER)).key
    for verb in await verbs(auth, "/api/v1/api-keys"):
        other = await new_key(auth, "users:read")
        answer = await act(auth, weak, verb, other.record.key_id)
        assert answer.is_success, (verb, answer.text)


async def test_a_key_of_one_gateway_does_nothing_to_those_of_others(auth: Any) -> None:
    key = (await new_key(auth, *MANAGER, "telemetry:write", gateway_id="gw-own")).key
    own = await new_key(auth, "telemetry:write", gateway_id="gw-own")
    for gateway_id in ("gw-other", None):
        other = await new_key(auth, "telemetry:write", gateway_id=gateway_id)
        for verb in await verbs(auth, "/api/v1/api-keys"):
            answer = await act(auth, key, verb, other.record.key_id)
            assert answer.status_code == 403, (verb, answer.text)
            assert "for gateway gw-own only" in answer.json()["detail"]
    assert (await act(auth, key, ("POST", "/api/v1/api-keys/{id}/revoke"), own.record.key_id)).is_success


async def test_an_administrator_acts_on_keys_with_rights_of_others(auth: Any) -> None:
    admin = await auth.log_in(await auth.user("admin"))
    gateways = await new_key(auth, "telemetry:write", gateway_id="gw-own")
    answer = await auth.bare.post(f"/api/v1/api-keys/{gateways.record.key_id}/revoke", headers=admin.header)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("gateway_id", ["api", "ingest", "admin", "session-keeper", "guest"])
async def test_no_key_has_a_reserved_name_for_its_gateway(auth: Any, gateway_id: str) -> None:
    body = {"name": "a key", "scopes": ["telemetry:write"], "gateway_id": gateway_id}
    answer = await auth.client.post("/api/v1/api-keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert "reserved name" in answer.json()["detail"]


async def test_no_key_is_bound_to_a_gateway_that_does_not_exist(auth: Any) -> None:
    body = {"name": "a key", "scopes": ["telemetry:write"], "gateway_id": "unheard-of"}
    answer = await auth.client.post("/api/v1/api-keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert answer.json()["detail"] == "there is no gateway unheard-of"
    assert "PUT /api/v1/gateways/unheard-of" in answer.json()["fix"]
    assert (await auth.client.post("/api/v1/api-keys", json=body | {"gateway_id": "gw-heard-of"})).is_success
