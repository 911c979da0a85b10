"""Transactional outbox: an event is written in the transaction of its change and published afterwards.

The table is `<service>.outbox(id, exchange, routing_key, headers jsonb, body bytea, created_at)`; an event's
`source` is its service, and so its schema. Delivery is at least once; consumers deduplicate by the event's
id.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import orjson
import structlog
from prometheus_client import Counter, Gauge

from esp_common import topology
from esp_common.contracts.events import CONTENT_TYPE, Event
from esp_common.database import OUTAGES, Connection, Pool
from esp_common.errors import BrokerUnavailable, EspError, PublishRefused, Unroutable
from esp_common.messaging import Publisher

log = structlog.get_logger()

BATCH: Final = 200
REFUSED_RETRY_S: Final = 60.0
READY_TIMEOUT_S: Final = 3.0
MOST_TRIED: Final = 10
"""Kinds of messages published one by one before a batch; each refusal costs a connection."""

_REFUSED: Final = Counter(
    "esp_outbox_refused_total", "Kinds of messages that the broker refused for good.", ["exchange"]
)
_ASIDE: Final = Gauge(
    "esp_outbox_refused_kinds", "Kinds of messages put aside because the broker refuses them."
)
_OPTIONAL: Final = (topology.EVENTS, topology.TELEMETRY)
"""Exchanges that may have no consumer, so that an unroutable message is not an error."""


async def enqueue(
    connection: Connection, event: Event, exchange: str, *, routing_key: str | None = None
) -> None:
    """Write `event` in the caller's transaction; its routing key defaults to its type."""
    await connection.execute(
        f"INSERT INTO {_table(event.source)} (exchange, routing_key, headers, body)"  # noqa: S608
        " VALUES ($1, $2, $3::text::jsonb, $4)",
        exchange,
        routing_key or event.type,
        orjson.dumps(event.headers()).decode(),
        event.body(),
    )


class Outgoing(NamedTuple):
    """An event for an exchange; the routing key defaults to its type."""

    event: Event
    exchange: str
    routing_key: str | None = None


async def enqueue_all(connection: Connection, messages: Sequence[Outgoing]) -> None:
    """Write a service's events in the caller's transaction, in one statement and in order."""
    if not messages:
        return
    await connection.execute(
        f"INSERT INTO {_table(messages[0].event.source)} (exchange, routing_key, headers, body)"  # noqa: S608
        " SELECT exchange, routing_key, headers::jsonb, body"
        " FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY"
        " AS message (exchange, routing_key, headers, body, position) ORDER BY position",
        [message.exchange for message in messages],
        [message.routing_key or message.event.type for message in messages],
        [orjson.dumps(message.event.headers()).decode() for message in messages],
        [message.event.body() for message in messages],
    )


def _table(service: str) -> str:
    if service not in topology.SERVICES:
        raise ValueError(f"not a service: {service!r}")
    return f"{service}.outbox"


class _Kind(NamedTuple):
    """Exchange and routing key, which decide whether the broker accepts a message."""

    exchange: str
    routing_key: str


class Relay:
    """Publish the rows of a service's outbox and delete them once the broker has confirmed them.

    Several may run: each takes rows that no other has. It waits while the broker or database is unavailable.
    If the broker refuses a message for good (no permission, no queue), all rows with its exchange and routing
    key are set aside and retried one by one every `refused_retry_s`; they stay in the outbox and the others
    continue.
    """

    def __init__(
        self,
        pool: Pool,
        publisher: Publisher,
        service: str,
        *,
        poll_s: float = 0.5,
        refused_retry_s: float = REFUSED_RETRY_S,
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._poll_s = poll_s
        self._refused_retry_s = refused_retry_s
        self._aside: dict[_Kind, float] = {}
        self._refused: set[_Kind] = set()
        table = _table(service)
        columns = f"SELECT id, exchange, routing_key, headers::text, body FROM {table}"  # noqa: S608
        self._take = (
            f"{columns} WHERE (exchange, routing_key) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))"  # noqa: S608
            " ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED"
        )
        self._take_one = (
            f"{columns} WHERE exchange = $1 AND routing_key = $2 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        self._delete = f"DELETE FROM {table} WHERE id = ANY($1)"  # noqa: S608

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            try:
                published = await self.relay_once()
            except (*OUTAGES, EspError, asyncpg.PostgresError) as error:
                log.warning("outbox.delayed", reason=str(error))
                published = 0
            if published < BATCH:
                await asyncio.sleep(self._poll_s)

    async def relay_once(self) -> int:
        """Publish one batch and return its size; raise the first error if no message was published."""
        await self._try_aside()
        if not await self._publisher.until_ready(READY_TIMEOUT_S):
            raise BrokerUnavailable("not connected to the broker")
        aside = list(self._aside)
        exchanges, keys = [kind.exchange for kind in aside], [kind.routing_key for kind in aside]
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(self._take, BATCH, exchanges, keys)
            outcomes = await asyncio.gather(*map(self._publish, rows), return_exceptions=True)
            gone = [row["id"] for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
            await connection.execute(self._delete, gone)
        errors = [(row, error) for row, error in zip(rows, outcomes, strict=True) if error is not None]
        for row, error in errors:
            if isinstance(error, Unroutable):
                self._put_aside(_kind(row), error)
            elif isinstance(error, PublishRefused):
                # A closed channel loses everything in flight: retry each message alone.
                self._aside.setdefault(_kind(row), time.monotonic())
        if errors and not gone and len(self._aside) == len(aside):
            raise errors[0][1]
        return len(gone)

    async def _try_aside(self) -> None:
        """Publish the oldest row of each due kind, alone."""
        due = [kind for kind, at in self._aside.items() if at <= time.monotonic()]
        for kind in due[:MOST_TRIED]:
            if not await self._publisher.until_ready(READY_TIMEOUT_S):
                return
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(self._take_one, *kind)
                if row is not None:
                    try:
                        await self._publish(row)
                    except (PublishRefused, Unroutable) as error:
                        self._put_aside(kind, error)
                        continue
                    await connection.execute(self._delete, [row["id"]])
            del self._aside[kind]
            self._refused.discard(kind)
            _ASIDE.set(len(self._refused))

    def _put_aside(self, kind: _Kind, error: EspError) -> None:
        self._aside[kind] = time.monotonic() + self._refused_retry_s
        if kind not in self._refused:
            self._refused.add(kind)
            _REFUSED.labels(kind.exchange).inc()
            _ASIDE.set(len(self._refused))
            log.error(
                "outbox.refused", exchange=kind.exchange, routing_key=kind.routing_key, reason=error.detail
            )

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


def _kind(row: Any) -> _Kind:
    return _Kind(row["exchange"], row["routing_key"])
