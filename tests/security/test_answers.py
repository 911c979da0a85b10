"""What every answer carries, whoever asks, and where the processes listen."""

import re
from collections.abc import Iterator
from ipaddress import ip_address

import httpx
import psutil
import pytest
from deployed import SERVICES, Deployed
from esp_stack.servers import Postgres, Redis

PATHS = (
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/nothing",
    "/api/v1/auth/.well-known/jwks.json",
    "/api/v1/auth/me",
    "/api/v1/users",
    "/api/v1/pumps",
    "/api/v1/telemetry",
)


@pytest.fixture(params=SERVICES)
def client(request: pytest.FixtureRequest, deployed: Deployed) -> Iterator[httpx.Client]:
    """A client of each API in turn."""
    with httpx.Client(base_url=deployed.api(request.param).url, timeout=30) as client:
        yield client


def answers(client: httpx.Client, deployed: Deployed, **headers: str) -> Iterator[httpx.Response]:
    """Ask for every path, without and with a credential that opens it."""
    for path in PATHS:
        for credential in ({}, {"X-API-Key": deployed.bootstrap_key}, {"X-API-Key": "esp_live_x"}):
            for method in ("GET", "POST"):
                yield client.request(method, path, headers={**headers, **credential})


def test_no_answer_may_run_code_be_framed_or_be_kept(client: httpx.Client, deployed: Deployed) -> None:
    for answer in answers(client, deployed):
        what = f"{answer.request.method} {answer.request.url.path} {answer.status_code}"
        assert answer.headers.get("X-Content-Type-Options") == "nosniff", what
        if answer.request.url.path.startswith("/health/"):
            continue
        assert answer.headers.get("Cache-Control") == "no-store", what
        assert answer.headers.get("Referrer-Policy") == "no-referrer", what
        assert answer.headers.get("X-Frame-Options") == "DENY", what
        policy = answer.headers.get("Content-Security-Policy", "")
        assert "default-src 'none'" in policy, what
        assert "frame-ancestors 'none'" in policy, what
        if answer.request.url.path != "/docs":
            assert "script-src" not in policy, what


def test_pages_of_another_origin_get_nothing(client: httpx.Client, deployed: Deployed) -> None:
    for answer in answers(client, deployed, Origin="https://elsewhere.example"):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    preflight = client.options("/api/v1/users", headers=asked)
    assert preflight.status_code in (401, 404, 405)


def test_no_answer_tells_what_serves_it(client: httpx.Client, deployed: Deployed) -> None:
    for answer in answers(client, deployed):
        told = [item for item in answer.headers.items() if item[0] != "content-security-policy"]
        text = str(told).lower()
        assert not re.search(r"uvicorn|python|fastapi|starlette|x-powered-by", text)


@pytest.mark.parametrize("service", SERVICES)
def test_a_body_larger_than_any_need_is_refused(service: str, deployed: Deployed) -> None:
    path = {"auth": "/api/v1/auth/login"}.get(service, "/api/v1/telemetry")
    headers = {"X-API-Key": deployed.bootstrap_key, "Content-Type": "application/json"}
    url = f"{deployed.api(service).url}{path}"
    assert httpx.post(url, content=b" " * (5 << 20), headers=headers, timeout=30).status_code == 413


def listeners(pid: int) -> list[str]:
    """Return the addresses a process and its children listen on."""
    root = psutil.Process(pid)
    return [
        connection.laddr.ip
        for process in (root, *root.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_everything_listens_on_this_machine_only(
    deployed: Deployed, postgres_server: Postgres, redis_server: Redis
) -> None:
    mine = psutil.Process().children(recursive=True)
    pids = {role.process.pid for role in deployed.roles if role.process} | {child.pid for child in mine}
    addresses = {address for pid in pids if psutil.pid_exists(pid) for address in listeners(pid)}
    assert addresses
    assert [address for address in addresses if not ip_address(address).is_loopback] == []
