"""What a worker writes is in the store once, whole, and whatever else it is, it is not lost."""

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from esp_common.contracts.channels import CHANNELS, MASK_BIT
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.store.batch import Batch, Conflicts, FlushCounts, Tally

BatchOf = Callable[..., Batch]


def keys(start: datetime, pumps: range, count: int = 10, step_s: int = 10) -> list[tuple[int, datetime]]:
    return [(pump, start + timedelta(seconds=step_s * i)) for pump in pumps for i in range(count)]


def refusal(*, id_: UUID | None = None, payload: dict[str, Any] | None = None, **changed: Any) -> Quarantined:
    values: dict[str, Any] = {
        "gateway_id": "gw-1",
        "message_id": "m-1",
        "pump_id": "P-1",
        "time": None,
        "reason": Reason.CONFLICT,
        "detail": "why",
    }
    return Quarantined(id=id_ or uuid4(), payload=payload or {}, **{**values, **changed})


def refuse(conflicts: Conflicts) -> list[Quarantined]:
    return [
        refusal(payload={"position": position}, channel=channel)
        for position, mask in zip(conflicts.positions.tolist(), conflicts.masks.tolist(), strict=True)
        for channel, bit in MASK_BIT.items()
        if mask >> bit & 1
    ]


async def test_every_value_comes_out_as_it_went_in(stored: Any, new_day: datetime, batch_of: BatchOf) -> None:
    values = {channel.name: 100 * i - 7 for i, channel in enumerate(CHANNELS)}
    full = batch_of([(1, new_day)], running=1, trip_code=-3, fault_mask=5, frozen_mask=1 << 23, **values)
    sparse = batch_of([(2, new_day + timedelta(microseconds=1))], running=0, intake_pressure_psi=2**31 - 1)
    await stored.write(full)
    await stored.write(sparse)
    rows = await stored.rows("SELECT * FROM ingest.telemetry WHERE time >= $1 AND time < $1 + '1 s'", new_day)
    first, second = sorted((dict(row) for row in rows), key=lambda row: row["pump_no"])
    state = {"running": True, "trip_code": -3, "fault_mask": 5, "frozen_mask": 1 << 23}
    state |= {"refused_mask": None, "clamped_mask": None}
    assert first == {"pump_no": 1, "time": new_day, **values, **state}
    assert {name: value for name, value in second.items() if value is not None} == {
        "pump_no": 2,
        "time": new_day + timedelta(microseconds=1),
        "running": False,
        "intake_pressure_psi": 2**31 - 1,
    }


async def test_a_batch_written_again_is_stored_once(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    batch = batch_of(keys(new_day, range(1, 11)), intake_pressure_psi=range(100))
    first = await stored.write(batch)
    again = await stored.write(batch)
    assert (first.stored, first.duplicates) == (100, 0)
    assert (again.stored, again.merged, again.duplicates, len(again.conflicts)) == (0, 0, 100, 0)
    day = (new_day, new_day + timedelta(days=1))
    assert (
        await stored.value("SELECT count(*) FROM ingest.telemetry WHERE time >= $1 AND time < $2", *day)
        == 100
    )
    tally = "SELECT sum(duplicates) FROM ingest.quality_tally WHERE hour >= $1 AND hour < $2"
    assert await stored.value(tally, *day) == 100


async def test_gauge_and_drive_readings_of_one_instant_become_one_row(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    instants = keys(new_day, range(1, 5))
    await stored.write(batch_of(instants, intake_pressure_psi=9_490_690, fault_mask=1))
    frozen = 1 << MASK_BIT["frequency_hz"]
    result = await stored.write(batch_of(instants, frequency_hz=60_000, running=1, frozen_mask=frozen))
    assert (result.stored, result.merged, result.duplicates) == (0, 40, 0)
    rows = await stored.rows(
        "SELECT DISTINCT intake_pressure_psi, frequency_hz, running, trip_code, fault_mask, frozen_mask"
        " FROM ingest.telemetry WHERE time >= $1 AND time < $1 + '1 day'",
        new_day,
    )
    assert [tuple(row) for row in rows] == [(9_490_690, 60_000, True, None, 1, frozen)]


async def test_only_the_contradicting_channel_of_a_reading_is_refused(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    instants = keys(new_day, range(1, 3), 3)
    await stored.write(batch_of(instants, intake_pressure_psi=100))
    other = batch_of(instants, intake_pressure_psi=[100, 101, 100, 100, 100, 99], motor_current_a=5)
    result = await stored.write(other, on_conflict=refuse)
    assert sorted(result.conflicts.positions.tolist()) == [1, 5]
    assert result.conflicts.masks.tolist() == [1, 1]
    assert (result.stored, result.merged, result.duplicates) == (0, 6, 0)
    assert (result.quarantined, result.refused_channels) == (0, 2)
    rows = await stored.rows(
        "SELECT intake_pressure_psi, motor_current_a, refused_mask FROM ingest.telemetry"
        " WHERE time >= $1 AND time < $1 + '1 day' ORDER BY pump_no, time",
        new_day,
    )
    plain, marked = (100, 5, None), (100, 5, 1)
    assert [tuple(row) for row in rows] == [plain, marked, plain, plain, plain, marked]
    conflicts = "SELECT sum(conflicts) FROM ingest.quality_tally WHERE hour = $1"
    assert await stored.value(conflicts, new_day) == 2
    again = await stored.write(other, on_conflict=refuse)
    assert (again.stored, again.merged, again.duplicates) == (0, 0, 6)
    assert await stored.value(conflicts, new_day) == 2


async def test_one_flush_may_bring_new_known_fuller_and_contrary_readings(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    instants = keys(new_day, range(7, 8), 4)
    await stored.write(batch_of(instants[:3], intake_pressure_psi=[1, 2, 3]))
    batch = batch_of(instants, intake_pressure_psi=[1, 2, 9, 4])
    batch.scaled[1, 1] = 77
    counts = FlushCounts("mixed", messages=2, readings=7, merged=1, duplicates=1)
    result = await stored.write(batch, quarantined=[refusal()], counts=counts, on_conflict=refuse)
    assert (result.stored, result.merged, result.duplicates, result.quarantined) == (1, 3, 2, 1)
    assert result.refused_channels == 1
    entry = await stored.rows("SELECT * FROM ingest.ledger WHERE worker = 'mixed'")
    accounted = [entry[0][name] for name in ("stored", "merged", "duplicates", "quarantined")]
    assert entry[0]["readings"] == 7 == sum(accounted)
    assert entry[0]["refused_channels"] == 1


async def row_of(stored: Any, time: datetime) -> tuple[Any, ...]:
    query = "SELECT motor_temp_c, wellhead_pressure_psi, refused_mask, clamped_mask FROM ingest.telemetry"
    [row] = await stored.rows(query + " WHERE time = $1", time)
    return tuple(row)


async def test_a_refused_channel_is_filled_later_and_sent_again_changes_nothing(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    at, bit = [(1, new_day)], 1 << MASK_BIT["wellhead_pressure_psi"]
    without = batch_of(at, motor_temp_c=2400, refused_mask=bit)
    assert (await stored.write(without)).stored == 1
    assert await row_of(stored, new_day) == (2400, None, bit, None)
    assert (await stored.write(without)).duplicates == 1
    mended = batch_of(at, wellhead_pressure_psi=0, clamped_mask=bit)
    for result in ((1, 0), (0, 1)):
        written = await stored.write(mended)
        assert (written.merged, written.duplicates) == result
        assert await row_of(stored, new_day) == (2400, 0, None, bit)
    assert (await stored.write(without)).duplicates == 1
    assert await row_of(stored, new_day) == (2400, 0, None, bit)


async def test_the_row_is_the_same_whichever_of_its_readings_came_first(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    bit = 1 << MASK_BIT["wellhead_pressure_psi"]
    parts = [
        {"motor_temp_c": 2400, "refused_mask": bit},
        {"wellhead_pressure_psi": 50},
        {"motor_temp_c": 2400, "refused_mask": bit},
    ]
    for minute, order in enumerate(permutations(parts)):
        time = new_day + timedelta(minutes=minute)
        for part in order:
            await stored.write(batch_of([(1, time)], **part))
        assert await row_of(stored, time) == (2400, 50, None, None)


async def test_a_channel_that_is_refused_later_is_marked(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    bit = 1 << MASK_BIT["wellhead_pressure_psi"]
    await stored.write(batch_of([(1, new_day)], motor_temp_c=2400))
    result = await stored.write(batch_of([(1, new_day)], motor_temp_c=2400, refused_mask=bit))
    assert (result.merged, result.duplicates) == (1, 0)
    assert await row_of(stored, new_day) == (2400, None, bit, None)


async def test_concurrent_workers_lose_nothing_and_store_nothing_twice(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    """Four workers bring overlapping windows of the same keys, two from the gauge, two from the drive."""
    instants = keys(new_day, range(1, 41), 50)
    channels = [
        {"intake_pressure_psi": 1},
        {"frequency_hz": 2},
        {"intake_pressure_psi": 1},
        {"frequency_hz": 2},
    ]

    async def work(worker: int) -> list[Any]:
        # Different cuts and opposite directions: what deadlocks if anything does.
        size = 300 + 70 * worker
        windows = [instants[at : at + size] for at in range(0, len(instants), size)]
        ordered = windows if worker < 2 else windows[::-1]
        return [await stored.write(batch_of(window, **channels[worker])) for window in ordered]

    results = [result for done in await asyncio.gather(*map(work, range(4))) for result in done]
    total = len(instants)
    assert sum(result.stored for result in results) == total
    assert sum(result.merged for result in results) == total
    assert sum(result.duplicates for result in results) == 2 * total
    whole = (
        "SELECT count(*) FROM ingest.telemetry WHERE time >= $1 AND time < $1 + '1 day'"
        " AND intake_pressure_psi = 1 AND frequency_hz = 2"
    )
    assert await stored.value(whole, new_day) == total


async def test_a_flush_that_fails_leaves_nothing_behind(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    await stored.write(batch_of([(1, new_day)], choke_pct=1))
    batch = batch_of(keys(new_day, range(1, 2)), choke_pct=2)

    def fail(_: Conflicts) -> list[Quarantined]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await stored.write(batch, tallies=[Tally(1, new_day, late=9)], on_conflict=fail)
    day = (new_day, new_day + timedelta(days=1))
    assert (
        await stored.value("SELECT count(*) FROM ingest.telemetry WHERE time >= $1 AND time < $2", *day) == 1
    )
    assert not await stored.value("SELECT count(*) FROM ingest.quality_tally WHERE hour = $1", new_day)
    assert (await stored.write(batch_of(keys(new_day, range(2, 3)), choke_pct=2))).stored == 10


async def test_late_readings_join_those_in_the_columnstore(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    pumps = range(1, 41)
    await stored.write(batch_of(keys(new_day, pumps, 100), intake_pressure_psi=5, discharge_pressure_psi=6))
    await stored.compress(new_day)
    late = keys(new_day + timedelta(seconds=5), pumps, 100)
    assert (await stored.write(batch_of(late, intake_pressure_psi=5))).stored == 4000
    assert (await stored.write(batch_of(keys(new_day, pumps, 100), intake_pressure_psi=5))).duplicates == 4000
    fuller = batch_of(keys(new_day, pumps, 50), motor_temp_c=7)
    assert (await stored.write(fuller)).merged == 2000
    contrary = batch_of(keys(new_day, range(3, 4), 2), intake_pressure_psi=5, discharge_pressure_psi=[6, 7])
    result = await stored.write(contrary, on_conflict=refuse)
    assert (result.conflicts.positions.tolist(), result.conflicts.masks.tolist()) == ([1], [2])
    marked = (
        "SELECT count(*) FROM ingest.telemetry WHERE refused_mask = 2 AND time >= $1 AND time < $1 + '1 day'"
    )
    assert await stored.value(marked, new_day) == 1
    counts = "SELECT count(*), count(discharge_pressure_psi), count(motor_temp_c) FROM ingest.telemetry"
    rows = await stored.rows(counts + " WHERE time >= $1 AND time < $1 + '1 day'", new_day)
    assert tuple(rows[0]) == (8000, 4000, 2000)


async def test_workers_merge_into_the_columnstore_at_once(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    instants = keys(new_day, range(1, 21), 100)
    await stored.write(batch_of(instants, intake_pressure_psi=5))
    await stored.compress(new_day)
    fuller = ({"motor_temp_c": 1}, {"frequency_hz": 2}, {"choke_pct": 3}, {"intake_pressure_psi": 5})
    results = await asyncio.gather(*(stored.write(batch_of(instants, **channels)) for channels in fuller))
    assert [result.merged for result in results] == [2000, 2000, 2000, 0]
    whole = "SELECT count(motor_temp_c + frequency_hz + choke_pct) FROM ingest.telemetry"
    assert await stored.value(whole + " WHERE time >= $1 AND time < $1 + '1 day'", new_day) == 2000


@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=30), timedelta(days=6 * 365)])
async def test_readings_of_any_age_land(stored: Any, age: timedelta, batch_of: BatchOf) -> None:
    start = datetime.now(UTC).replace(microsecond=0) - age
    assert (await stored.write(batch_of(keys(start, range(1, 3)), choke_pct=1))).stored == 20


async def test_a_partition_that_went_is_made_again(stored: Any, new_day: datetime, batch_of: BatchOf) -> None:
    await stored.write(batch_of([(1, new_day)], choke_pct=1))
    assert await stored.value("SELECT ingest.drop_day($1)", new_day.date()) == 1
    assert (await stored.write(batch_of([(1, new_day)], choke_pct=1))).stored == 1


async def test_many_workers_may_need_a_new_day_at_once(
    stored: Any, new_day: datetime, batch_of: BatchOf
) -> None:
    """Each with its own memory of partitions, as separate processes have."""
    stores = [type(stored.store)(stored.pool, stored.engine, 100_000) for _ in range(6)]
    batches = [
        batch_of(keys(new_day + timedelta(hours=11), range(n, n + 1), 500), choke_pct=1) for n in range(1, 7)
    ]
    results = await asyncio.gather(
        *(
            store.write(batch, [], [], FlushCounts("w", 1, len(batch)), refuse)
            for store, batch in zip(stores, batches, strict=True)
        )
    )
    assert [result.stored for result in results] == [500] * 6


async def test_a_refused_reading_has_one_row_however_often_it_comes(stored: Any, batch_of: BatchOf) -> None:
    nothing, id_ = batch_of([]), uuid4()
    first = await stored.write(nothing, quarantined=[refusal(id_=id_), refusal(id_=id_)])
    assert (first.quarantined, first.duplicates) == (1, 1)
    again = await stored.write(nothing, quarantined=[refusal(id_=id_)])
    assert (again.quarantined, again.duplicates) == (0, 1)
    await stored.rows("UPDATE ingest.quarantine SET state = 'replayed', resolved_by = 'x' WHERE id = $1", id_)
    await stored.write(nothing, quarantined=[refusal(id_=id_, reason=Reason.OUT_OF_RANGE)])
    row = (await stored.rows("SELECT * FROM ingest.quarantine WHERE id = $1", id_))[0]
    assert (row["state"], row["reason"], row["resolved_by"]) == ("pending", "out-of-range", None)
    await stored.rows("UPDATE ingest.quarantine SET state = 'discarded' WHERE id = $1", id_)
    await stored.write(nothing, quarantined=[refusal(id_=id_)])
    assert await stored.value("SELECT state FROM ingest.quarantine WHERE id = $1", id_) == "discarded"


async def test_quarantine_keeps_what_no_database_likes(stored: Any, batch_of: BatchOf) -> None:
    id_ = uuid4()
    payload = {"a\0b": ["\0", "\ud800", math.nan, -math.inf], "n": {"deep": 1.5}}
    await stored.write(
        batch_of([]), quarantined=[refusal(id_=id_, payload=payload, pump_id="P\0", detail="\udfff")]
    )
    row = (
        await stored.rows(
            "SELECT payload #>> '{n,deep}' AS deep, * FROM ingest.quarantine WHERE id = $1", id_
        )
    )[0]
    assert row["deep"] == "1.5"
    assert '"nan"' in row["payload"]
    assert row["pump_id"] == "P\N{REPLACEMENT CHARACTER}"


async def test_tallies_of_flushes_add_up(stored: Any, new_day: datetime, batch_of: BatchOf) -> None:
    for _ in range(2):
        both = [Tally(3, new_day, late=1, rejected=2), Tally(3, new_day, duplicates=4, late=1)]
        await stored.write(batch_of([]), tallies=both)
    row = (await stored.rows("SELECT * FROM ingest.quality_tally WHERE pump_no = 3 AND hour = $1", new_day))[
        0
    ]
    assert (row["duplicates"], row["late"], row["rejected"], row["conflicts"]) == (8, 4, 4, 0)


async def test_the_worker_cannot_delete_what_is_stored(stored: Any) -> None:
    async with stored.pool.acquire() as connection:
        for table in ("telemetry", "ledger", "quarantine", "outbox", "dropped_chunks"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"DELETE FROM ingest.{table}")
