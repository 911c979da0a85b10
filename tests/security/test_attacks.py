"""Attacks on the running APIs, byte by byte where a client library would not send such bytes."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from deployed import Deployed, Role
from esp_common.auth import key_id_of
from esp_ingest.api.server import SOON_S

PATH = "/api/v1/telemetry"
READING = b'{"pump_id":"P1","time":"2026-01-01T00:00:00Z","motor_temp_c":90}'
PASSED = 422
"""How a post is answered that got past every guard: here nobody has registered the pump."""


@contextmanager
def connected(role: Role) -> Iterator[socket.socket]:
    """Connect to a role's port."""
    with socket.create_connection(("127.0.0.1", role.port), timeout=20) as connection:
        yield connection


def head(key: str, *more: str, length: int | None = len(READING)) -> bytes:
    """Return the beginning of a post of readings, as the short way takes it."""
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: application/json", f"X-API-Key: {key}"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, *more, "", ""]).encode()


def answers(connection: socket.socket, count: int) -> list[int]:
    """Return the statuses of so many answers, or of those that came before the other side hung up."""
    received = b""
    while received.count(b"HTTP/1.1 ") < count and (part := connection.recv(65536)):
        received += part
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.fixture(scope="module")
def key(deployed: Deployed) -> str:
    """A key that may post, which the API knows already."""
    key = deployed.new_key("telemetry:write")
    _make_known(deployed, key)
    return key


def _make_known(deployed: Deployed, key: str) -> None:
    with connected(deployed.ingest) as connection:
        connection.sendall(head(key) + READING)
        assert answers(connection, 1) == [PASSED]


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_key_revoked_while_its_body_is_on_the_way_is_refused(size: str, deployed: Deployed) -> None:
    key = deployed.new_key("telemetry:write")
    _make_known(deployed, key)
    body = READING if size == "small" else READING + b" " * 40_000
    with connected(deployed.ingest) as held:
        began_s = time.monotonic()
        held.sendall(head(key, length=len(body)) + body[:10])
        deployed.call("POST", f"api-keys/{key_id_of(key)}/revoke")
        wait_until_refused(deployed, key)
        # What is waited for is the clock: the short way takes a body that comes sooner.
        time.sleep(max(0.0, began_s + SOON_S + 0.1 - time.monotonic()))
        held.sendall(body[10:])
        assert answers(held, 1) == [401]


def wait_until_refused(deployed: Deployed, key: str) -> None:
    """Return once the API has heard that the key is revoked."""
    for _ in range(200):
        answer = httpx.get(f"{deployed.ingest.url}/api/v1/pumps", headers={"X-API-Key": key})
        if answer.status_code == 401:
            return
    raise AssertionError("the key is never refused")


@pytest.mark.parametrize(
    "more",
    [
        ["Transfer-Encoding: chunked"],
        ["Content-Length: 5"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length: +5"],
        [" folded: yes"],
    ],
    ids=["chunked too", "two lengths", "unknown coding", "blank in the name", "signed length", "folded"],
)
def test_a_post_with_two_ends_is_refused_and_smuggles_nothing(
    more: list[str], key: str, deployed: Deployed
) -> None:
    smuggled = b"GET /api/v1/pumps HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(deployed.ingest) as connection:
        connection.sendall(head(key, *more) + b"0\r\n\r\n" + smuggled + READING)
        assert [status for status in answers(connection, 2) if status != 400] == []


def test_what_is_pipelined_is_answered_in_turn_each_by_its_own_right(key: str, deployed: Deployed) -> None:
    bad = head("esp_live_nobody_x") + READING
    probe = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    reading = f"GET /api/v1/pumps HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
    with connected(deployed.ingest) as connection:
        connection.sendall((head(key) + READING + bad + reading + probe) * 3)
        assert answers(connection, 12) == [PASSED, 401, 403, 200] * 3


@pytest.mark.parametrize(
    "path",
    [
        "//api/v1/telemetry",
        "/api/v1/telemetry/",
        "/api/v1/./telemetry",
        "/api/v1/pumps/../../../metrics",
        "/health/../metrics",
        "/health/live/../../api/v1/pumps",
        "/metrics/",
        "/%2e%2e/metrics",
        "/metrics%00",
        "/METRICS",
        "/openapi.json/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "TRACE"])
def test_no_spelling_of_a_path_is_a_way_in(method: str, path: str, deployed: Deployed) -> None:
    for role in (deployed.ingest, deployed.auth):
        with connected(role) as connection:
            request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n"
            connection.sendall(f"{request}Content-Length: 0\r\n\r\n".encode())
            (status,) = answers(connection, 1)
        assert status in (400, 401, 404, 405), status


def test_an_upgrade_in_a_post_opens_nothing(key: str, deployed: Deployed) -> None:
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    with connected(deployed.ingest) as connection:
        connection.sendall(head(key, *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==") + READING)
        (first, *_) = answers(connection, 1)
    assert first != 101
