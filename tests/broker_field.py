"""A broker as the stack has it (TLS, no users of its own) and auth, which says which gateway may do what."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aio_pika
import httpx
from esp_auth.api_keys import NewKey
from esp_auth.changes import Actor
from esp_auth.identity import Identity
from esp_auth.settings import AuthSettings
from esp_common import topology
from esp_gateway.link import with_credentials
from esp_stack.certificates import Tls
from esp_stack.servers import RabbitMQ

CACHE_S = 2.0
SWEEP_S = 0.5
TESTER = Actor("tester", "service")


@dataclass
class Field:
    """A broker that asks auth, and auth."""

    broker: RabbitMQ
    tls: Tls
    identity: Identity
    auth_settings: AuthSettings

    async def key(self, gateway_id: str) -> tuple[str, str]:
        """Make a key of a gateway; return its id and the key."""
        issued = await self.identity.api_keys.create(
            NewKey(gateway_id, ["telemetry:write"], gateway_id), TESTER
        )
        return issued.record.key_id, issued.key

    def url(self, user: str, password: str) -> str:
        return with_credentials(f"{self.broker.address}/?cafile={self.tls.authority}", user, password)

    async def waiting(self, queue: str = topology.INGEST_TELEMETRY) -> int:
        """Return how many messages wait in a queue."""
        url = f"{self.broker.url}?cafile={self.tls.authority}"
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            found = await channel.declare_queue(queue, passive=True)
            return int(found.declaration_result.message_count or 0)


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float = 30) -> None:
    """Return when `holds()`; fail after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.1)


async def is_ready(client: httpx.AsyncClient) -> bool:
    """Return whether auth answers and is ready."""
    try:
        return (await client.get("/health/ready")).is_success
    except httpx.TransportError:
        return False
