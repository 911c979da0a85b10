"""The HTTP edge over a socket: every answer a caller can provoke."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
from esp_common.auth import PERMISSIONS, KeyVerifier, Principal, key_digest, new_api_key, require
from esp_common.errors import Unavailable, Unroutable
from esp_common.health import Health
from esp_common.http import create_app
from esp_common.messaging import Requester
from esp_stack.servers import Vhost
from fastapi import APIRouter, Depends, Query
from prometheus_client import generate_latest
from pydantic import BaseModel

KEY = new_api_key("boot")
LIMIT = 10_000

router = APIRouter()


class Window(BaseModel):
    """Query parameters as a model."""

    first: int = 0
    last: int = 9


@router.get("/pumps/{pump_id}")
async def pump(
    pump_id: str, caller: Annotated[Principal, Depends(require("assets:read"))], n: int = 1
) -> dict[str, Any]:
    """Answer with what was asked."""
    return {"pump_id": pump_id, "caller": caller.id, "n": n}


@router.get("/window")
async def window(window: Annotated[Window, Query()]) -> Window:
    """Answer with the window."""
    return window


@router.post("/echo")
async def echo(body: dict[str, Any]) -> dict[str, Any]:
    """Answer with the body."""
    return body


@router.get("/broken")
async def broken() -> None:
    """Fail with something that must not be seen."""
    raise KeyError("hunter2")


@router.get("/away")
async def away() -> None:
    """Be unavailable."""
    raise Unavailable("the database is away", retry_after_s=7)


@router.get("/unrouted")
async def unrouted() -> None:
    """Find no queue for a message."""
    raise Unroutable("no queue takes it")


@pytest.fixture(scope="module")
async def health() -> Health:
    """Checks that a test may change."""
    return Health()


@pytest.fixture(scope="module")
async def base(vhost: Vhost, health: Health, auth_service: Any) -> AsyncIterator[str]:
    """Base URL of an application whose keys are verified over the broker."""
    auth_service.keys[key_digest(KEY)] = Principal("bootstrap", "key", frozenset(PERMISSIONS))
    async with Requester(vhost.url_for("ingest")) as requester:
        app = create_app(
            "Test", health=health, verifier=KeyVerifier(requester), routers=[router], max_body_bytes=LIMIT
        )
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
async def client(base: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller without a credential."""
    async with httpx.AsyncClient(base_url=base, timeout=30) as client:
        yield client


@pytest.mark.parametrize("headers", [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}])
async def test_a_good_key_is_let_in(headers: dict[str, str], client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/pumps/P-1?n=2", headers=headers)
    assert answer.json() == {"pump_id": "P-1", "caller": "bootstrap", "n": 2}


def endless() -> AsyncIterator[bytes]:
    """Return a body of unannounced length, over the limit."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(1000)

    return chunks()


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/api/v1/pumps/P-1", {}, 401),
        ("GET", "/api/v1/pumps/P-1", {"headers": {"X-API-Key": "wrong"}}, 401),
        ("GET", "/api/v1/pumps/P-1", {"headers": {"Authorization": "Basic eDp5"}}, 401),
        ("GET", "/api/v1/pumps/P-1?n=1&m=1", {"headers": {"X-API-Key": KEY}}, 422),
        ("GET", "/api/v1/pumps/P-1?n=one", {"headers": {"X-API-Key": KEY}}, 422),
        ("GET", "/api/v1/window?frist=1", {}, 422),
        ("GET", "/nowhere", {}, 404),
        ("GET", "/api/v1/window/", {}, 404),
        ("DELETE", "/api/v1/window", {}, 405),
        ("POST", "/api/v1/echo", {"content": b"{"}, 422),
        ("POST", "/api/v1/echo", {"content": bytes(LIMIT + 1)}, 413),
        ("POST", "/api/v1/echo", {"content": "endless"}, 413),
        ("GET", "/api/v1/broken", {}, 500),
        ("GET", "/api/v1/away", {}, 503),
        ("GET", "/api/v1/unrouted", {}, 503),
        ("GET", "/docs", {}, 401),
        ("GET", "/openapi.json", {}, 401),
        ("GET", "/metrics", {}, 404),
        ("GET", "/metrics", {"headers": {"X-API-Key": KEY}}, 404),
    ],
)
async def test_every_refusal_is_a_problem_with_an_id(
    method: str, path: str, options: dict[str, Any], status: int, client: httpx.AsyncClient
) -> None:
    if options.get("content") == "endless":
        options = {"content": endless()}
    answer = await client.request(method, path, **options)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["instance"] == path.partition("?")[0]
    assert len(problem["error_id"]) == 32
    assert problem["title"]
    assert "Traceback" not in answer.text
    assert "hunter2" not in answer.text
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert answer.headers.get("Retry-After") == {"/api/v1/away": "7", "/api/v1/unrouted": "5"}.get(path)


async def test_a_model_of_query_parameters_is_known(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/window?first=1&last=2")).json() == {"first": 1, "last": 2}


async def test_a_body_at_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    body = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'
    assert (
        await client.post("/api/v1/echo", content=body, headers={"Content-Type": "application/json"})
    ).status_code == 200


@pytest.mark.parametrize(("given", "kept"), [("job-7", True), ("a b", False), ("x" * 65, False)])
async def test_a_request_keeps_its_id_if_it_is_a_good_one(
    given: str, kept: bool, client: httpx.AsyncClient
) -> None:
    answer = await client.get("/api/v1/window", headers={"X-Request-ID": given})
    assert (answer.headers["X-Request-ID"] == given) is kept


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_a_key_opens_the_documentation(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(path, headers={"X-API-Key": KEY})).status_code == 200


async def test_requests_are_counted_by_route_not_by_path(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await client.get(f"/api/v1/pumps/P-{number}")
    metrics = generate_latest().decode()
    assert 'route="/pumps/{pump_id}",status="401"' in metrics
    assert "P-1" not in metrics


async def test_health_says_what_is_wrong_without_secrets(client: httpx.AsyncClient, health: Health) -> None:
    assert (await client.get("/health/startup")).status_code == 200
    reachable = False

    async def database() -> None:
        if not reachable:
            raise ConnectionError("postgresql://esp:hunter2@db refused")

    health.add("database", database)
    health.info["engine"] = "postgres"
    answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert "refused" in answer.json()["checks"]["database"]
    assert "hunter2" not in answer.text
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health/startup")).status_code == 200, "it has been ready before"
    reachable = True
    assert (await client.get("/health/ready")).json() == {
        "status": "ok",
        "checks": {"database": "ok"},
        "engine": "postgres",
    }


async def test_a_check_that_hangs_is_not_waited_for(client: httpx.AsyncClient, health: Health) -> None:
    health.add("hangs", asyncio.Event().wait)
    answer = await client.get("/health/ready")
    assert answer.json()["checks"]["hangs"].startswith("no answer")


async def test_a_role_that_is_told_to_stop_is_not_ready() -> None:
    stop = asyncio.Event()
    health = Health(stop)
    assert (await health.ready())[0]
    stop.set()
    assert await health.ready() == (False, {"running": "the role is stopping"})
