"""The ingest API as it runs: HTTP, its database, its broker, and an auth service that knows its keys."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from esp_common import topology
from esp_common.auth import PERMISSIONS, Principal, encode_answer, key_digest, new_api_key
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from esp_ingest.app import run_api
from esp_ingest.settings import IngestSettings
from esp_ingest.store.migrations import migrate
from esp_stack.programs import free_port
from esp_stack.servers import Vhost


@dataclass
class IngestApi:
    """The running API: `client` has a key with every permission, `bare` has none."""

    client: httpx.AsyncClient
    bare: httpx.AsyncClient
    settings: IngestSettings
    vhost: Vhost
    admin_url: str
    keys: dict[str, Principal] = field(default_factory=dict)

    def key(self, *scopes: str, gateway_id: str | None = None) -> dict[str, str]:
        """Give out a key and return the header that presents it."""
        key_id = f"key-{len(self.keys)}"
        key = new_api_key(key_id)
        self.keys[key_digest(key)] = Principal(key_id, "key", frozenset(scopes), gateway_id)
        return {"X-API-Key": key}

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database as its administrator."""
        connection = await asyncpg.connect(self.admin_url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()


async def _serve_keys(vhost: Vhost, keys: dict[str, Principal]) -> None:
    """Answer `auth.verify-key` as the auth service does, for the keys of this test."""
    answering: set[asyncio.Task[None]] = set()
    async with Publisher(vhost.url_for("auth")) as publisher:

        def take(question: Delivery) -> None:
            digest = orjson.loads(question.body)["key_sha256"]
            task = asyncio.create_task(publisher.reply(question, encode_answer(keys.get(digest))))
            answering.add(task)
            # Whoever asked may have gone; an error nobody looks at would be told of at some odd moment.
            task.add_done_callback(asyncio.Task.exception)
            consumer.done([question])

        consumer = LeanConsumer(vhost.url_for("auth"), topology.AUTH_VERIFY_KEY, prefetch=10, on_message=take)
        await consumer.run()


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
async def ingest_api(make_database: Any, vhost: Vhost) -> AsyncIterator[IngestApi]:
    """The API of the module, with an empty schema behind it."""
    database = make_database("postgres")
    migrate(database.url("esp_ingest_owner"), "postgres")
    settings = IngestSettings(
        database_url=database.url("esp_ingest"), amqp_url=vhost.url_for("ingest"), http_port=free_port()
    )
    base_url = f"http://127.0.0.1:{settings.http_port}"
    stop = asyncio.Event()
    async with httpx.AsyncClient(base_url=base_url) as client, httpx.AsyncClient(base_url=base_url) as bare:
        api = IngestApi(client, bare, settings, vhost, database.admin_url)
        client.headers.update(api.key(*PERMISSIONS))
        auth = asyncio.create_task(_serve_keys(vhost, api.keys))
        serving = asyncio.create_task(run_api(settings, stop))
        try:
            await _until_ready(client)
            yield api
        finally:
            stop.set()
            await serving
            auth.cancel()
            await asyncio.gather(auth, return_exceptions=True)
