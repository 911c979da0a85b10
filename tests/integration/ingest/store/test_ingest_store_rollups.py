"""Aggregates tell what the readings tell, however late those came, on both engines."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.errors import Conflict
from esp_ingest.retention import Dropped, drop_before
from esp_ingest.rollups import roll_up
from esp_ingest.store.batch import Batch

BatchOf = Callable[..., Batch]

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
AGES = [timedelta(days=1), timedelta(days=10), timedelta(days=30), timedelta(days=6 * 365)]


@pytest.mark.parametrize("age", AGES, ids=lambda age: f"{age.days}d")
async def test_late_readings_are_rolled_up_at_every_grain(
    stored: Any, age: timedelta, batch_of: BatchOf
) -> None:
    start = MIDNIGHT - age
    times = [start + timedelta(seconds=100 * i) for i in range(864)]
    pressures = np.random.default_rng(age.days).integers(10_000, 400_000, 864)
    await stored.write(
        batch_of([(5, time) for time in times], intake_pressure_psi=pressures, running=1, frozen_mask=4)
    )
    await roll_up(stored.owner, stored.engine, MIDNIGHT.date())
    for grain, seconds in (("1min", 60), ("1hour", 3600), ("1day", 86400)):
        rows = await stored.rows(
            f"SELECT * FROM ingest.telemetry_{grain} WHERE pump_id = 'P-5' AND bucket >= $1 AND bucket < $2"
            " ORDER BY bucket",
            start,
            start + timedelta(days=1),
        )
        bucket = np.arange(864) * 100 // seconds
        assert [row["readings"] for row in rows] == np.bincount(bucket)[np.unique(bucket)].tolist()
        for row, number in zip(rows, np.unique(bucket), strict=True):
            values = pressures[bucket == number]
            assert row["bucket"] == start + timedelta(seconds=seconds * int(number))
            told = [row[f"intake_pressure_psi_{name}"] for name in ("sum", "count", "min", "max")]
            assert told == [values.sum(), len(values), values.min(), values.max()]
            assert row["running_count"] == row["running_known"] == len(values)
            assert (row["fault_mask"], row["frozen_mask"]) == (None, 4)
            assert row["motor_temp_c_sum"] is None
            assert row["motor_temp_c_count"] == 0


async def test_what_comes_after_the_first_rollup_is_added(stored: Any, batch_of: BatchOf) -> None:
    start = MIDNIGHT - timedelta(days=9)
    for part in range(3):
        await stored.write(
            batch_of([(6, start + timedelta(hours=part, seconds=part))], choke_pct=1000 * part)
        )
        await stored.write(batch_of([(6, start + timedelta(hours=part, seconds=part))], water_cut_pct=7))
        await roll_up(stored.owner, stored.engine, MIDNIGHT.date())
    row = (await stored.rows("SELECT * FROM ingest.telemetry_1day WHERE pump_id = 'P-6'"))[0]
    assert (row["readings"], row["choke_pct_sum"], row["water_cut_pct_count"]) == (3, 3000, 3)
    assert await stored.value("SELECT count(*) FROM ingest.dirty_buckets") == 0


async def test_todays_readings_are_in_the_aggregates(stored: Any, batch_of: BatchOf) -> None:
    await stored.write(batch_of([(7, MIDNIGHT + timedelta(seconds=i)) for i in range(50)], choke_pct=2))
    await roll_up(stored.owner, stored.engine, MIDNIGHT.date())
    for grain in ("1min", "1hour", "1day"):
        count = f"SELECT sum(choke_pct_count) FROM ingest.telemetry_{grain} WHERE pump_id = 'P-7'"
        assert await stored.value(f"{count} AND bucket >= $1", MIDNIGHT) == 50


async def test_a_gauges_error_code_is_counted_nowhere_but_in_the_mask(stored: Any, batch_of: BatchOf) -> None:
    start, bit = MIDNIGHT - timedelta(days=8), 1 << CHANNEL_INDEX["motor_temp_c"]
    await stored.write(batch_of([(8, start)], motor_temp_c=0, intake_pressure_psi=300, fault_mask=bit))
    await stored.write(batch_of([(8, start + timedelta(seconds=1))], motor_temp_c=2_469))
    await roll_up(stored.owner, stored.engine, MIDNIGHT.date())
    row = (await stored.rows("SELECT * FROM telemetry_v1.readings_1hour WHERE pump_id = 'P-8'"))[0]
    assert (row["motor_temp_c_avg"], row["motor_temp_c_min"], row["motor_temp_c_count"]) == (
        123.45,
        123.45,
        1,
    )
    assert row["intake_pressure_psi_avg"] == 15.0
    assert (row["fault_channels"], row["frozen_channels"]) == (["motor_temp_c"], [])


async def test_the_views_speak_engineering_units(stored: Any, batch_of: BatchOf) -> None:
    start = MIDNIGHT - timedelta(days=12)
    await stored.write(
        batch_of(
            [(9, start)], power_factor=-812, intake_pressure_psi=7, running=0, trip_code=4, frozen_mask=3
        )
    )
    row = (await stored.rows("SELECT * FROM telemetry_v1.readings WHERE pump_id = 'P-9'"))[0]
    assert {name: value for name, value in row.items() if value not in (None, [])} == {
        "pump_id": "P-9",
        "field_id": "north",
        "time": start,
        "power_factor": -0.812,
        "intake_pressure_psi": 0.35,
        "running": False,
        "trip_code": 4,
        "frozen_channels": ["intake_pressure_psi", "discharge_pressure_psi"],
        "frozen_mask": 3,
    }


async def _drop(stored: Any, before: date, keep_days: int = 30) -> list[Dropped]:
    dropping = drop_before(
        stored.owner,
        stored.engine,
        before,
        today=MIDNIGHT.date(),
        keep_days=keep_days,
        by="test",
        unarchived=True,
    )
    return [dropped async for dropped in dropping]


async def test_dropped_days_keep_their_aggregates_and_are_accounted_for(
    stored: Any, batch_of: BatchOf
) -> None:
    day = MIDNIGHT - timedelta(days=400)
    await _drop(stored, day.date())
    old = [(10, day + timedelta(minutes=i)) for i in range(100)]
    await stored.write(batch_of(old, choke_pct=3))
    await stored.write(batch_of([(10, day + timedelta(days=1))], choke_pct=3))
    await stored.compress(day)
    assert await _drop(stored, (day + timedelta(days=1)).date()) == [Dropped(day.date(), 100)]
    in_day = "SELECT count(*) FROM ingest.telemetry WHERE time >= $1 AND time < $1 + '1 day'"
    assert await stored.value(in_day, day) == 0
    assert await stored.value(in_day, day + timedelta(days=1)) == 1
    totals = (
        "SELECT (SELECT sum(stored) FROM ingest.ledger) = (SELECT count(*) FROM ingest.telemetry)"
        " + (SELECT sum(readings) FROM ingest.dropped_chunks)"
    )
    assert await stored.value(totals)
    published = "SELECT convert_from(body, 'UTF8')::jsonb ->> 'readings' FROM ingest.outbox"
    event = published + " WHERE routing_key = 'retention.dropped' AND headers ->> 'cloudEvents_subject' = $1"
    assert await stored.value(event, day.date().isoformat()) == "100"

    # Late for the dropped day: stored, and added to the hundred that are gone.
    await stored.write(batch_of([(10, day + timedelta(hours=5))], choke_pct=9))
    await roll_up(stored.owner, stored.engine, MIDNIGHT.date())
    daily = "SELECT readings FROM ingest.telemetry_1day WHERE pump_id = 'P-10' AND bucket = $1"
    assert await stored.value(daily, day) == 101
    assert await _drop(stored, (day + timedelta(days=1)).date()) == [Dropped(day.date(), 1)]
    assert await stored.value(daily, day) == 101
    assert await stored.value(totals)


async def test_days_young_enough_to_be_kept_are_not_dropped(stored: Any) -> None:
    with pytest.raises(Conflict, match="kept for 30 days"):
        await _drop(stored, (MIDNIGHT - timedelta(days=29)).date())
