"""The HTTP door: headers that clients forge, answers of nginx's own, its access log and its refusals."""

import json
import socket
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from backup_site import localhost_certificate
from esp_auth.edge_log import ACTION, open_edge_log
from esp_common import topology
from esp_common.audit import AuditTrail
from esp_common.http import SECURITY_HEADERS
from esp_common.messaging import Publisher
from esp_platform.nginx import LOCATIONS, Location
from esp_stack.programs import account, free_port, share_folder
from esp_stack.servers import Nginx
from esp_stack.servers import nginx as door_module
from esp_stack.servers.nginx import access_log_is_large, rotate_access_log
from prometheus_client import REGISTRY
from waiting import beside, until

FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Proto": "gopher",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9",
    "X-Request-ID": "forged",
}
PATHS = {
    "= /api/v1/telemetry": "/api/v1/telemetry",
    "= /api/v1/live": "/api/v1/live",
    "/api/v1/": "/api/v1/pumps",
    "/health/": "/health/live",
    "~ ^/(console/.*)?$": "/console/app.js",
    "auth": "/api/v1/users",
    "archiver": "/api/v1/archive",
    "backup": "/api/v1/backups",
    "diagnostics": "/api/v1/fleet",
}
"""A path of each location, by its match, or by its service where the match is a pattern of routes."""


class Mirror(BaseHTTPRequestHandler):
    """A service that answers with the headers it got."""

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def door(server_home: Path) -> Iterator[Nginx]:
    """nginx before services that mirror requests, but for backup, which is away."""
    home = server_home / "door"
    (home / "edge").mkdir(parents=True)
    share_folder(home / "edge", None, account("www-data"))
    mirror = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    Thread(target=mirror.serve_forever, daemon=True).start()
    server = Nginx(
        home / "nginx",
        apis=dict.fromkeys(topology.SERVICES, mirror.server_port) | {"backup": free_port()},
        tls=localhost_certificate(home, account("www-data")),
        refusals=home / "edge" / "refusals.sock",
    )
    server.start()
    yield server
    server.stop()
    mirror.shutdown()


@pytest.fixture(scope="module")
def client(door: Nginx) -> Iterator[httpx.Client]:
    """A client of the door."""
    with httpx.Client(base_url=door.url, verify=door.tls.client_context(), timeout=30) as client:
        yield client


def path_of(location: Location) -> str:
    return PATHS.get(location.match) or PATHS[location.service]


@pytest.mark.parametrize("location", LOCATIONS, ids=path_of)
def test_no_location_passes_on_where_a_client_says_it_comes_from(client, location):
    answer = client.get(path_of(location), headers=FORGED)
    if location.service == "backup":
        assert answer.status_code == 503
        return
    got = answer.json()
    assert {name: got.get(name.lower()) for name in FORGED} == {
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": None,
        "X-Forwarded-Port": None,
        "X-Forwarded-Proto": "https",
        "X-Real-IP": None,
        "Forwarded": None,
        "X-Request-ID": got["x-request-id"],
    }
    assert len(got["x-request-id"]) == 32
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_only_the_live_stream_is_upgraded(client):
    upgrade = {"Connection": "upgrade", "Upgrade": "websocket"}
    seen = {path: client.get(path, headers=upgrade).json() for path in ("/api/v1/live", "/api/v1/fleet")}
    assert seen["/api/v1/live"]["upgrade"] == "websocket"
    assert "upgrade" not in seen["/api/v1/fleet"]


def exchange(door: Nginx, request: bytes) -> httpx.Response:
    """Send bytes that no client library would send; return the answer."""
    plain = socket.create_connection(("127.0.0.1", door.port), timeout=30)
    with door.tls.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65_536):
                answer += part
        except (ConnectionResetError, ssl.SSLError):
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


REFUSED = {
    400: b"GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
    404: b"GET /metrics?ticket=tell-nobody HTTP/1.1\r\nHost: esp\r\nConnection: close\r\n\r\n",
    405: b"TRACE / HTTP/1.1\r\nHost: esp\r\nConnection: close\r\n\r\n",
    413: b"POST /api/v1/telemetry HTTP/1.1\r\nHost: esp\r\nContent-Length: 9999999\r\n\r\n",
    414: b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: esp\r\n\r\n",
    431: b"GET / HTTP/1.1\r\nHost: esp\r\nX-Long: " + b"x" * 9_000 + b"\r\n\r\n",
    501: b"POST /api/v1/pumps HTTP/1.1\r\nHost: esp\r\nTransfer-Encoding: odd\r\nConnection: close\r\n\r\n",
    503: b"GET /api/v1/backups HTTP/1.1\r\nHost: esp\r\nConnection: close\r\n\r\n",
}


def logged(door: Nginx, trace_id: str) -> dict[str, str] | None:
    lines = door.access_log.read_text().splitlines()
    return next((entry for entry in map(json.loads, lines) if entry["trace_id"] == trace_id), None)


@pytest.mark.parametrize("status", REFUSED)
async def test_an_answer_of_nginx_is_a_problem_with_an_id_that_the_access_log_has(door, status):
    answer = exchange(door, REFUSED[status])
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "detail", "error_id", "code"} <= problem.keys()
    assert answer.headers["X-Request-ID"] == problem["error_id"]
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    for name, value in SECURITY_HEADERS:
        assert answer.headers[name.decode()] == value.decode()
    entry = await until(lambda: logged(door, problem["error_id"]), "a line in the access log")
    assert (entry["status"], entry["answered_by"]) == (str(status), "nginx")
    assert entry["source_address"] == "127.0.0.1"


async def test_the_access_log_has_every_request_and_no_query(door, client):
    request_id = client.get("/api/v1/live?ticket=tell-nobody").json()["x-request-id"]
    entry = await until(lambda: logged(door, request_id), "a line in the access log")
    assert {name: entry[name] for name in ("action", "object", "outcome", "status", "answered_by")} == {
        "action": "GET",
        "object": "/api/v1/live",
        "outcome": "success",
        "status": "200",
        "answered_by": "service",
    }
    client.get("/broker/not-the-secret/user")
    await until(lambda: '"/broker/"' in door.access_log.read_text(), "the other line")
    assert "tell-nobody" not in door.access_log.read_text()
    assert "not-the-secret" not in door.access_log.read_text()


async def test_a_large_access_log_is_rotated_and_none_of_it_is_lost(door, client, monkeypatch):
    monkeypatch.setattr(door_module, "LARGEST_ACCESS_LOG_BYTES", 1)
    first = client.get("/api/v1/fleet").json()["x-request-id"]
    await until(lambda: logged(door, first), "a line in the access log")
    assert access_log_is_large(door.home)
    rotate_access_log(door.home, int((door.home / "nginx.pid").read_text()))
    await until(door.access_log.exists, "a new access log")
    second = client.get("/api/v1/fleet").json()["x-request-id"]
    await until(lambda: logged(door, second), "a line in the new log")
    assert first in door.access_log.with_name("access.log.1").read_text()


def refused(status: int) -> float:
    return REGISTRY.get_sample_value("esp_edge_refused_total", {"status": str(status)}) or 0


async def test_refusals_are_counted_and_reach_the_audit_trail(door, vhost, auditor):
    path = door.home.parent / "edge" / "refusals.sock"
    before = {status: refused(status) for status in REFUSED}
    async with Publisher(vhost.url_for("auth"), name="test") as publisher:
        trail = AuditTrail(publisher, "auth")
        with open_edge_log(path, trail) as edge_log:
            async with beside(trail.run(), edge_log.run()):
                for request in REFUSED.values():
                    exchange(door, request)
                for status in REFUSED:
                    await until(lambda status=status: refused(status) > before[status], f"{status} counted")
                records = await auditor.until(len(REFUSED), action=ACTION)
    assert {record["status"] for record in records} == set(REFUSED)
    missing = next(record for record in records if record["status"] == 404)
    assert (missing["object"], missing["source_address"], missing["actor_kind"]) == (
        "/metrics",
        "127.0.0.1",
        "anonymous",
    )
    assert missing["detail"] == {"method": "GET"}


async def test_without_a_reader_of_refusals_requests_are_answered_and_logged(door):
    problem = exchange(door, REFUSED[404]).json()
    assert await until(lambda: logged(door, problem["error_id"]), "a line in the access log")
