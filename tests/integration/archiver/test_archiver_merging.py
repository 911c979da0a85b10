"""Late readings are merged into the archive: each value once, for every reader, whenever a run is killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from azure.storage.blob import ContainerClient
from blob_proxy import BlobProxy
from esp_archiver.domain.datasets import Dataset
from esp_archiver.rebuilding import rebuild
from esp_archiver.runs import Archive, Selection
from esp_archiver.storage import Damaged, open_store
from esp_archiver.store import manifest
from esp_archiver.store.manifest import PartFilter
from esp_archiver.verification import check
from esp_common.errors import EspError
from waiting import until

HOUR = timedelta(hours=1)
COLUMNS = "pump_no, time, choke_pct, intake_pressure_psi"


def container(archive: Any, settings: Any = None) -> ContainerClient:
    settings = settings or archive.settings
    return ContainerClient.from_connection_string(settings.blob_connection_string, settings.blob_container)


async def late(archive: Any, day: date, *rows: tuple[int, timedelta, int | None, int | None]) -> None:
    """Have readings come late: pump, time of the day, choke and intake pressure, scaled."""
    await archive.ensure_partition(day)
    start = datetime.combine(day, time(), UTC)
    insert = f"INSERT INTO ingest.telemetry ({COLUMNS}) VALUES ($1, $2, $3, $4)"
    for pump, at, choke, pressure in rows:
        await archive.admin.execute(insert, pump, start + at, choke, pressure)


async def outside(archive: Any, day: date, folder: Path) -> list[tuple[Any, ...]]:
    """Return a day's readings as somebody sees them who reads all files of the layout."""
    source = container(archive)
    for name in await archive.names("telemetry/v1/"):
        if f"/year={day:%Y}/month={day:%m}/day={day:%d}/" in name:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(await asyncio.to_thread(lambda name=name: source.download_blob(name).readall()))
    return duckdb.sql(
        f"SELECT pump_id, epoch_us(time), choke_pct FROM read_parquet('{folder}/**/*.parquet') ORDER BY ALL"
    ).fetchall()


def keys(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row[:2] for row in rows]


async def test_readings_sent_again_make_no_second_copy(archive: Any, new_day: date, tmp_path: Path) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    before = await archive.parts(new_day)
    await archive.add(new_day, every=HOUR)
    outcome = await archive.run()
    assert (outcome.parts, outcome.problems) == (0, [])
    after = await archive.parts(new_day)
    assert [each.sha256 for each in after] == [each.sha256 for each in before]
    event = [each for each in await archive.events() if each["day"] == new_day.isoformat()][-1]
    assert (event["readings"], event["contradictions"]) == (72, [])
    assert await archive.settle(event) is None, "ingest drops them again"
    found = await outside(archive, new_day, tmp_path)
    assert len(found) == len(set(keys(found))) == 72
    assert (await archive.run()).parts == 0


async def test_late_readings_are_in_one_file_with_what_was_there(
    archive: Any, new_day: date, tmp_path: Path
) -> None:
    await archive.add(new_day, every=HOUR)
    for night in range(3):
        await archive.archived_and_dropped(new_day)
        minute = timedelta(minutes=1 + night)
        await late(archive, new_day, (1, HOUR + minute, 500, 1), (1, HOUR, 600, None), (3, minute, 70, 2))
        assert (await archive.run()).problems == []
        assert [each.part.place.part for each in await archive.parts(new_day)] == [0, 0]
        found = await outside(archive, new_day, tmp_path)
        assert len(found) == len(set(keys(found))) == 72 + 2 * (night + 1)
        assert len(await archive.read("P-1", new_day)) == 25 + night
    assert await archive.names("merging/") == []
    (added,) = (
        row for row in await archive.read("P-1", new_day) if row["time"].hour == 1 and not row["time"].minute
    )
    assert added["choke_pct"] == 60


async def test_a_value_that_contradicts_the_archived_one_is_handed_back(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    before = await archive.read("P-1", new_day)
    await late(archive, new_day, (1, HOUR, None, 39_999))
    await archive.run()
    event = [each for each in await archive.events() if each["day"] == new_day.isoformat()][-1]
    (found,) = event["contradictions"]
    assert (found["pump_id"], found["channel"], found["value"]) == ("P-1", "intake_pressure_psi", 1999.95)
    assert found["archived"] == before[1]["intake_pressure_psi"]
    assert await archive.read("P-1", new_day) == before


async def scattered(archive: Any, day: date, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archive a day in several parts, as under policies that keep objects from being replaced."""

    async def nothing(*_: Any) -> list[str]:
        return []

    await archive.add(day, every=HOUR)
    with monkeypatch.context() as patched:
        patched.setattr(Archive, "protect", nothing)
        for number in range(3):
            outcome = await archive.run(legal_hold=True)
            assert outcome.problems == []
            event = [each for each in await archive.events() if each["day"] == day.isoformat()][-1]
            assert await archive.settle(event) is None
            minute = timedelta(minutes=1 + number)
            await late(archive, day, (1, minute, 500, 1), (1, timedelta(), 600, None), (1, HOUR, 600, None))
        await archive.run(legal_hold=True)
        event = [each for each in await archive.events() if each["day"] == day.isoformat()][-1]
        assert await archive.settle(event) is None


async def test_late_parts_beside_a_held_one_have_what_is_new_and_are_merged_when_they_may(
    archive: Any, new_day: date, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scattered(archive, new_day, monkeypatch)
    parts = [
        (each.part.place.field_id, each.part.place.part, each.part.rows)
        for each in await archive.parts(new_day)
    ]
    assert parts == [("north", 0, 48), ("north", 1, 3), ("north", 2, 1), ("north", 3, 1), ("south", 0, 24)]
    found = await outside(archive, new_day, tmp_path / "held")
    assert sum(row[2] is not None for row in found) == 5, "each value once"
    readings = await archive.read("P-1", new_day)
    assert (await archive.run()).problems == []
    parts = [
        (each.part.place.field_id, each.part.place.part, each.part.rows)
        for each in await archive.parts(new_day)
    ]
    assert parts == [("north", 0, 51), ("south", 0, 24)]
    assert await archive.read("P-1", new_day) == readings
    found = await outside(archive, new_day, tmp_path / "merged")
    assert len(found) == len(set(keys(found))) == 75
    assert (await archive.run()).parts == 0


async def test_a_run_of_a_field_and_a_span_does_no_more(archive: Any, new_day: date) -> None:
    days = [new_day + timedelta(days=number) for number in range(3)]
    for day in days:
        await archive.add(day, every=HOUR)
    selection = Selection("north", days[1], days[2])
    async with manifest.leading(archive.pool) as lead:
        outcome = await Archive(archive.pool, archive.store, archive.settings).run(
            lead, archive.today, selection
        )
    assert (outcome.parts, outcome.days) == (1, 0), "the day is not archived whole, so ingest is not told"
    written = {day: [each.part.place.field_id for each in await archive.parts(day)] for day in days}
    assert written == {days[0]: [], days[1]: ["north"], days[2]: []}
    assert (await archive.run()).parts == 5


@pytest.fixture
async def proxy(archive: Any) -> AsyncIterator[BlobProxy]:
    proxy = BlobProxy(archive.azurite)
    async with proxy.running():
        yield proxy


async def killed_run(archive: Any, proxy: BlobProxy, at: int) -> bool:
    """Run the archive in a process that is killed at the store's answer `at`; return whether it was."""
    proxy.clear()
    environment = {
        **os.environ,
        "ESP_ARCHIVER_DATABASE_URL": archive.settings.database_url,
        "ESP_ARCHIVER_BLOB_CONNECTION_STRING": proxy.connection_string,
        "ESP_ARCHIVER_BLOB_CONTAINER": archive.settings.blob_container,
        "ESP_ARCHIVER_VERIFY_SHARE": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from esp_archiver.cli import main; main()", "run", env=environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def kill(number: int) -> None:
        if number == at and process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)

    proxy.after = kill
    code = await asyncio.wait_for(process.wait(), 60)
    await until(lambda: nobody_leads(archive), "the database has seen that the process is gone")
    proxy.clear()
    return code == -signal.SIGKILL


async def nobody_leads(archive: Any) -> bool:
    async with manifest.leading(archive.pool) as lead:
        return lead is not None


class Failing:
    """A store that does its call number `at`, and then is away as if the process had died."""

    def __init__(self, store: Any, at: int) -> None:
        self._store = store
        self._left = at
        self.died = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name not in ("upload", "delete", "find", "download"):
            return call

        async def counted(*arguments: Any, **options: Any) -> Any:
            if self.died:
                raise ConnectionResetError
            answer = await call(*arguments, **options)
            self._left -= 1
            if self._left == 0:
                self.died = True
                raise ConnectionResetError
            return answer

        return counted


async def test_a_merge_that_ends_at_any_step_loses_nothing_and_doubles_nothing(
    archive: Any, new_day: date, tmp_path: Path
) -> None:
    await archive.add(new_day, every=HOUR, pumps=["P-1"])
    await archive.archived_and_dropped(new_day)
    expected = {row["time"] for row in await archive.read("P-1", new_day)}
    for step in range(1, 100):
        at = timedelta(minutes=step)
        await late(archive, new_day, (1, at, 500, step))
        store = Failing(archive.store, step)
        with suppress(ConnectionResetError):
            await archive.run(store)
        new = datetime.combine(new_day, time(), UTC) + at
        seen = [row["time"] for row in await archive.read("P-1", new_day)]
        assert len(seen) == len(set(seen)), f"a reading twice after step {step}"
        assert expected <= set(seen) <= expected | {new}
        found = await outside(archive, new_day, tmp_path)
        assert len(found) == len(set(keys(found))) >= len(expected)
        assert (await archive.run()).problems == []
        expected |= {new}
        assert {row["time"] for row in await archive.read("P-1", new_day)} == expected
        assert await archive.names("merging/") == []
        if not store.died:
            assert step > 6
            return
    pytest.fail("a run has more steps than were tried")


async def test_a_process_killed_while_it_merges_leaves_nothing_wrong(
    archive: Any, proxy: BlobProxy, new_day: date, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scattered(archive, new_day, monkeypatch)
    readings = await archive.read("P-1", new_day)
    killed = []
    for at in (11, 14, 16):
        killed.append(await killed_run(archive, proxy, at))
        assert await archive.read("P-1", new_day) == readings, f"killed at {at}"
    assert killed[0]
    assert (await archive.run()).problems == []
    assert await archive.read("P-1", new_day) == readings
    found = await outside(archive, new_day, tmp_path)
    assert len(found) == len(set(keys(found))) == 75


async def test_a_merge_that_the_store_damages_replaces_nothing(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR, pumps=["P-1"])
    await archive.archived_and_dropped(new_day)
    await late(archive, new_day, (1, timedelta(minutes=1), 500, 1))
    before = await archive.parts(new_day)

    class Corrupting:
        """A store that changes a byte of what it is given."""

        def __getattr__(self, name: str) -> Any:
            return getattr(archive.store, name)

        async def upload(self, name: str, file: Any, size: int, notes: Any, **options: Any) -> str:
            await archive.store.upload(name, file, size, notes, **options)
            blob = container(archive).get_blob_client(name)
            body = bytearray(blob.download_blob().readall())
            body[300] ^= 1
            blob.upload_blob(bytes(body), overwrite=True, metadata=dict(notes))
            return str((await archive.store.find(name)).etag)

    outcome = await archive.run(Corrupting())
    assert len(outcome.problems) == 1
    assert await archive.parts(new_day) == before
    assert len(await archive.read("P-1", new_day)) == 24
    assert (await archive.run()).problems == []
    assert len(await archive.read("P-1", new_day)) == 25


async def test_a_part_that_is_damaged_while_it_is_replaced_is_put_back_from_its_proved_copy(
    archive: Any, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR, pumps=["P-1"])
    await archive.archived_and_dropped(new_day)
    await late(archive, new_day, (1, timedelta(minutes=1), 500, 1))
    (part,) = await archive.parts(new_day)

    class Tearing:
        """A store that damages the part that is replaced, and is away from then on."""

        def __getattr__(self, name: str) -> Any:
            return getattr(archive.store, name)

        async def upload(self, name: str, *arguments: Any, **options: Any) -> str:
            etag: str = await archive.store.upload(name, *arguments, **options)
            if name == part.name:
                await asyncio.to_thread(container(archive).upload_blob, name, b"torn", overwrite=True)
                raise ConnectionResetError
            return etag

    with pytest.raises(ConnectionResetError):
        await archive.run(Tearing())
    with pytest.raises(Damaged):
        await archive.read("P-1", new_day)
    assert (await archive.run()).problems == []
    assert len(await archive.read("P-1", new_day)) == 25
    kinds = [event["object"] for event in await archive.events("archive.repaired")]
    assert kinds == [part.name]


async def uploaded_again(archive: Any, name: str, body: bytes | None = None) -> None:
    """Upload an object's own bytes (or others) again: it gets another tag."""
    source = container(archive)
    good = body if body is not None else await asyncio.to_thread(lambda: source.download_blob(name).readall())
    await asyncio.to_thread(lambda: source.upload_blob(name, good, overwrite=True))


@pytest.mark.parametrize("first", ["read", "verify", "rebuild"])
async def test_good_bytes_under_another_tag_are_read(archive: Any, new_day: date, first: str) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    readings = await archive.read("P-1", new_day)
    (north, _) = await archive.parts(new_day)
    await uploaded_again(archive, north.name)
    if first == "verify":
        assert (
            await check(archive.pool, archive.store, PartFilter(Dataset.TELEMETRY), 1, None)
        ).problems == []
    elif first == "rebuild":
        async with manifest.leading(archive.pool) as lead:
            rebuilt = await rebuild(lead, archive.store, None)
        assert (rebuilt.refreshed, rebuilt.problems) == (1, [])
    if first != "read":
        found = await archive.store.find(north.name)
        assert (await archive.parts(new_day))[0].part.etag == found.etag
    assert await archive.read("P-1", new_day) == readings
    found = await archive.store.find(north.name)
    assert (await archive.parts(new_day))[0].part.etag == found.etag


async def test_an_archive_copied_to_another_container_is_read_there(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    readings = await archive.read("P-1", new_day)
    settings = archive.settings.model_copy(
        update={"blob_container": f"{archive.settings.blob_container}-copy"}
    )
    async with open_store(settings) as store:
        await store.ensure()
        for name in await archive.names():
            body = await asyncio.to_thread(lambda name=name: container(archive).download_blob(name).readall())
            await asyncio.to_thread(container(archive, settings).upload_blob, name, body)
        moved = replace(archive, settings=settings, store=store)
        assert await moved.read("P-1", new_day) == readings
        assert (await check(moved.pool, store, PartFilter(Dataset.TELEMETRY), 1, None)).problems == []
        assert await moved.read("P-3", new_day)
    assert (await check(archive.pool, archive.store, PartFilter(Dataset.TELEMETRY), 1, None)).problems == []


async def test_damage_is_told_of_for_each_object_until_that_object_is_read_well(
    archive: Any, new_day: date
) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    (north, _) = await archive.parts(new_day)
    source = container(archive)
    good = await asyncio.to_thread(lambda: source.download_blob(north.name).readall())
    await uploaded_again(archive, north.name, good[:200] + bytes([good[200] ^ 1]) + good[201:])
    assert (await archive.run(verify_share=1)).problems == [], "the archive was written all the same"
    (event,) = await archive.events("archive.damaged")
    assert event["object"] == north.name
    with pytest.raises(Damaged):
        await archive.read("P-1", new_day)
    await check(archive.pool, archive.store, PartFilter(Dataset.TELEMETRY, until=new_day), 1, None)
    await check(archive.pool, archive.store, PartFilter(Dataset.TELEMETRY), 1, None)
    assert await archive.read("P-3", new_day), "the other object is well"
    assert await archive.events("archive.repaired") == [], "it is damaged still"
    await uploaded_again(archive, north.name, good)
    assert await archive.read("P-1", new_day)
    assert [event["object"] for event in await archive.events("archive.repaired")] == [north.name]
    assert [each.damaged for each in await archive.parts(new_day)] == [None, None]


async def test_who_reads_a_damaged_object_has_it_told_of_once(archive: Any, new_day: date) -> None:
    await archive.add(new_day, every=HOUR)
    await archive.archived_and_dropped(new_day)
    (north, _) = await archive.parts(new_day)
    await uploaded_again(archive, north.name, b"nothing of the kind")
    for _ in range(2):
        with pytest.raises(EspError):
            await archive.read("P-1", new_day)
    assert [event["object"] for event in await archive.events("archive.damaged")] == [north.name]
