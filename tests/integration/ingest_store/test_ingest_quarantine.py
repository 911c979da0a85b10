"""What quarantine keeps is bounded, and counted where it is not kept."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from esp_ingest.domain.readings import Quarantined, Reason, Refusals
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
    kept_readings = s["rows_quarantined"] + s["readings_unkept"]
    assert s["quarantined"] == kept_readings
    assert s["refused_channels"] == s["channels_quarantined"] + s["channels_unkept"]
    assert s["readings"] == s["stored"] + s["merged"] + s["duplicates"] + s["quarantined"]


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
