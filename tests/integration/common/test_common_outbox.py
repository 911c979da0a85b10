"""The outbox: an event is published if and only if its change was committed."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import asyncpg
import orjson
import pytest
from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import GRACE_S, create_pool
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

ALL = "SELECT count(*) FROM ingest.outbox"
ALLOWED = "SELECT count(*) FROM ingest.outbox WHERE exchange = 'esp.events' AND routing_key LIKE 'asset.%'"


@pytest.fixture(scope="module")
async def pool(make_database: Any) -> AsyncIterator["asyncpg.Pool[Any]"]:
    """A pool on a database with an outbox."""
    settings = ServiceSettings(database_url=make_database("postgres").admin_url)
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


@asynccontextmanager
async def relaying(pool: "asyncpg.Pool[Any]", vhost: Vhost, *, refused_retry_s: float) -> AsyncIterator[None]:
    """Run one relay beside the body."""
    async with Publisher(vhost.url_for("ingest")) as publisher:
        relay = asyncio.create_task(Relay(pool, publisher, "ingest", refused_retry_s=refused_retry_s).run())
        try:
            yield
        finally:
            relay.cancel()
            await asyncio.gather(relay, return_exceptions=True)


async def until_none(pool: "asyncpg.Pool[Any]", count: str) -> None:
    """Return once `count` gives nothing."""
    async with asyncio.timeout(20):
        while await pool.fetchval(count):  # noqa: ASYNC110 - another's table
            await asyncio.sleep(0.02)


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
    said = orjson.loads(row["body"])
    assert (said["actor_id"], said["action"], said["object"]) == ("u-1", "pumps.changed", "P-1")
    assert (said["service"], said["outcome"], said["actor_kind"], said["count"]) == (
        "ingest",
        "success",
        "service",
        1,
    )
    await heard_by_relay(pool, vhost)


async def test_what_the_broker_refuses_does_not_hold_up_its_neighbours(
    pool: "asyncpg.Pool[Any]",
    vhost: Vhost,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pool.acquire() as connection:
        for number in range(100):
            await outbox.enqueue(connection, changed(str(number)), topology.EVENTS)
            await outbox.enqueue(connection, changed("no right"), topology.EVENTS, routing_key="auth.revoked")
            await outbox.enqueue(connection, changed("no queue"), topology.COMMANDS, routing_key="nobody")
            await outbox.enqueue(connection, changed("no exchange"), "esp.nowhere")
    async with relaying(pool, vhost, refused_retry_s=0.5):
        await until_none(pool, ALLOWED)
        async with pool.acquire() as connection:
            await outbox.enqueue(connection, changed("later"), topology.EVENTS)
        await until_none(pool, ALLOWED)
        assert await pool.fetchval(ALL) == 300, "the others wait"
        await pool.execute("UPDATE ingest.outbox SET exchange = $1, routing_key = 'asset.x'", topology.EVENTS)
        await until_none(pool, ALL)
    # Where the log goes depends on whether a test before set it up in this process.
    told = max(text.count("outbox.refused") for text in (capsys.readouterr().out, caplog.text))
    assert told == 3, "each is told of once"


async def test_what_is_refused_goes_once_it_is_permitted(pool: "asyncpg.Pool[Any]", vhost: Vhost) -> None:
    async with pool.acquire() as connection:
        for _ in range(3):
            await outbox.enqueue(connection, changed("x"), topology.COMMANDS, routing_key="not-yet")
    async with (
        relaying(pool, vhost, refused_retry_s=0.2),
        await aio_pika.connect(vhost.url) as broker,
        broker.channel() as channel,
    ):
        queue = await channel.declare_queue("not-yet", auto_delete=True)
        await queue.bind(topology.COMMANDS, "not-yet")
        await until_none(pool, ALL)
        again = await channel.declare_queue("not-yet", passive=True)
        assert again.declaration_result.message_count == 3


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(make_database: Any) -> None:
    settings = ServiceSettings(database_url=make_database("postgres").admin_url, statement_timeout_s=1)
    pool = await create_pool(settings, role="esp-ingest test", max_size=1)
    with pytest.raises(asyncpg.QueryCanceledError):
        await pool.execute("SELECT pg_sleep(10)")
    await pool.close()


async def test_a_database_that_is_gone_without_a_word_is_given_up(make_database: Any) -> None:
    settings = ServiceSettings(database_url=make_database("postgres").admin_url, statement_timeout_s=1)
    pool = await create_pool(settings, role="esp-ingest test", max_size=1)
    backend = await pool.fetchval("SELECT pg_backend_pid()")
    os.kill(backend, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await pool.execute("SELECT 1")
        assert time.monotonic() - started < 2 * (1 + GRACE_S) + 5
    finally:
        os.kill(backend, signal.SIGCONT)
    assert await pool.fetchval("SELECT 1") == 1
    await pool.close()
