"""What quarantine keeps is bounded, and counted where it is not kept."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from esp_ingest.domain.readings import Quarantined, Reason, Refusals
from esp_ingest.quarantine_retention import expire
from esp_ingest.reconcile import Reconciliation
from esp_ingest.settings import IngestSettings
from esp_ingest.store import operations
from esp_ingest.store.batch import Batch, FlushCounts, StoreResult
from esp_ingest.store.telemetry import TelemetryStore

BatchOf = Callable[..., Batch]


def refusals(gateway_id: str, count: int, channel: str | None = None) -> list[Quarantined]:
    row = (gateway_id, "m", "P-1", None, Reason.INVALID_SCHEMA, "why", {}, channel)
    return [Quarantined(uuid4(), *row) for _ in range(count)]


async def write(stored: Any, batch: Batch, rows: Sequence[Quarantined], limit: int = 10) -> StoreResult:
    store = TelemetryStore(stored.pool, stored.engine, limit)
    readings = sum(row.refusals.readings for row in rows)
    return await store.write(batch, rows, [], FlushCounts("w", 1, readings), lambda _: [])


async def agree(stored: Any) -> None:
    async with stored.pool.acquire() as connection:
        s = await operations.sums(connection)
    assert Reconciliation(s, 0, 0, None).differences == []


async def test_a_gateway_fills_its_day_and_no_others(stored: Any, batch_of: BatchOf) -> None:
    nothing = batch_of([])
    first = refusals("gw-full", 8)
    assert (await write(stored, nothing, first)).unkept == 0
    passing = await write(stored, nothing, [*first, *refusals("gw-full", 5), *refusals("gw-other", 3)])
    assert (passing.unkept, passing.filled) == (3, ("gw-full",))
    assert (passing.quarantined, passing.duplicates) == (8, 8)
    beyond = await write(stored, nothing, [*refusals("gw-full", 4, "choke_pct"), first[0]])
    assert (beyond.unkept, beyond.filled, beyond.refused_channels) == (4, (), 4)
    assert beyond.duplicates == 1
    query = "SELECT count(*) FROM ingest.quarantine WHERE gateway_id = $1"
    assert await stored.value(query, "gw-full") == 10
    assert await stored.value(query, "gw-other") == 3
    await agree(stored)
    await stored.rows("UPDATE ingest.quarantine_days SET day = day - 1")
    tomorrow = await write(stored, nothing, refusals("gw-full", 4))
    assert (tomorrow.unkept, tomorrow.quarantined) == (0, 4)
    await agree(stored)


async def test_a_reading_refused_again_after_replay_is_pending_though_the_day_is_full(
    stored: Any, batch_of: BatchOf
) -> None:
    [row] = refusals("gw-again", 1)
    await write(stored, batch_of([]), [row], limit=1)
    await stored.rows("UPDATE ingest.quarantine SET state = 'replayed' WHERE id = $1", row.id)
    again = await write(stored, batch_of([]), [*refusals("gw-again", 1), row], limit=1)
    assert again.unkept == 1
    assert await stored.value("SELECT state FROM ingest.quarantine WHERE id = $1", row.id) == "pending"
    await agree(stored)


async def test_a_summary_row_counts_as_what_it_stands_for(stored: Any, batch_of: BatchOf) -> None:
    [row] = refusals("gw-sum", 1)
    summary = Quarantined(
        row.id, row.gateway_id, "m", None, None, Reason.TOO_MANY_REFUSED, "", {}, rest=Refusals(40, 7)
    )
    result = await write(stored, batch_of([]), [summary])
    assert (result.quarantined, result.refused_channels) == (40, 7)
    again = await write(stored, batch_of([]), [summary])
    assert (again.quarantined, again.refused_channels, again.duplicates) == (0, 0, 40)
    await agree(stored)


async def filled(stored: Any, batch: Batch) -> list[Quarantined]:
    """Fill an empty quarantine: row n was received n days ago, every other is of a channel."""
    await stored.rows("TRUNCATE ingest.quarantine, ingest.quarantine_drops, ingest.ledger")
    await stored.rows("TRUNCATE ingest.quarantine_days")
    row = ("gw-old", "m", "P-1", None, Reason.INVALID_SCHEMA, "why", {})
    rows = [Quarantined(uuid4(), *row, "choke_pct" if n % 2 else None) for n in range(20)]
    await write(stored, batch, rows, limit=100)
    for n, each in enumerate(rows):
        query = "UPDATE ingest.quarantine SET received_at = now() - $2::int4 * INTERVAL '1 day' WHERE id = $1"
        await stored.rows(query, each.id, n)
    return rows


async def left(stored: Any, rows: Sequence[Quarantined]) -> list[int]:
    ids = {row["id"] for row in await stored.rows("SELECT id FROM ingest.quarantine")}
    return [n for n, row in enumerate(rows) if row.id in ids]


async def test_rows_go_by_age_in_batches_and_accounts_agree(stored: Any, batch_of: BatchOf) -> None:
    rows = await filled(stored, batch_of([]))
    await expire(stored.owner, datetime.now(UTC), IngestSettings(quarantine_days=10), batch_rows=3)
    assert await left(stored, rows) == list(range(10))
    assert (
        await stored.value("SELECT sum(dropped_rows) FROM ingest.quarantine_drops WHERE reason = 'age'") == 10
    )
    assert await stored.value("SELECT max(dropped_rows) FROM ingest.quarantine_drops") == 3
    await agree(stored)
    again = await write(stored, batch_of([]), [rows[19]], limit=100)
    assert again.refused_channels == 1, "dropped, it is new"
    await agree(stored)


async def test_the_oldest_go_beyond_the_size_but_not_young_pending_ones(
    stored: Any, batch_of: BatchOf
) -> None:
    rows = await filled(stored, batch_of([]))
    await expire(stored.owner, datetime.now(UTC), IngestSettings(quarantine_max_rows=15), batch_rows=3)
    assert await left(stored, rows) == list(range(15))
    await agree(stored)
    await stored.rows("UPDATE ingest.quarantine SET state = 'discarded' WHERE id = $1", rows[2].id)
    few = IngestSettings(quarantine_max_rows=1, quarantine_pending_days=5)
    await expire(stored.owner, datetime.now(UTC) - timedelta(minutes=1), few)
    assert await left(stored, rows) == [0, 1, 3, 4, 5], "the floor of pending rows holds"
    await agree(stored)


async def test_a_row_that_is_being_resolved_stays(stored: Any, batch_of: BatchOf) -> None:
    rows = await filled(stored, batch_of([]))
    async with stored.pool.acquire() as connection, connection.transaction():
        await operations.lock_refused(connection, rows[19].id)
        await expire(stored.owner, datetime.now(UTC), IngestSettings(quarantine_days=18))
        assert await left(stored, rows) == [*range(18), 19]
