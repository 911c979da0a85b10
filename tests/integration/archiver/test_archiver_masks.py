"""Marks of refused and clamped channels are archived; files written before them are read like any other."""

import asyncio
import hashlib
import io
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
from azure.storage.blob import ContainerClient
from esp_archiver.domain.datasets import Dataset
from esp_archiver.domain.layout import Place
from esp_archiver.reading import Reader
from esp_archiver.rebuilding import rebuild
from esp_archiver.restores import bring_back
from esp_archiver.store import manifest, runs
from esp_archiver.store.manifest import PartFilter
from esp_archiver.verification import check
from esp_common.contracts.channels import MASK_BIT

OLD_FILE = Path(__file__).parent / "files/north-2023-05-05-without-masks.parquet"
"""P-1 and P-2, a reading an hour, as the archiver wrote it before it had columns of masks."""

OLD_DAY = date(2023, 5, 5)
MASKS = ("refused_mask", "clamped_mask")
MOTOR, CHOKE, RUNNING = (1 << MASK_BIT[name] for name in ("motor_temp_c", "choke_pct", "running"))
_INSERT = """
INSERT INTO ingest.telemetry (pump_no, time, motor_temp_c, choke_pct, refused_mask, clamped_mask)
VALUES (1, $1, $2, $3, $4, $5)
"""


async def store_reading(
    archive: Any, at: datetime, motor: int | None, choke: int | None, refused: int | None, clamped: int | None
) -> None:
    """Have ingest store a reading of P-1, values scaled."""
    await archive.ensure_partition(at.date())
    await archive.admin.execute(_INSERT, at, motor, choke, refused, clamped)


def masks_of(rows: list[dict[str, Any]]) -> dict[tuple[int, int], tuple[int | None, int | None]]:
    """Return the masks by hour and minute where there are any."""
    return {
        (row["time"].hour, row["time"].minute): (row["refused_mask"], row["clamped_mask"])
        for row in rows
        if row["refused_mask"] or row["clamped_mask"]
    }


async def restored(archive: Any, day: date) -> list[dict[str, Any]]:
    """Bring P-1's day back as the worker does; return what diagnostics can read of it."""
    since = datetime.combine(day, time(), UTC)
    span = since, since + timedelta(days=1)
    asked = await runs.ask_restore(archive.pool, "test", ["P-1"], *span, timedelta(days=1))
    async with manifest.leading(archive.pool) as lead:
        assert lead is not None
        restore = await runs.begin_restore(lead)
        assert restore is not None
        rows = await bring_back(lead, Reader(archive.pool, archive.store), restore)
        await runs.end_restore(lead, restore.restore_id, None, rows)
    query = "SELECT * FROM archive_v1.restored WHERE restore_id = $1 ORDER BY time"
    return [dict(row) for row in await archive.admin.fetch(query, asked.restore_id)]


async def test_marks_of_channels_are_archived_dropped_read_back_and_restored(
    archive: Any, new_day: date
) -> None:
    midnight = datetime.combine(new_day, time(), UTC)
    await archive.ensure_partition(new_day)
    await store_reading(archive, midnight, 1800, None, CHOKE | RUNNING, None)
    await store_reading(archive, midnight + timedelta(minutes=1), 1801, 0, None, CHOKE)
    await store_reading(archive, midnight + timedelta(minutes=2), 1802, 500, None, None)
    await archive.archived_and_dropped(new_day)
    left = "SELECT count(*) FROM telemetry_v1.readings WHERE time >= $1 AND time < $1 + INTERVAL '1 day'"
    assert await archive.admin.fetchval(left, midnight) == 0
    expected = {(0, 0): (CHOKE | RUNNING, None), (0, 1): (None, CHOKE)}
    rows = await archive.read("P-1", new_day)
    assert len(rows) == 3
    assert masks_of(rows) == expected
    back = await restored(archive, new_day)
    assert masks_of(back) == expected
    assert [[row[name] for name in rows[0]] for row in back] == [[*row.values()] for row in rows]


async def test_late_readings_end_and_add_marks_as_in_the_database(archive: Any, new_day: date) -> None:
    midnight = datetime.combine(new_day, time(), UTC)
    minute = timedelta(minutes=1)
    await store_reading(archive, midnight, 1800, None, CHOKE, None)
    await store_reading(archive, midnight + minute, 1800, None, None, None)
    await store_reading(archive, midnight + 2 * minute, None, 0, None, CHOKE)
    await archive.archived_and_dropped(new_day)
    await store_reading(archive, midnight, None, 0, None, CHOKE)
    await store_reading(archive, midnight + minute, None, None, CHOKE, None)
    await store_reading(archive, midnight + 2 * minute, None, None, CHOKE | MOTOR, None)
    await archive.archived_and_dropped(new_day)
    rows = await archive.read("P-1", new_day)
    assert [row["choke_pct"] for row in rows] == [0, None, 0]
    assert masks_of(rows) == {(0, 0): (None, CHOKE), (0, 1): (CHOKE, None), (0, 2): (MOTOR, CHOKE)}
    only = await archive.read("P-1", new_day, channels=[*MASKS])
    assert masks_of(only) == masks_of(rows)


async def test_masks_of_scattered_parts_do_not_depend_on_the_channels_asked_for(
    archive: Any, new_day: date
) -> None:
    """Parts lie side by side where policies keep objects from being replaced."""
    midnight = datetime.combine(new_day, time(), UTC)
    await store_reading(archive, midnight, 1800, None, CHOKE, None)
    await archive.archived_and_dropped(new_day)
    await archive.admin.execute("UPDATE archiver.parts SET protected_at = now() WHERE day = $1", new_day)
    await store_reading(archive, midnight, None, 0, None, CHOKE)
    await archive.run(legal_hold=True)
    assert [each.part.place.part for each in await archive.parts(new_day)] == [0, 1]
    for channels in (None, [*MASKS], ["motor_temp_c", *MASKS]):
        rows = await archive.read("P-1", new_day, channels=channels)
        assert masks_of(rows) == {(0, 0): (None, CHOKE)}, channels
        assert set(rows[0]) >= {"pump_id", "time", *(channels or MASKS)}
        assert channels is None or len(rows[0]) == 2 + len(channels)


async def put_old_file(archive: Any) -> None:
    """Put the file without masks into the archive as an object of its day."""
    name = Place(Dataset.TELEMETRY, "north", OLD_DAY, 0).name
    data = OLD_FILE.read_bytes()
    notes = {"sha256": hashlib.sha256(data).hexdigest(), "rows": "48", "digest": "0", "drops": "0"}
    await archive.store.upload(name, io.BytesIO(data), len(data), notes)
    async with manifest.leading(archive.pool) as lead:
        rebuilt = await rebuild(lead, archive.store, None)
    assert (rebuilt.entered, rebuilt.problems) == (1, [])


async def problems(archive: Any, day: date) -> list[str]:
    wanted = PartFilter(Dataset.TELEMETRY, None, day, day + timedelta(days=1))
    checked = await check(archive.pool, archive.store, wanted, 1.0, None)
    assert checked.parts == 1
    return checked.problems


async def test_a_file_without_masks_is_whole_read_restored_and_merged_with_late_rows(
    archive: Any,
) -> None:
    await put_old_file(archive)
    assert await problems(archive, OLD_DAY) == []
    before = await archive.read("P-1", OLD_DAY)
    assert len(before) == 24
    assert {(row["refused_mask"], row["clamped_mask"]) for row in before} == {(None, None)}
    assert [row["time"] for row in await restored(archive, OLD_DAY)] == [row["time"] for row in before]

    midnight = datetime.combine(OLD_DAY, time(), UTC)
    (whole,) = await archive.parts(OLD_DAY)
    await store_reading(archive, midnight, 1800, None, None, None)
    await archive.archived_and_dropped(OLD_DAY)
    (again,) = await archive.parts(OLD_DAY)
    assert (again.sha256, again.part.etag) == (whole.sha256, whole.part.etag), "what is known changes nothing"

    await store_reading(archive, midnight + timedelta(minutes=30), None, 500, MOTOR, None)
    await store_reading(archive, midnight + timedelta(hours=2), None, 0, RUNNING, CHOKE)
    await archive.archived_and_dropped(OLD_DAY)
    (merged,) = await archive.parts(OLD_DAY)
    assert merged.part.rows == 49
    after = {row["time"]: row for row in await archive.read("P-1", OLD_DAY)}
    assert masks_of([*after.values()]) == {(0, 30): (MOTOR, None), (2, 0): (None, CHOKE)}
    filled = {"choke_pct": 0, "clamped_mask": CHOKE}
    assert [after[row["time"]] for row in before] == [
        row | filled if row["time"].hour == 2 else row for row in before
    ]
    assert await problems(archive, OLD_DAY) == []


async def test_files_with_and_without_masks_are_read_together(
    archive: Any, new_day: date, tmp_path: Path
) -> None:
    await store_reading(archive, datetime.combine(new_day, time(), UTC), 1800, None, CHOKE, None)
    await archive.run()
    (stored,) = await archive.parts(new_day)
    container = ContainerClient.from_connection_string(
        archive.settings.blob_connection_string, archive.settings.blob_container
    )
    data = await asyncio.to_thread(lambda: container.download_blob(stored.name).readall())
    old_name = Place(Dataset.TELEMETRY, "north", OLD_DAY, 0).name
    for name, content in ((stored.name, data), (old_name, OLD_FILE.read_bytes())):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = duckdb.sql(
        "SELECT year, count(*), bit_or(refused_mask), bit_or(clamped_mask)"
        f" FROM read_parquet('{tmp_path}/telemetry/v1/**/*.parquet', hive_partitioning = true,"
        " union_by_name = true) GROUP BY year ORDER BY year"
    ).fetchall()
    assert found == [(2023, 48, None, None), (new_day.year, 1, CHOKE, None)]
