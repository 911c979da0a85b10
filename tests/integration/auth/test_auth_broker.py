"""The broker's questions over HTTP: who may connect, and what a gateway may do."""

from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest

SECRET = "the-broker-asks-here"


async def _gateway(auth: Any, gateway_id: str, *scopes: str) -> dict[str, Any]:
    body = {"name": gateway_id, "scopes": scopes or ["telemetry:write"], "gateway_id": gateway_id}
    response = await auth.client.post("/api/v1/api-keys", json=body)
    assert response.status_code == 201
    made: dict[str, Any] = response.json()
    return made


async def _ask(auth: Any, question: str, secret: str = SECRET, **form: str) -> httpx.Response:
    response: httpx.Response = await auth.bare.post(f"/broker/{secret}/{question}", data=form)
    return response


async def _allows(auth: Any, question: str, **form: str) -> bool:
    response = await _ask(auth, question, **form)
    assert response.status_code == 200
    assert response.text in ("allow", "deny")
    return response.text == "allow"


async def test_a_gateway_connects_with_its_own_valid_key_alone(auth: Any) -> None:
    one, other = await _gateway(auth, "gw-a1"), await _gateway(auth, "gw-a2")
    assert await _allows(auth, "user", username="gw-a1", password=one["key"])
    assert not await _allows(auth, "user", username="gw-a1", password=other["key"])
    assert not await _allows(auth, "user", username="gw-a1", password=one["key"][:-1] + "0")
    assert not await _allows(auth, "user", username="gw-a1", password="")
    assert not await _allows(auth, "user", username=one["id"], password=one["key"])
    assert not await _allows(auth, "user")
    await auth.client.post(f"/api/v1/api-keys/{one['id']}/revoke")
    assert not await _allows(auth, "user", username="gw-a1", password=one["key"])


async def test_a_key_that_is_no_gateways_does_not_connect(auth: Any) -> None:
    body = {"name": "a machine", "scopes": ["telemetry:write"]}
    made = (await auth.client.post("/api/v1/api-keys", json=body)).json()
    for name in (made["id"], "a machine", "", "None"):
        assert not await _allows(auth, "user", username=name, password=made["key"])


@pytest.mark.parametrize(
    ("form", "allowed"),
    [
        ({"resource": "exchange", "name": "esp.ingest", "permission": "write"}, True),
        ({"resource": "exchange", "name": "esp.ingest", "permission": "read"}, False),
        ({"resource": "exchange", "name": "esp.ingest", "permission": "configure"}, False),
        ({"resource": "exchange", "name": "esp.events", "permission": "write"}, False),
        ({"resource": "exchange", "name": "amq.topic", "permission": "write"}, False),
        ({"resource": "exchange", "name": "", "permission": "write"}, False),
        ({"resource": "queue", "name": "esp.ingest", "permission": "write"}, False),
        ({"resource": "queue", "name": "ingest.telemetry", "permission": "read"}, False),
        ({"resource": "topic", "name": "esp.ingest", "permission": "write"}, False),
        ({"resource": "exchange", "name": "esp.ingest", "permission": "write", "vhost": "other"}, False),
        ({"resource": "exchange", "name": "esp.ingest", "permission": "write", "username": "gw-?"}, False),
        ({}, False),
    ],
)
async def test_a_gateway_may_write_to_one_exchange(form: dict[str, str], allowed: bool, auth: Any) -> None:
    await _gateway(auth, "gw-b1")
    asked = {"username": "gw-b1", "vhost": "/", **form}
    assert await _allows(auth, "resource", **asked) is allowed


@pytest.mark.parametrize(
    ("form", "allowed"),
    [
        ({"routing_key": "telemetry.gw-c1"}, True),
        ({"routing_key": "telemetry.gw-c1.P-7"}, True),
        ({"routing_key": "telemetry.gw-c1x"}, False),
        ({"routing_key": "telemetry.gw-c"}, False),
        ({"routing_key": "telemetry.gw-c2"}, False),
        ({"routing_key": "telemetry.#"}, False),
        ({"routing_key": "telemetry"}, False),
        ({"routing_key": ""}, False),
        ({"routing_key": "telemetry.gw-c1", "permission": "read"}, False),
        ({"routing_key": "telemetry.gw-c1", "name": "esp.events"}, False),
        ({"routing_key": "telemetry.gw-c1", "vhost": "other"}, False),
    ],
)
async def test_a_gateway_publishes_under_its_own_id(form: dict[str, str], allowed: bool, auth: Any) -> None:
    await _gateway(auth, "gw-c1")
    asked = {
        "username": "gw-c1",
        "vhost": "/",
        "resource": "topic",
        "name": "esp.ingest",
        "permission": "write",
        **form,
    }
    assert await _allows(auth, "topic", **asked) is allowed


async def test_a_gateway_without_a_valid_key_may_nothing(auth: Any) -> None:
    made = await _gateway(auth, "gw-d1")
    entering = {"username": "gw-d1", "vhost": "/"}
    publishing = {"resource": "topic", "name": "esp.ingest", "permission": "write"}
    publishing |= {"routing_key": "telemetry.gw-d1", **entering}
    assert await _allows(auth, "vhost", **entering)
    assert await _allows(auth, "topic", **publishing)
    await auth.client.post(f"/api/v1/api-keys/{made['id']}/revoke")
    assert not await _allows(auth, "vhost", **entering)
    assert not await _allows(auth, "topic", **publishing)


@pytest.mark.parametrize("question", ["user", "vhost", "resource", "topic", "", "other"])
@pytest.mark.parametrize("secret", ["wrong", "", "-", "%00", SECRET + "x"])
async def test_without_the_secret_there_is_nothing_here(question: str, secret: str, auth: Any) -> None:
    made = await _gateway(auth, "gw-e1")
    response = await _ask(auth, question, secret, username="gw-e1", password=made["key"])
    assert response.status_code == 404
    assert (await auth.bare.post(f"/broker/{question}")).status_code == 404


async def test_the_secret_is_in_no_answer_and_no_metric(auth: Any) -> None:
    for question in ("user", "other"):
        assert SECRET not in (await _ask(auth, question)).text
    assert SECRET not in generate_latest().decode()
    assert SECRET not in str((await auth.client.get("/openapi.json")).json())


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"username=gw%00&password=x", b"=&=&", b"username=%ff"])
async def test_a_form_nobody_can_read_is_denied(body: bytes, auth: Any) -> None:
    for question in ("user", "vhost", "resource", "topic"):
        response = await auth.bare.post(f"/broker/{SECRET}/{question}", content=body)
        assert (response.status_code, response.text) == (200, "deny")
