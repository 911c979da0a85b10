"""The auth service as it runs: its API over HTTP, its worker, its database, its broker and Redis."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import httpx
import jwt
import orjson
import pytest
from esp_auth.api_keys import NewKey
from esp_auth.app import run_api, run_worker
from esp_auth.changes import Actor
from esp_auth.identity import Identity
from esp_auth.settings import AuthSettings
from esp_auth.store.migrations import migrate
from esp_common import topology
from esp_common.auth import PERMISSIONS, new_api_key
from esp_common.database import create_pool
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from esp_platform.databases import AUTH_OWNER
from esp_stack.programs import free_port
from esp_stack.servers import Vhost

PASSWORD = "seven wells under the rain"
TESTER = Actor("tester", "service")
MASTER_KEY = base64.b64encode(os.urandom(32)).decode()
CHEAP = {"argon2_memory_kib": 64, "argon2_passes": 1}
"""A password hash that costs next to nothing."""


@dataclass
class Session:
    """What a login gave."""

    tokens: dict[str, Any]

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}

    @property
    def refresh_token(self) -> str:
        return str(self.tokens["refresh_token"])

    @property
    def claims(self) -> dict[str, Any]:
        return dict(jwt.decode(self.tokens["access_token"], options={"verify_signature": False}))


@dataclass
class AuthRig:
    """A database with the schema, what can be done with it, and the API if it runs.

    `client` presents a key with every permission, `bare` nothing.
    """

    settings: AuthSettings
    admin_url: str
    identity: Identity
    pool: Any
    client: httpx.AsyncClient
    bare: httpx.AsyncClient
    vhost: Vhost
    _numbers: Any = field(default_factory=lambda: count(1))

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database as its administrator."""
        connection = await asyncpg.connect(self.admin_url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def user(self, *roles: str, fresh: bool = False) -> Any:
        """Add a user with PASSWORD; unless `fresh`, one who need not change it."""
        user = await self.identity.users.create(f"user{next(self._numbers)}", PASSWORD, roles, TESTER)
        if not fresh:
            await self.rows(
                "UPDATE auth.users SET must_change_password = false WHERE user_id = $1", user.user_id
            )
        return user

    async def log_in(self, user: Any, **fields: Any) -> Session:
        """Log the user in over HTTP."""
        response = await self.try_log_in(user.username, PASSWORD, **fields)
        assert response.status_code == 200, response.text
        return Session(response.json())

    async def try_log_in(self, username: str, password: str, **fields: Any) -> httpx.Response:
        """Log in over HTTP from an address of its own, so that one test does not throttle another."""
        address = fields.pop("address", f"10.1.{next(self._numbers) % 250}.{next(self._numbers) % 250}")
        body = {"username": username, "password": password, **fields}
        return await self.bare.post("/api/v1/auth/login", json=body, headers={"X-Forwarded-For": address})

    async def me(self, session: Session) -> int:
        """Return how `GET auth/me` answers the session's access token."""
        return (await self.bare.get("/api/v1/auth/me", headers=session.header)).status_code

    async def refresh(self, token: str) -> httpx.Response:
        """Refresh over HTTP."""
        return await self.bare.post("/api/v1/auth/refresh", json={"refresh_token": token})

    async def records(self, action: str) -> list[dict[str, Any]]:
        """Return the audit records of `action` in the outbox, which no worker relays here."""
        rows = await self.rows(
            "SELECT body FROM auth.outbox WHERE routing_key = $1 ORDER BY id", f"auth.{action}"
        )
        return [orjson.loads(row["body"]) for row in rows]

    async def events(self, type_: str) -> list[dict[str, Any]]:
        """Return the data of the events of this type in the outbox."""
        rows = await self.rows("SELECT body FROM auth.outbox WHERE routing_key = $1 ORDER BY id", type_)
        return [orjson.loads(row["body"]) for row in rows]


class Ingest:
    """Ingest as auth knows it: it says that gateways with names like `gw-17` exist, and no others."""

    def __init__(self, vhost: Vhost) -> None:
        self._url = vhost.url_for("ingest")
        self._answering: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer until cancelled."""
        async with Publisher(self._url) as publisher:

            def take(question: Delivery) -> None:
                exists = orjson.loads(question.body)["gateway_id"].startswith("gw-")
                task = asyncio.create_task(publisher.reply(question, orjson.dumps({"exists": exists})))
                self._answering.add(task)
                task.add_done_callback(asyncio.Task.exception)
                task.add_done_callback(self._answering.discard)
                consumer.done([question])

            consumer = LeanConsumer(self._url, topology.INGEST_FIND_GATEWAY, prefetch=10, on_message=take)
            await consumer.run()


async def until(holds: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Wait until `holds()`, awaited, gives something true, and return it."""
    async with asyncio.timeout(timeout_s):
        while True:
            if found := await holds():
                return found
            await asyncio.sleep(0.02)


async def until_ready(base_url: str) -> None:
    """Wait until the role at `base_url` is ready."""
    async with httpx.AsyncClient(base_url=base_url, timeout=30) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready, 60)


@asynccontextmanager
async def running(role: Any, settings: AuthSettings) -> AsyncIterator[None]:
    """Run a role until it is ready, and while inside."""
    stop = asyncio.Event()
    serving = asyncio.create_task(role(settings, stop))
    try:
        ready = asyncio.create_task(until_ready(f"http://127.0.0.1:{settings.metrics_port}"))
        await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            ready.cancel()
            serving.result()
        await ready
        yield
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def open_rig(database: Any, vhost: Vhost, redis_url: str, **overrides: Any) -> AsyncIterator[AuthRig]:
    """Put a rig together on an empty database; nothing runs yet."""
    migrate(database.url(AUTH_OWNER), database.engine)
    settings = AuthSettings(
        database_url=database.url("esp_auth"),
        amqp_url=vhost.url_for("auth"),
        redis_url=redis_url,
        http_port=free_port(),
        metrics_port=free_port(),
        master_key=MASTER_KEY,
        broker_secret="the-broker-asks-here",
        rate_limit_per_minute=0,
        **{**CHEAP, **overrides},
    )
    base_url = f"http://127.0.0.1:{settings.http_port}"
    key = new_api_key("everything")
    async with (
        await create_pool(settings, role="test", max_size=4) as pool,
        httpx.AsyncClient(base_url=base_url, headers={"X-API-Key": key}, timeout=30) as client,
        httpx.AsyncClient(base_url=base_url, timeout=30) as bare,
    ):
        identity = Identity(pool, settings)
        await identity.api_keys.adopt(key, NewKey("everything", PERMISSIONS), TESTER)
        yield AuthRig(settings, database.admin_url, identity, pool, client, bare, vhost)


@pytest.fixture(scope="module")
async def auth(make_database: Any, vhost: Vhost, redis_url: str) -> AsyncIterator[AuthRig]:
    """The API of the module, without a worker: what it writes to the outbox stays there."""
    async with open_rig(make_database("postgres"), vhost, redis_url) as rig, running(run_api, rig.settings):
        ingest = asyncio.create_task(Ingest(vhost).serve())
        yield rig
        ingest.cancel()


@pytest.fixture(scope="module")
async def auth_with_worker(make_database: Any, vhost: Vhost, redis_url: str) -> AsyncIterator[AuthRig]:
    """The API and the worker of the module."""
    async with open_rig(make_database("postgres"), vhost, redis_url) as rig:
        worker = rig.settings.model_copy(update={"metrics_port": free_port()})
        async with running(run_worker, worker), running(run_api, rig.settings):
            yield rig
