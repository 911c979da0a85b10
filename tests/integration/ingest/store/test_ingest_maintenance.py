"""The maintenance role keeps a database going by itself; of two, one works and one stands by."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.messaging import Publisher
from esp_ingest.maintenance import Maintenance
from esp_ingest.settings import IngestSettings
from esp_ingest.store import rollups
from esp_ingest.store.batch import Batch
from esp_stack.servers import Vhost

BatchOf = Callable[..., Batch]


@asynccontextmanager
async def running(stored: Any, vhost: Vhost) -> AsyncIterator[None]:
    stop = asyncio.Event()
    often = IngestSettings(
        amqp_url=vhost.url_for("ingest"), rollup_s=0.2, quality_period_s=0.2, partitions_ahead_days=3
    )
    async with Publisher(vhost.url_for("ingest")) as publisher:
        role = asyncio.create_task(Maintenance(stored.owner, stored.engine, publisher, often).run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(role, 20)


async def until(stored: Any, query: str, expected: Any, *arguments: Any) -> None:
    async with asyncio.timeout(30):
        while await stored.value(query, *arguments) != expected:  # noqa: ASYNC110 - it is the database's turn
            await asyncio.sleep(0.05)


async def test_readings_are_rolled_up_scored_and_events_leave(
    stored: Any, vhost: Vhost, batch_of: BatchOf
) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=30)
    await stored.write(batch_of([(1, hour + timedelta(seconds=i)) for i in range(60)], choke_pct=4))
    async with stored.owner.acquire() as connection:
        await outbox.enqueue(connection, Event("asset.well-changed", "ingest", "W-1", {}), topology.EVENTS)
    async with running(stored, vhost):
        sums = "SELECT choke_pct_sum FROM ingest.telemetry_1hour WHERE pump_id = 'P-1' AND bucket = $1"
        await until(stored, sums, 240, hour)
        scored = "SELECT score IS NOT NULL FROM ingest.quality_hours WHERE pump_no = 1 AND hour = $1"
        await until(stored, scored, True, hour)
        await until(stored, "SELECT count(*) FROM ingest.outbox", 0)
        if stored.engine == "postgres":
            ready = "SELECT count(*) FROM ingest.raw_days() AS day WHERE day >= current_date"
            await until(stored, ready, 4)


async def test_one_of_two_leads(stored: Any) -> None:
    async with rollups.leading(stored.owner) as first, rollups.leading(stored.owner) as second:
        assert (first, second) == (True, False)
    async with rollups.leading(stored.owner) as again:
        assert again
