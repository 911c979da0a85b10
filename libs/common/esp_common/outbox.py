"""The transactional outbox: an event is written with the change it tells of, and published after.

The table is `<service>.outbox(id, exchange, routing_key, headers jsonb, body bytea, created_at)`; an event's
`source` is its service, and so its schema. Delivery is at least once: consumers go by the event's id.
"""

import asyncio
from typing import Any, Final

import asyncpg
import orjson
import structlog

from esp_common import topology
from esp_common.contracts.events import CONTENT_TYPE, Event
from esp_common.errors import EspError
from esp_common.messaging import Publisher

log = structlog.get_logger()

BATCH: Final = 200
_OPTIONAL: Final = (topology.EVENTS, topology.TELEMETRY)
"""Exchanges to which nobody may be listening, so that a message no queue takes is no error."""

Connection = Any


async def enqueue(
    connection: Connection, event: Event, exchange: str, *, routing_key: str | None = None
) -> None:
    """Write `event` in the caller's transaction; its routing key is its type unless given."""
    await connection.execute(
        f"INSERT INTO {_table(event.source)} (exchange, routing_key, headers, body)"  # noqa: S608
        " VALUES ($1, $2, $3::text::jsonb, $4)",
        exchange,
        routing_key or event.type,
        orjson.dumps(event.headers()).decode(),
        event.body(),
    )


def _table(service: str) -> str:
    if service not in topology.SERVICES:
        raise ValueError(f"not a service: {service!r}")
    return f"{service}.outbox"


class Relay:
    """Publishes what stands in a service's outbox and deletes it once the broker has confirmed.

    Any number may run: each takes rows nobody else has. Broker or database away: it waits and goes on.
    """

    def __init__(
        self, pool: "asyncpg.Pool[Any]", publisher: Publisher, service: str, *, poll_s: float = 0.5
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._poll_s = poll_s
        table = _table(service)
        self._take = (
            f"SELECT id, exchange, routing_key, headers::text, body FROM {table}"  # noqa: S608
            " ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED"
        )
        self._delete = f"DELETE FROM {table} WHERE id = ANY($1)"  # noqa: S608

    async def run(self) -> None:
        """Relay until cancelled."""
        while True:
            try:
                published = await self.relay_once()
            except (OSError, EspError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("outbox.delayed", reason=str(error))
                published = 0
            if published < BATCH:
                await asyncio.sleep(self._poll_s)

    async def relay_once(self) -> int:
        """Publish one batch and return how many went; raise the first error if none could."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(self._take, BATCH)
            outcomes = await asyncio.gather(*map(self._publish, rows), return_exceptions=True)
            gone = [row["id"] for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
            if rows and not gone and isinstance(outcomes[0], BaseException):
                raise outcomes[0]
            await connection.execute(self._delete, gone)
            return len(gone)

    async def _publish(self, row: Any) -> None:
        headers = orjson.loads(row["headers"])
        await self._publisher.publish(
            row["exchange"],
            row["routing_key"],
            row["body"],
            headers=headers,
            content_type=CONTENT_TYPE,
            message_id=headers.get("cloudEvents_id"),
            mandatory=row["exchange"] not in _OPTIONAL,
        )
