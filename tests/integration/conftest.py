"""The ingest API as it runs: HTTP, its database, its broker, and an auth service that knows its keys."""

import asyncio
import base64
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import jwt
import orjson
import pytest
import structlog
from broker_field import CACHE_S, SWEEP_S, Field, eventually, is_ready
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from esp_auth.app import run_api as run_auth_api
from esp_auth.app import run_worker as run_auth_worker
from esp_auth.identity import Identity
from esp_auth.settings import AuthSettings
from esp_auth.store.migrations import migrate as migrate_auth
from esp_common import topology
from esp_common.auth import PERMISSIONS, Principal, encode_answer, key_digest, new_api_key
from esp_common.database import create_pool
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from esp_ingest.app import run_api
from esp_ingest.settings import IngestSettings
from esp_ingest.store.migrations import migrate
from esp_platform.databases import AUTH_OWNER
from esp_platform.vault import Vault
from esp_stack.certificates import Tls, renew
from esp_stack.programs import account, free_port
from esp_stack.servers import OpenBao, RabbitMQ, Vhost
from waiting import beside


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """Print errors without their variables: the pretty form of a request's takes many seconds."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.stdlib.add_log_level, renderer])


@dataclass
class IngestApi:
    """The running API: `client` has a key with every permission, `bare` has none."""

    client: httpx.AsyncClient
    bare: httpx.AsyncClient
    settings: IngestSettings
    vhost: Vhost
    admin_url: str
    auth: "AuthService"

    def key(self, *scopes: str, gateway_id: str | None = None) -> dict[str, str]:
        """Give out a key and return the header that presents it."""
        return {"X-API-Key": self.auth.key(*scopes, gateway_id=gateway_id)}

    def token(self, *roles: str, **claims: Any) -> dict[str, str]:
        """Give out a token and return the header that presents it."""
        return {"Authorization": f"Bearer {self.auth.token(*roles, **claims)}"}

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database as its administrator."""
        connection = await asyncpg.connect(self.admin_url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()


class AuthService:
    """Answers every service's questions as the auth service does, with what a test gives out."""

    def __init__(self, vhost: Vhost) -> None:
        self._url = vhost.url_for("auth")
        self.keys: dict[str, Principal] = {}
        self.signing = {"k1": Ed25519PrivateKey.generate()}
        self.revocations: dict[str, Any] = {"version": 1, "sessions": {}, "users": {}}
        self.asked: Counter[str] = Counter()
        self.sending = asyncio.Event()
        self.sending.set()
        self._answering: set[asyncio.Task[None]] = set()

    def key(self, *scopes: str, gateway_id: str | None = None) -> str:
        """Give out an API key."""
        key_id = f"key-{len(self.keys)}"
        key = new_api_key(key_id)
        self.keys[key_digest(key)] = Principal(key_id, "key", frozenset(scopes), gateway_id)
        return key

    def token(self, *roles: str, kid: str = "k1", typ: str = "at+jwt", **claims: Any) -> str:
        """Give out an access token; `claims` replace those a login would put in, None leaves one out."""
        now = round(time.time(), 3)
        payload = {
            "iss": "esp-auth",
            "aud": "esp",
            "sub": str(uuid4()),
            "name": "ann",
            "roles": list(roles),
            "sid": str(uuid4()),
            "jti": str(uuid4()),
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            **claims,
        }
        payload = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(payload, self.signing[kid], "EdDSA", {"kid": kid, "typ": typ})

    def jwks(self) -> list[dict[str, str]]:
        """Return the public keys as auth publishes them."""
        return [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "use": "sig",
                "alg": "EdDSA",
                "kid": kid,
                "x": jwt.utils.base64url_encode(key.public_key().public_bytes_raw()).decode(),
            }
            for kid, key in self.signing.items()
        ]

    def _answer(self, queue: str, body: bytes) -> bytes:
        self.asked[queue] += 1
        if queue == topology.AUTH_JWKS:
            return orjson.dumps({"keys": self.jwks()})
        if queue == topology.AUTH_REVOCATIONS:
            return orjson.dumps(self.revocations)
        return encode_answer(self.keys.get(orjson.loads(body)["key_sha256"]))

    async def serve(self) -> None:
        """Answer until cancelled."""
        async with Publisher(self._url) as publisher, asyncio.TaskGroup() as group:
            for queue in topology.REQUESTS:
                group.create_task(self._consumer(queue, publisher).run())

    async def _send(self, question: Delivery, answer: bytes, publisher: Publisher) -> None:
        await self.sending.wait()
        await publisher.reply(question, answer)

    def _consumer(self, queue: str, publisher: Publisher) -> LeanConsumer:
        def take(question: Delivery) -> None:
            answer = self._answer(queue, question.body)
            task = asyncio.create_task(self._send(question, answer, publisher))
            self._answering.add(task)
            # Whoever asked may have gone; an error nobody looks at would be told of at some odd moment.
            task.add_done_callback(asyncio.Task.exception)
            task.add_done_callback(self._answering.discard)
            consumer.done([question])

        consumer = LeanConsumer(self._url, queue, prefetch=10, on_message=take)
        return consumer


@pytest.fixture(scope="module")
async def auth_service(vhost: Vhost) -> AsyncIterator[AuthService]:
    """An auth service of the module, answering."""
    auth = AuthService(vhost)
    async with beside(auth.serve()):
        yield auth


class Auditor:
    """Takes audit records as auth's worker does, and keeps one of each id."""

    def __init__(self, url: str) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.deliveries: list[Delivery] = []
        self._consumer = LeanConsumer(url, topology.AUTH_AUDIT, prefetch=50, on_message=self._take)

    def _take(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.records |= {record["id"]: record for record in orjson.loads(delivery.body)["records"]}
        self._consumer.done([delivery])

    async def run(self) -> None:
        """Take records until cancelled."""
        await self._consumer.run()

    async def until(self, count: int, **same: str) -> list[dict[str, Any]]:
        """Wait until there are so many records, of those in which `same` holds, and return them."""
        async with asyncio.timeout(60):
            while True:
                fitting = [each for each in self.records.values() if same.items() <= each.items()]
                if sum(each["count"] for each in fitting) >= count:
                    return fitting
                await asyncio.sleep(0.02)

    def objects(self) -> list[str]:
        """Return what the records are about, in the order of their arrival."""
        return [record["object"] for record in self.records.values()]


@pytest.fixture
async def auditor(vhost: Vhost) -> AsyncIterator[Auditor]:
    """An auditor that listens; what others left is thrown away first."""
    vhost.server.api("DELETE", f"queues/{vhost.name}/{topology.AUTH_AUDIT}/contents")
    auditor = Auditor(vhost.url_for("auth"))
    async with beside(auditor.run()):
        yield auditor


@pytest.fixture
def auditor_at() -> type[Auditor]:
    """Makes an auditor of another broker; the test runs it."""
    return Auditor


async def _until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(90):
        while True:
            try:
                if (await client.get("/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
async def ingest_api(
    make_database: Any, vhost: Vhost, auth_service: AuthService, redis_url: str
) -> AsyncIterator[IngestApi]:
    """The API of the module, with an empty schema behind it."""
    database = make_database("postgres")
    migrate(database.url("esp_ingest_owner"), "postgres")
    settings = IngestSettings(
        database_url=database.url("esp_ingest"),
        amqp_url=vhost.url_for("ingest"),
        redis_url=redis_url,
        http_port=free_port(),
        rate_limit_per_minute=100_000,
    )
    base_url = f"http://127.0.0.1:{settings.http_port}"
    stop = asyncio.Event()
    async with (
        httpx.AsyncClient(base_url=base_url, timeout=30) as client,
        httpx.AsyncClient(base_url=base_url, timeout=30) as bare,
    ):
        api = IngestApi(client, bare, settings, vhost, database.admin_url, auth_service)
        client.headers.update(api.key(*PERMISSIONS))
        serving = asyncio.create_task(run_api(settings, stop))
        try:
            await _until_ready(client)
            yield api
        finally:
            stop.set()
            await serving


@pytest.fixture(scope="session")
def server_tls(server_home: Path) -> Iterator[Tls]:
    """A certificate for the broker."""
    server = OpenBao(server_home / "gateways-authority")
    server.start()
    vault = Vault(server)
    vault.ensure_engines()
    authority = server_home / "gateways-ca.pem"
    authority.write_text(vault.ensure_authority())
    tls = Tls(server_home / "gateways-broker.pem", authority)
    renew(tls, vault.issue_certificate, account("rabbitmq"))
    yield tls
    server.stop()


@pytest.fixture(scope="module")
async def field(
    server_home: Path, server_tls: Tls, make_database: Any, redis_url: str
) -> AsyncIterator[Field]:
    """A broker that asks auth, and auth; of the module."""
    port, secret = free_port(), token_hex(16)
    broker = RabbitMQ(
        server_home / f"broker-{token_hex(3)}",
        tls=server_tls,
        auth_url=f"http://127.0.0.1:{port}/broker/{secret}",
        auth_cache_ttl_ms=int(CACHE_S * 1000),
    )
    await asyncio.to_thread(broker.start)
    database = make_database("postgres")
    migrate_auth(database.url(AUTH_OWNER), "postgres")
    settings = AuthSettings(
        database_url=database.url("esp_auth"),
        amqp_url=f"{broker.url_for('auth')}?cafile={server_tls.authority}",
        redis_url=redis_url,
        master_key=base64.b64encode(os.urandom(32)).decode(),
        http_port=port,
        broker_secret=secret,
        broker_management_url=broker.session_keeper_url,
        broker_sessions_s=SWEEP_S,
    )
    pool = await create_pool(settings, role="test")
    stop = asyncio.Event()
    roles = [
        asyncio.create_task(run_auth_api(settings, stop)),
        asyncio.create_task(run_auth_worker(settings, stop)),
    ]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        await eventually(lambda: is_ready(client), 60)
    yield Field(broker, server_tls, Identity(pool, settings), settings)
    stop.set()
    await asyncio.gather(*roles)
    await pool.close()
    await asyncio.to_thread(broker.kill)
