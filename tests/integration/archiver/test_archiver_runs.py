"""What is archived is what there was; what comes late, or is done twice, changes nothing of that."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import duckdb
import pyarrow.parquet as pq
import pytest
from azure.storage.blob import ContainerClient
from esp_archiver.domain.datasets import Dataset
from esp_archiver.rebuilding import rebuild
from esp_archiver.runs import Archive
from esp_archiver.store import manifest
from esp_archiver.store.manifest import PartFilter
from esp_archiver.verification import check
from esp_diagnostics.store.migrations import migrate as migrate_diagnostics
from esp_ingest.archived import Refusal
from esp_platform.databases import DIAGNOSTICS_OWNER

HOUR = timedelta(hours=1)


async def source_rows(archive: Any, pump_id: str, day: date) -> list[dict[str, Any]]:
    """Return a pump's day as ingest publishes it."""
    rows = await archive.admin.fetch(
        "SELECT * FROM telemetry_v1.readings WHERE pump_id = $1 AND time >= $2::date AND time < $2::date + 1"
        " ORDER BY time",
        pump_id,
        day,
    )
    left_out = {"field_id", "fault_mask", "frozen_mask", "refused_channels", "clamped_channels"}
    return [{name: value for name, value in row.items() if name not in left_out} for row in rows]


def of_day(events: list[dict[str, Any]], day: date) -> list[dict[str, Any]]:
    return [event for event in events if event["day"] == day.isoformat()]


async def test_a_day_is_archived_by_field_and_reads_back_as_it_was(archive: Any, new_day: date) -> None:
    await archive.add(new_day)
    before = {pump: await source_rows(archive, pump, new_day) for pump in ("P-1", "P-3")}
    outcome = await archive.run()
    assert (outcome.days, outcome.parts, outcome.rows, outcome.problems) == (1, 2, 3 * 1440, [])
    folder = f"year={new_day:%Y}/month={new_day:%m}/day={new_day:%d}/part-0000.parquet"
    assert set(await archive.names()) >= {
        f"telemetry/v1/field={name}/{folder}" for name in ("north", "south")
    }
    (event,) = await archive.events()
    assert await archive.settle(event) is None, "ingest finds the same and drops it"
    for pump, rows in before.items():
        assert await archive.read(pump, new_day) == rows
    assert await source_rows(archive, "P-1", new_day) == []


async def test_long_work_reports_its_progress(archive: Any, new_day: date) -> None:
    reported: list[tuple[str, float | None]] = []

    def progress(what: str, fraction: float | None) -> None:
        reported.append((what, fraction))

    await archive.add(new_day, every=HOUR)
    async with manifest.leading(archive.pool) as lead:
        await Archive(archive.pool, archive.store, archive.settings, progress).run(lead, archive.today)
        assert {what for what, _ in reported} == {"archive days of telemetry"}
        reported.clear()
        await check(archive.pool, archive.store, PartFilter(), 1, None, progress)
        assert [fraction for _, fraction in reported] == sorted(fraction for _, fraction in reported)
        assert (reported[0], len(reported)) == (
            ("read parts again", 0),
            len(await archive.names("telemetry")),
        )
        reported.clear()
        await rebuild(lead, archive.store, None, progress)
        assert reported == [("read the archive's objects", None)]


async def test_running_again_writes_nothing_and_tells_the_same(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.run()
    (first,) = of_day(await archive.events(), new_day)
    parts = await archive.parts(new_day)
    again = await archive.run()
    (second,) = of_day(await archive.events(), new_day)
    assert again.parts == 0
    assert second == first
    assert await archive.parts(new_day) == parts


async def test_a_day_that_is_not_past_its_age_stays(archive: Any) -> None:
    day = archive.today - timedelta(days=archive.settings.telemetry_after_days)
    await archive.add(day, every=HOUR)
    await archive.run()
    assert await archive.parts(day) == []


async def test_a_day_that_changed_before_it_went_is_written_anew(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.run()
    (stale,) = of_day(await archive.events(), new_day)
    late = datetime.combine(new_day, time(3, 30), UTC)
    await archive.admin.execute(
        "INSERT INTO ingest.telemetry (pump_no, time, choke_pct) VALUES (1, $1, 500)", late
    )
    assert await archive.settle(stale) is Refusal.CHANGED
    assert (await archive.run()).parts == 1, "the other field's part is as it was"
    (north, south) = await archive.parts(new_day)
    assert (north.revision, north.part.place.part, north.part.rows) == (2, 0, 49)
    assert south.revision == 1
    (fresh,) = of_day(await archive.events(), new_day)
    assert await archive.settle(fresh) is None
    assert [row["choke_pct"] for row in await archive.read("P-1", new_day) if row["time"] == late] == [50]


async def test_late_readings_of_a_day_that_is_gone_are_merged_into_its_part(
    archive: Any, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    before = await archive.read("P-1", new_day)
    at = datetime.combine(new_day, time(3, 30), UTC)
    await archive.ensure_partition(new_day)
    await archive.admin.execute(
        "INSERT INTO ingest.telemetry (pump_no, time, choke_pct, intake_pressure_psi) VALUES"
        " (1, $1, 500, 1), (1, $2, 600, 77)",
        at,
        at - timedelta(minutes=30),
    )
    await archive.archived_and_dropped(new_day)
    parts = [
        (stored.part.place.field_id, stored.part.place.part, stored.part.rows)
        for stored in await archive.parts(new_day)
    ]
    assert parts == [("north", 0, 49), ("south", 0, 24)]
    after = await archive.read("P-1", new_day)
    assert [row["time"] for row in after] == sorted({row["time"] for row in before} | {at})
    (repeated,) = (row for row in after if row["time"] == at - timedelta(minutes=30))
    (first,) = (row for row in before if row["time"] == at - timedelta(minutes=30))
    assert repeated == {**first, "choke_pct": 60}, "what was there stays, what was missing is added"


async def test_an_archived_day_is_replaced_only_by_what_holds_all_of_it(archive: Any, new_day: date) -> None:
    """Even if what ingest told of it never arrived."""
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    before = await archive.read("P-1", new_day)
    await archive.ensure_partition(new_day)
    await archive.admin.execute(
        "INSERT INTO ingest.telemetry (pump_no, time, choke_pct) VALUES (1, $1, 1)",
        datetime.combine(new_day, time(1, 1), UTC),
    )
    await archive.run()
    after = await archive.read("P-1", new_day)
    assert [row for row in after if row["time"].minute == 0] == before
    assert len(after) == len(before) + 1


async def test_an_object_nobody_entered_is_merged_and_loses_nothing(archive: Any, new_day: date) -> None:
    """What a database put back to an earlier time does not know of may be nowhere else."""
    await archive.add(new_day, every=HOUR)
    await archive.run()
    await archive.admin.execute("DELETE FROM archiver.parts WHERE day = $1", new_day)
    await archive.admin.execute(
        "DELETE FROM ingest.telemetry WHERE pump_no = 1 AND time = $1",
        datetime.combine(new_day, time(5), UTC),
    )
    await archive.run()
    parts = await archive.parts(new_day)
    assert [(each.part.place.field_id, each.part.place.part, each.part.sole) for each in parts] == [
        ("north", 0, True),
        ("south", 0, False),
    ]
    assert len(await archive.read("P-1", new_day)) == 24, "the reading the database has lost"


async def test_two_archivers_do_not_work_at_once(archive: Any) -> None:
    async with manifest.leading(archive.pool) as first, manifest.leading(archive.pool) as second:
        assert first is not None
        assert second is None


async def test_who_lost_the_lead_enters_nothing(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    killing = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"

    class Losing:
        """A store during whose first upload the connection of the lead ends."""

        def __getattr__(self, name: str) -> Any:
            return getattr(archive.store, name)

        async def upload(self, *arguments: Any, **options: Any) -> str:
            await archive.admin.execute(killing)
            return await archive.store.upload(*arguments, **options)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await archive.run(Losing())
    assert await archive.parts(new_day) == []
    assert (await archive.run()).problems == []
    assert [each.part.place.part for each in await archive.parts(new_day)] == [0, 0], "no second copy"


async def copied_to(folder: Path, archive: Any, prefix: str) -> None:
    """Copy the archive's objects that begin with `prefix` into a folder, under their names."""
    container = ContainerClient.from_connection_string(
        archive.azurite.connection_string, archive.settings.blob_container
    )
    for name in await archive.names(prefix):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(container.download_blob(name).readall())


async def test_anybody_can_read_the_files(archive: Any, new_day: date, tmp_path: Any) -> None:
    await archive.add(new_day)
    await archive.run()
    await copied_to(tmp_path, archive, "telemetry/v1/")
    found = duckdb.sql(
        "SELECT field, pump_id, count(*), min(time), avg(motor_temp_c), count(motor_temp_c),"
        " sum(len(fault_channels))"
        f" FROM read_parquet('{tmp_path}/telemetry/v1/**/*.parquet', hive_partitioning = true)"
        f" WHERE year = {new_day.year} AND month = {new_day.month} AND day = {new_day.day}"
        " GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    expected = await archive.admin.fetch(
        "SELECT field_id, pump_id, count(*), min(time), avg(motor_temp_c), count(motor_temp_c),"
        " sum(cardinality(fault_channels)) FROM telemetry_v1.readings"
        " WHERE time >= $1::date AND time < $1::date + 1 GROUP BY 1, 2 ORDER BY 1, 2",
        new_day,
    )
    assert [row[:4] for row in found] == [tuple(row)[:4] for row in expected]
    assert [row[4:] for row in found] == [
        pytest.approx(tuple(map(float, tuple(row)[4:]))) for row in expected
    ]
    (stored, *_) = await archive.parts(new_day)
    metadata = pq.read_metadata(tmp_path / stored.name).metadata
    assert metadata[b"esp.rows"] == str(stored.part.rows).encode()
    assert metadata[b"esp.content_hash"] == stored.part.content_hash.encode()
    assert b'"motor_temp_c": "degC"' in metadata[b"esp.units"]


async def test_the_manifest_can_be_made_again_from_the_objects(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.run()
    before = await archive.parts(new_day)
    async with manifest.leading(archive.pool) as lead:
        await archive.admin.execute("DELETE FROM archiver.parts WHERE day = $1", new_day)
        rebuilt = await rebuild(lead, archive.store, None)
    after = await archive.parts(new_day)
    assert (rebuilt.entered, rebuilt.problems) == (2, [])
    assert [
        (each.name, each.sha256, each.part.content_hash, each.pumps, each.last_time) for each in after
    ] == [(each.name, each.sha256, each.part.content_hash, each.pumps, each.last_time) for each in before]


async def test_the_audit_log_is_archived_and_stays(archive: Any, new_day: date) -> None:
    insert = (
        "INSERT INTO auth.audit_log"
        " (seq, time, id, service, actor_kind, action, object, outcome, count, detail, hash)"
        " VALUES ($1, $2, $3, 'ingest', 'key', 'a', 'o', 'success', 1, '{\"a\": [1, null]}', '\\x01')"
    )
    monday = new_day - timedelta(days=new_day.weekday())
    if archive.database.engine == "postgres":
        await archive.admin.execute("SELECT auth.ensure_audit_weeks($1)", [monday])
    for seq in (1, 2):
        await archive.admin.execute(insert, seq, datetime.combine(new_day, time(seq), UTC), uuid4())
    await archive.run()
    (event,) = of_day([each for each in await archive.events() if each["dataset"] == "audit"], new_day)
    assert event["readings"] == 2
    await archive.admin.execute(insert, 3, datetime.combine(new_day, time(0, 1), UTC), uuid4())
    await archive.run()
    (stored,) = await archive.parts(new_day, Dataset.AUDIT)
    assert (stored.part.rows, stored.revision) == (3, 2)
    assert await archive.admin.fetchval("SELECT count(*) FROM auth.audit_log") == 3
    assert [each["readings"] for each in await archive.events() if each["dataset"] == "audit"] == [3]
    assert (await archive.run()).parts == 0
    assert [each for each in await archive.events() if each["dataset"] == "audit"] == [], "told once"


async def test_findings_that_are_over_are_archived_by_the_day_they_ended_and_stay(
    archive: Any, new_day: date, tmp_path: Path
) -> None:
    migrate_diagnostics(archive.database.url(DIAGNOSTICS_OWNER), archive.database.engine)
    insert = (
        "INSERT INTO diagnostics.findings (finding_id, pump_id, field_id, condition, kind, severity,"
        " peak_severity, confidence, onset, raised_at, cleared_at, rule_version, evidence)"
        " VALUES (gen_random_uuid(), $1, 'north', 'gas-lock', 'tree', 'high', 'critical', 0.75,"
        " $2, $2, $3, 'v1', '{\"for\": [\"frequency\"]}')"
    )
    noon = datetime.combine(new_day, time(12), UTC)
    ends = {"P-1": noon, "P-2": noon + HOUR, "P-3": None, "P-4": noon + 24 * HOUR}
    for pump, cleared_at in ends.items():
        await archive.admin.execute(insert, pump, noon - 48 * HOUR, cleared_at)
    await archive.run()
    (event,) = of_day([each for each in await archive.events() if each["dataset"] == "findings"], new_day)
    assert event["readings"] == 2
    assert (await archive.run()).parts == 0
    await copied_to(tmp_path, archive, "findings/v1/")
    found = duckdb.sql(
        "SELECT pump_id, finding_id, condition, peak_severity, confidence, onset = raised_at,"
        " epoch_us(cleared_at), evidence->>'$.for[0]'"
        f" FROM read_parquet('{tmp_path}/findings/v1/**/*.parquet', hive_partitioning = true)"
        f" WHERE year = {new_day.year} AND month = {new_day.month} AND day = {new_day.day}"
        " ORDER BY cleared_at"
    ).fetchall()
    expected = await archive.admin.fetch(
        "SELECT pump_id, finding_id::text, condition, peak_severity, confidence, onset = raised_at,"
        " (extract(epoch FROM cleared_at) * 1000000)::int8, evidence->'for'->>0 FROM diagnostics.findings"
        " WHERE cleared_at::date = $1 ORDER BY cleared_at",
        new_day,
    )
    assert found == [tuple(row) for row in expected]
    assert [row[0] for row in found] == ["P-1", "P-2"]
    assert await archive.admin.fetchval("SELECT count(*) FROM diagnostics.findings") == 4, "all of them stay"
