"""The outbox: an event is published if and only if its change was committed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import create_pool
from esp_common.messaging import EventListener, Publisher
from esp_common.outbox import Relay
from esp_common.settings import ServiceSettings
from esp_stack.servers import Vhost

TABLE = """
CREATE SCHEMA ingest;
CREATE TABLE ingest.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, exchange text NOT NULL, routing_key text NOT NULL,
    headers jsonb NOT NULL, body bytea NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
"""


@pytest.fixture(scope="module")
async def pool(make_database: Any) -> AsyncIterator["asyncpg.Pool[Any]"]:
    """A pool on a database with an outbox."""
    settings = ServiceSettings(database_url=make_database("postgres").admin_url, statement_timeout_s=1)
    pool = await create_pool(settings, role="esp-ingest test", max_size=4)
    await pool.execute(TABLE)
    yield pool
    await pool.close()


async def heard_by_relay(pool: "asyncpg.Pool[Any]", vhost: Vhost, relays: int = 1) -> list[str]:
    """Run relays until the outbox is empty; return the subjects that a listener heard."""
    subjects: list[str] = []
    last = asyncio.Event()

    def on_event(event: Event) -> None:
        subjects.append(event.subject)
        if event.subject == "last":
            last.set()

    listening = asyncio.Event()
    listener = EventListener(
        vhost.url_for("ingest"), ["asset.*"], on_event=on_event, on_connected=listening.set
    )
    hearing = asyncio.create_task(listener.run())
    await asyncio.wait_for(listening.wait(), 20)
    async with Publisher(vhost.url_for("ingest")) as publisher:
        running = [asyncio.create_task(Relay(pool, publisher, "ingest").run()) for _ in range(relays)]
        await asyncio.wait_for(last.wait(), 20)
        while await pool.fetchval("SELECT count(*) FROM ingest.outbox"):  # noqa: ASYNC110 - another's table
            await asyncio.sleep(0.02)
        for each in running:
            each.cancel()
    await listener.stop()
    await hearing
    return subjects


def changed(subject: str) -> Event:
    return Event("asset.pump-changed", "ingest", subject, {"model": "AN550"})


async def test_only_what_was_committed_is_published(pool: "asyncpg.Pool[Any]", vhost: Vhost) -> None:
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await outbox.enqueue(connection, changed("undone"), topology.EVENTS)
        await transaction.rollback()
        await outbox.enqueue(connection, changed("done"), topology.EVENTS)
        await outbox.enqueue(connection, changed("last"), topology.EVENTS)
    assert await heard_by_relay(pool, vhost) == ["done", "last"]


async def test_several_relays_publish_each_event_once(pool: "asyncpg.Pool[Any]", vhost: Vhost) -> None:
    async with pool.acquire() as connection:
        for number in range(500):
            await outbox.enqueue(connection, changed(str(number)), topology.EVENTS)
        await outbox.enqueue(connection, changed("last"), topology.EVENTS)
    heard = await heard_by_relay(pool, vhost, relays=3)
    assert sorted(heard) == sorted({*map(str, range(500)), "last"})


async def test_an_audit_event_names_who_did_what(pool: "asyncpg.Pool[Any]", vhost: Vhost) -> None:
    async with pool.acquire() as connection:
        await audit.record(connection, source="ingest", actor="u-1", action="pumps.changed", subject="P-1")
        row = await connection.fetchrow("SELECT exchange, routing_key, body FROM ingest.outbox")
        await outbox.enqueue(connection, changed("last"), topology.EVENTS)
    assert row is not None
    assert (row["exchange"], row["routing_key"]) == (topology.AUDIT, "ingest.pumps.changed")
    assert b'"actor":"u-1"' in row["body"]
    await heard_by_relay(pool, vhost)


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(pool: "asyncpg.Pool[Any]") -> None:
    with pytest.raises(asyncpg.QueryCanceledError):
        await pool.execute("SELECT pg_sleep(10)")
