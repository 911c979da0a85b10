"""Late readings of a dropped day enter every aggregate exactly once, on both engines."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from esp_ingest.archived import ArchivedDay, settle
from esp_ingest.rollups import roll_up
from esp_ingest.store import rollups
from esp_ingest.store.batch import Batch
from esp_ingest.store.retention import content

BatchOf = Callable[..., Batch]
TODAY = date(2026, 1, 1)
GRAINS = {"1min": "minute", "1hour": "hour", "1day": "day"}


async def drop(stored: Any, day: datetime, archive_id: str) -> None:
    """Drop a day's raw rows for an archive that has just these."""
    async with stored.owner.acquire() as connection:
        archived = ArchivedDay(archive_id, day.date(), await content(connection, day.date()))
    assert await settle(stored.owner, stored.engine, archived, today=TODAY, keep_days=30) is None


async def told(
    stored: Any, pump: int, day: datetime, grain: str, channel: str = "choke_pct"
) -> list[tuple[Any, ...]]:
    """Return readings, count, sum, least and greatest value of each bucket of a pump's day."""
    query = (
        f"SELECT readings, {channel}_count, {channel}_sum, {channel}_min, {channel}_max "
        f"FROM ingest.telemetry_{grain} WHERE pump_id = $1 AND bucket >= $2 AND bucket < $3 ORDER BY bucket"
    )
    return [tuple(row) for row in await stored.rows(query, f"P-{pump}", day, day + timedelta(days=1))]


def every(day: datetime, step: timedelta, count: int, pump: int = 1) -> list[tuple[int, datetime]]:
    return [(pump, day + step * number) for number in range(count)]


async def test_history_of_a_new_pump_on_an_archived_day_is_in_every_grain(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of(every(new_day, timedelta(minutes=10), 60), choke_pct=4))
    await drop(stored, new_day, "late-1")
    await stored.write(batch_of(every(new_day, timedelta(minutes=2), 720, pump=2), choke_pct=6))
    await roll_up(stored.owner, stored.engine, TODAY)
    assert len(await told(stored, 2, new_day, "1min")) == 720
    assert await told(stored, 2, new_day, "1hour") == [(30, 30, 180, 6, 6)] * 24
    assert await told(stored, 2, new_day, "1day") == [(720, 720, 4320, 6, 6)]
    assert await told(stored, 1, new_day, "1day") == [(60, 60, 240, 4, 4)], "the archived pump's stays"
    await drop(stored, new_day, "late-2")
    assert await told(stored, 2, new_day, "1day") == [(720, 720, 4320, 6, 6)]
    view = "SELECT sum(readings)::int FROM telemetry_v1.readings_1hour WHERE pump_id = 'P-2' AND bucket >= $1"
    assert await stored.value(f"{view} AND bucket < $2", new_day, new_day + timedelta(days=1)) == 720


async def test_late_readings_over_several_nights_are_added_once_however_often_rolled_up(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    step = timedelta(seconds=20)
    await stored.write(batch_of(every(new_day, step, 30), choke_pct=4))
    for night in range(1, 4):
        await stored.compress(new_day)
        await drop(stored, new_day, f"nights-{night}")
        late = every(new_day + timedelta(seconds=night), step, 30)
        await stored.write(batch_of(late[:15], choke_pct=4 + night))
        await roll_up(stored.owner, stored.engine, TODAY)
        await stored.write(batch_of(late[15:], choke_pct=4 + night))
        await stored.write(batch_of(late[:1], water_cut_pct=night))
        await roll_up(stored.owner, stored.engine, TODAY)
        await roll_up(stored.owner, stored.engine, TODAY)
        readings, total = 30 * (night + 1), 30 * sum(range(4, 5 + night))
        assert await told(stored, 1, new_day, "1day") == [(readings, readings, total, 4, 4 + night)]
        assert await told(stored, 1, new_day, "1hour") == [(readings, readings, total, 4, 4 + night)]
        assert sum(row[0] for row in await told(stored, 1, new_day, "1min")) == readings
        assert (await told(stored, 1, new_day, "1day", "water_cut_pct"))[0][1:] == (
            night,
            night * (night + 1) / 2,
            1,
            night,
        )


async def test_readings_sent_again_after_the_drop_are_not_counted_again_and_new_channels_are(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    keys = every(new_day, timedelta(seconds=30), 40)
    await stored.write(batch_of(keys, choke_pct=4, running=1))
    await drop(stored, new_day, "again-1")
    await stored.write(batch_of(keys, choke_pct=4, water_cut_pct=9, running=1))
    await stored.write(batch_of([(1, new_day + timedelta(seconds=15))], choke_pct=5))
    for turn in range(2):
        await roll_up(stored.owner, stored.engine, TODAY)
        for grain in ("1hour", "1day"):
            assert await told(stored, 1, new_day, grain) == [(41, 41, 165, 4, 5)]
            assert await told(stored, 1, new_day, grain, "water_cut_pct") == [(41, 40, 360, 9, 9)]
        running = "SELECT running_known, running_count FROM ingest.telemetry_1day WHERE pump_id = 'P-1'"
        found = await stored.rows(f"{running} AND bucket = $1", new_day)
        assert [tuple(row) for row in found] == [(40, 40)]
        if turn == 0:
            await drop(stored, new_day, "again-2")
            await stored.write(batch_of(keys, choke_pct=4, water_cut_pct=9, running=1))


async def test_a_day_dropped_before_keys_were_kept_counts_nothing_twice(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    keys = every(new_day, timedelta(minutes=1), 30)
    await stored.write(batch_of(keys, choke_pct=4))
    await drop(stored, new_day, "unkeyed-1")
    await stored.rows("DELETE FROM ingest.dropped_readings WHERE day = $1", new_day.date())
    await stored.rows("UPDATE ingest.dropped_chunks SET keys_kept = false WHERE day = $1", new_day.date())
    await stored.write(batch_of(keys, choke_pct=4, water_cut_pct=9))
    await stored.write(batch_of([(1, new_day + timedelta(hours=3))], choke_pct=8))
    await roll_up(stored.owner, stored.engine, TODAY)
    assert await told(stored, 1, new_day, "1day") == [(31, 31, 128, 4, 8)]
    assert await told(stored, 1, new_day, "1day", "water_cut_pct") == [(31, 30, 270, 9, 9)]


async def test_an_error_code_in_a_late_reading_is_counted_nowhere_but_in_the_mask(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of([(1, new_day)], choke_pct=4))
    await drop(stored, new_day, "mask-1")
    await stored.write(batch_of([(1, new_day + timedelta(seconds=1))], motor_temp_c=0, fault_mask=8))
    await roll_up(stored.owner, stored.engine, TODAY)
    row = (
        await stored.rows(
            "SELECT * FROM ingest.telemetry_1day WHERE pump_id = 'P-1' AND bucket = $1", new_day
        )
    )[0]
    assert (row["readings"], row["fault_mask"], row["motor_temp_c_count"], row["choke_pct_count"]) == (
        2,
        8,
        0,
        1,
    )


@pytest.mark.parametrize("fails", ["fold_late", "keep_late_bases"])
async def test_a_crash_while_folding_is_made_good_by_the_next_run(
    stored: Any, batch_of: BatchOf, new_day: datetime, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored.write(batch_of(every(new_day, timedelta(seconds=10), 60), choke_pct=4))
    await drop(stored, new_day, f"crash-{fails}")
    await stored.write(
        batch_of(every(new_day + timedelta(seconds=5), timedelta(seconds=10), 60), choke_pct=6)
    )

    async def die(*_: Any, **__: Any) -> None:
        raise ConnectionResetError

    module = (
        "esp_ingest.store.rollups.refresh_coarser" if fails == "fold_late" else "esp_ingest.store.late.fold"
    )
    with monkeypatch.context() as patched:
        patched.setattr(module, die)
        with pytest.raises(ConnectionResetError):
            await roll_up(stored.owner, stored.engine, TODAY)
    await roll_up(stored.owner, stored.engine, TODAY)
    for grain in ("1hour", "1day"):
        assert await told(stored, 1, new_day, grain) == [(120, 120, 600, 4, 6)]


async def test_only_what_was_stored_before_a_roll_up_began_is_awaited_by_it(
    stored: Any, batch_of: BatchOf, new_day: datetime
) -> None:
    await stored.write(batch_of([(1, new_day)], choke_pct=4))
    async with stored.owner.acquire() as connection:
        at, newest = await rollups.newest_entry(connection)
        await stored.write(batch_of([(2, new_day)], choke_pct=4))
        _, hours = await rollups.dirty(connection, 100, newest)
    assert 2 not in {pump for hour in hours for pump in hour.pump_nos if hour.hour == new_day}
    await roll_up(stored.owner, stored.engine, TODAY)
    assert await stored.value("SELECT current_until FROM ingest.aggregate_state") > at
