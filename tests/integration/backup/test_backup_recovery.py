"""Restores that are refused, run at once or find a damaged archive; incremental backups, holds and holes."""

import asyncio
import base64
import os
import pty
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest
from backup_site import Site, open_site
from esp_backup.blobs import Blobs
from esp_backup.programs import Account, start
from esp_backup.recovery import Recovery
from esp_backup.store import catalogue
from esp_backup.store.cluster import Cluster
from esp_common.errors import Conflict
from waiting import until

pytestmark = pytest.mark.timeout(600)
OTHER_KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture(scope="module")
async def site(server_home: Path) -> AsyncIterator[Site]:
    """A cluster with a full backup in each repository; its storage engine makes no difference."""
    async with open_site(server_home / "backup-recovery") as site:
        await site.rows("CREATE TABLE public.steps (step int)")
        await site.work.physical("full")
        yield site


async def _step(site: Site, step: int) -> str:
    """Commit a row, and return the segment of the log that it is in, once that is archived."""
    await site.rows("INSERT INTO public.steps VALUES ($1)", step)
    segment = (await site.rows("SELECT pg_walfile_name(pg_current_wal_lsn()) AS name"))[0]["name"]
    await Cluster(site.settings.cluster_url).archive_now(120)
    return str(segment)


async def _steps(site: Site, data: Path) -> list[int]:
    """Return the rows of a restored cluster, started as docs/runbooks/restore.md says: it never archives."""
    options = {
        "archive_mode": "off",
        "listen_addresses": "",
        "port": "6543",
        "unix_socket_directories": data,
    }
    argv = [str(site.settings.postgres_bin / "postgres"), "-D", str(data)]
    argv += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    process = await start(argv, Account.owner_of(data), errors=asyncio.subprocess.DEVNULL)
    url = f"postgresql://postgres@/esp?host={data}&port=6543"

    async def rows() -> list[asyncpg.Record] | None:
        assert process.returncode is None
        with suppress(OSError, asyncpg.PostgresError):
            return await site.rows(
                "SELECT step, current_setting('archive_mode') AS archives FROM public.steps ORDER BY 1",
                url=url,
            )
        return None

    try:
        found = await until(rows, "the restored cluster answers", timeout_s=60)
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert {row["archives"] for row in found} == {"off"}
    return [row["step"] for row in found]


def _local(site: Site, segment: str) -> Path:
    [path] = (site.settings.local_repository / "archive" / "esp").rglob(f"{segment}-*")
    return path


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("key", [OTHER_KEY, ""], ids=["another", "none"])
async def test_restore_with_the_wrong_key_is_one_line_and_changes_nothing(site, key):
    live = site.repository.configuration.read_text()
    target = site.settings.state_folder / "never"
    status, _, errors = await site.run(
        "restore", "--to", "latest", "--target", str(target), encryption_key=key
    )
    assert status == 2
    assert "does not open with this encryption key" in errors
    assert "ESP_BACKUP_ENCRYPTION_KEY_FILE" in errors
    assert len(errors.splitlines()) == 1
    assert not target.exists()
    assert site.repository.configuration.read_text() == live
    assert not list(site.settings.state_folder.glob("restore-*"))


@pytest.mark.parametrize("arguments", [("now", "full"), ("now", "incr"), ("drill",), ("verify",)])
async def test_commands_with_other_settings_than_the_archive_are_refused(site, arguments):
    live = site.repository.configuration.read_text()
    status, _, errors = await site.run(*arguments, blob_container="elsewhere", encryption_key=OTHER_KEY)
    assert status == 2
    assert "repo1-azure-container, repo1-cipher-pass, repo2-cipher-pass differ" in errors
    assert site.repository.configuration.read_text() == live


async def test_restores_at_once_do_not_disturb_each_other(site):
    await _step(site, 1)
    moment = (await site.rows("SELECT clock_timestamp() AS at"))[0]["at"]
    await _step(site, 2)
    folder = site.settings.state_folder
    before, latest = folder / "before", folder / "latest"
    done = await asyncio.gather(
        site.run("restore", "--to", moment.isoformat(), "--target", str(before)),
        site.run("restore", "--to", "latest", "--target", str(latest)),
    )
    assert [status for status, _, _ in done] == [0, 0], done
    assert (await _steps(site, before), await _steps(site, latest)) == ([1], [1, 2])
    assert not list(folder.glob("restore-*"))
    assert "restore_command" not in (latest / "postgresql.auto.conf").read_text()


async def test_restore_into_the_folder_of_another_restore_is_refused(site):
    target = site.settings.state_folder / "contended"
    recovery = Recovery(site.settings, site.work.account)
    results = await asyncio.gather(
        recovery.restore(None, target), recovery.restore(None, target), return_exceptions=True
    )
    refused = [each for each in results if isinstance(each, Conflict)]
    assert len(refused) == 1, results
    assert "another restore writes to" in refused[0].detail
    assert (target / "PG_VERSION").exists()


async def test_segments_damaged_or_missing_in_one_repository_come_from_the_other(site):
    damaged, missing = await _step(site, 3), await _step(site, 4)
    paths = [_local(site, damaged), _local(site, missing)]
    kept = [path.read_bytes() for path in paths]
    _flip(paths[0])
    paths[1].unlink()
    try:
        target = site.settings.state_folder / "from-local"
        recovery = Recovery(site.settings, site.work.account)
        done = await recovery.restore(None, target, "local")
        assert done.backup.place == "local"
        assert await _steps(site, target) == [1, 2, 3, 4]
        wrong = await site.work.verify_physical("local")
        assert len(wrong) == 1
        assert f"segment {damaged}" in wrong[0]
        assert await catalogue.holes(site.pool) == []
    finally:
        for path, content in zip(paths, kept, strict=True):
            path.write_bytes(content)


async def test_incremental_backup_is_restored_on_top_of_its_full_one(site):
    await site.work.physical("incr")
    await _step(site, 5)
    rows = await site.rows("SELECT place, name FROM backup.backups WHERE kind = 'incr' AND gone_at IS NULL")
    assert {row["place"] for row in rows} == {"azure", "local"}
    target = site.settings.state_folder / "incremental"
    done = await Recovery(site.settings, site.work.account).restore(None, target)
    assert (done.backup.type, done.backup.label) in {("incr", row["name"]) for row in rows}
    assert await _steps(site, target) == [1, 2, 3, 4, 5]


async def _labels(site: Site, place: str) -> list[str]:
    query = (
        "SELECT name FROM backup.backups WHERE place = $1 AND kind <> 'dump' AND gone_at IS NULL ORDER BY 1"
    )
    return [row["name"] for row in await site.rows(query, place)]


async def test_held_backup_stays_until_it_is_released(site):
    first = (await _labels(site, "local"))[0]
    status, said, errors = await site.run("hold", first, "--reason", "before the migration")
    assert status == 0, errors
    assert said == f"{first} is held in local\n"
    work = site.changed(local_fulls=1)
    await work.repository.backup("local")
    await work.expire_physical(["local"])
    assert first in await _labels(site, "local")
    _, listed, _ = await site.run("list", "--kind", "full")
    assert [line.split("\t")[-1] for line in listed.splitlines() if f"\t{first}\t" in line] == [
        "before the migration"
    ]
    assert (await site.run("release", first))[0] == 0
    await work.expire_physical(["local"])
    assert first not in " ".join(await _labels(site, "local"))
    audited = await site.rows(
        "SELECT routing_key FROM backup.outbox WHERE routing_key LIKE 'backup.backup.%' ORDER BY id"
    )
    assert [row["routing_key"] for row in audited] == ["backup.backup.held", "backup.backup.released"]


async def test_hold_of_a_backup_that_is_not_there_is_refused(site):
    status, _, errors = await site.run("hold", "20200101-000000F", "--reason", "x")
    assert status == 4
    assert "no physical backup 20200101-000000F" in errors


async def test_segment_missing_everywhere_is_a_hole_that_is_shown_and_not_restored_to(site):
    missing = await _step(site, 6)
    moment: datetime = (await site.rows("SELECT clock_timestamp() AS at"))[0]["at"]
    await _step(site, 7)
    path = _local(site, missing)
    kept = path.read_bytes()
    path.unlink()
    async with Blobs(site.settings) as blobs:
        [name] = [blob.name for blob in await blobs.all("") if missing in blob.name]
        content = await blobs.get(name)
        await blobs.delete(name)
        try:
            await site.work.physical("incr")
            [hole] = await catalogue.holes(site.pool)
            assert (hole.first_segment, hole.segments) == (missing, 1)
            assert hole.begin < moment < hole.end
            target = site.settings.state_folder / "in-the-hole"
            status, _, errors = await site.run("restore", "--to", moment.isoformat(), "--target", str(target))
            assert status == 2
            assert f"1 segments are missing from {missing} on" in errors
            assert not target.exists()
        finally:
            path.write_bytes(kept)
            await blobs.put(name, content, {})
    await site.work.note_physical()
    assert await catalogue.holes(site.pool) == []


async def test_long_work_shows_its_progress_at_a_terminal(site):
    terminal, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *site.argv("verify"), env=site.environment(), stdout=asyncio.subprocess.DEVNULL, stderr=slave
    )
    os.close(slave)
    shown = await asyncio.to_thread(_read_all, terminal)
    assert await process.wait() == 0, shown
    for what in ("read azure again", "read local again", "read the daily sets again"):
        assert what in shown


def _read_all(terminal: int) -> str:
    parts = []
    # Linux ends a terminal that nobody writes to any more with an error.
    with suppress(OSError):
        while part := os.read(terminal, 65_536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode(errors="replace")
