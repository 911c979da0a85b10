"""The auth API while what it needs is away, and while more is asked of it than it can do."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from esp_auth.app import run_api
from esp_auth.domain.passwords import Cost, Passwords
from esp_auth.hashing import Hashing
from esp_auth.settings import AuthSettings
from esp_common.auth import new_api_key
from esp_common.errors import Unavailable
from esp_stack.programs import free_port

NOWHERE = "127.0.0.1:1"
LOGIN = {"username": "maria", "password": "seven wells under the rain"}


@pytest.fixture(scope="module")
async def alone() -> AsyncIterator[httpx.AsyncClient]:
    """The API with no database, no broker and no Redis."""
    settings = AuthSettings(
        database_url=f"postgresql://esp_auth@{NOWHERE}/esp",
        amqp_url=f"amqp://{NOWHERE}/",
        redis_url=f"redis://{NOWHERE}/0",
        http_port=free_port(),
        master_key=base64.b64encode(os.urandom(32)).decode(),
        broker_secret="the-broker-asks-here",
        argon2_memory_kib=64,
    )
    stop = asyncio.Event()
    serving = asyncio.create_task(run_api(settings, stop))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}", timeout=30) as client:
        async with asyncio.timeout(30):
            while True:
                try:
                    await client.get("/health/live")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.02)
        yield client
    stop.set()
    await serving


async def test_without_a_database_it_lives_and_is_not_ready(alone: httpx.AsyncClient) -> None:
    assert (await alone.get("/health/live")).status_code == 200
    assert (await alone.get("/health/ready")).status_code == 503


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/auth/login", LOGIN),
        ("POST", "/api/v1/auth/refresh", {"refresh_token": "x"}),
        ("GET", "/api/v1/auth/.well-known/jwks.json", None),
        ("GET", "/api/v1/users", None),
        ("GET", "/api/v1/audit", None),
    ],
    ids=["login", "refresh", "jwks", "users", "audit"],
)
async def test_without_a_database_nobody_is_let_in_and_told_to_come_back(
    method: str, path: str, body: Any, alone: httpx.AsyncClient
) -> None:
    response = await alone.request(method, path, json=body, headers={"X-API-Key": new_api_key("some-key")})
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.headers["Content-Type"] == "application/problem+json"
    assert NOWHERE not in response.text


async def test_without_a_database_the_broker_is_not_told_to_let_a_gateway_in(
    alone: httpx.AsyncClient,
) -> None:
    form = {"username": "gw-01", "password": new_api_key("gw-01")}
    response = await alone.post("/broker/the-broker-asks-here/user", data=form)
    assert response.status_code == 503


# --- hashing ----------------------------------------------------------------------------------------------


class _Watched(Passwords):
    """Counts how many hashes are made at once."""

    def __init__(self, cost: Cost) -> None:
        self.now = self.most = 0
        super().__init__(cost)

    def hash(self, password: str) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return super().hash(password)
        finally:
            self.now -= 1


async def test_so_many_hashes_are_made_at_once_and_no_more() -> None:
    passwords = _Watched(Cost(4096, 1, 1))
    hashing = Hashing(passwords, slots=2, max_waiting=100)
    await asyncio.gather(*(hashing.hash("seven wells", None) for _ in range(20)))
    assert passwords.most == 2


async def test_more_than_may_wait_are_sent_away() -> None:
    hashing = Hashing(Passwords(Cost(4096, 1, 1)), slots=1, max_waiting=3)
    hashes = (hashing.hash("seven wells", f"address {number}") for number in range(10))
    outcomes = await asyncio.gather(*hashes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(Unavailable) == 6
    assert isinstance(await hashing.hash("seven wells", None), str)


async def test_the_event_loop_turns_while_passwords_are_hashed() -> None:
    hashing = Hashing(Passwords(Cost(64 * 1024, 3, 1)), slots=2, max_waiting=10)
    hashes = asyncio.gather(*(hashing.hash("seven wells", None) for _ in range(3)))
    turns = 0
    while not hashes.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
