"""Backups under faults: processes killed, no space, and the database destroyed."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import asyncpg
import orjson
import psutil
import pytest
from backup_site import ONE_ENGINE, Site, open_site
from esp_backup.drill import DrillFailed
from esp_backup.dumps import PARTIAL, NoSpace
from esp_backup.jobs import Jobs
from esp_backup.programs import Account, ProgramFailed
from esp_backup.watch import Watch
from esp_common import topology
from esp_ingest.app import run_worker as run_ingest
from esp_ingest.settings import IngestSettings
from esp_stack.servers import Vhost
from waiting import beside, until

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
async def site(server_home: Path, engine: str) -> AsyncIterator[Site]:
    """A cluster with a full backup in each repository, and a dump."""
    async with open_site(server_home / f"backup-faults-{engine}", engine) as site:
        for kind in ("full", "dump"):
            await Jobs(site.pool, site.work).run(kind, "test")
        await site.failures()
        yield site


@pytest.fixture
def jobs(site: Site) -> Jobs:
    """The work as the worker does it."""
    return Jobs(site.pool, site.work)


def _has(site: Site, *commands: str) -> bool:
    """Return whether a process of the site's runs one of these."""
    home = str(site.settings.state_folder.parent)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if home in line and any(command in line for command in commands):
                return True
    return False


async def _kill_during(site: Site, arguments: tuple[str, ...], *commands: str) -> None:
    """Start an `esp-backup` command and kill it once it has started one of these programs."""
    process = await site.command(*arguments)
    try:
        await until(lambda: _has(site, *commands), f"{commands} run", timeout_s=90)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.communicate()
    await until(lambda: not _has(site, *commands), f"{commands} are gone", timeout_s=30)


def test_a_program_whose_caller_was_killed_meanwhile_does_not_begin():
    command = Account(None, None).command(["echo", "begun"])
    called = subprocess.run(command, capture_output=True, check=False)
    # Somebody else is its parent by now.
    orphaned = subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", *command], capture_output=True, check=False)
    assert (called.returncode, called.stdout) == (0, b"begun\n")
    assert (orphaned.returncode, orphaned.stdout) == (1, b"")


@ONE_ENGINE
async def test_processes_killed_at_any_step_leave_nothing_that_is_in_the_way(site, jobs):
    folder = site.settings.snapshot_folder
    dumps = {dump.name for dump in site.work.dumps.all()[0]}
    await _kill_during(site, ("now", "dump"), "pg_dump ")
    await _kill_during(site, ("now", "full"), " backup")
    await _kill_during(site, ("drill",), "drill/postgresql.conf")
    running = await site.rows("SELECT kind FROM backup.jobs WHERE state = 'running' ORDER BY kind")
    assert [row["kind"] for row in running] == ["drill", "dump", "full"]
    assert {dump.name for dump in site.work.dumps.all()[0]} == dumps

    for kind in ("dump", "full"):
        await jobs.run(kind, "test")
    # Whoever says that the audit log is no good fails the drill, in which all else is well.
    doubter = Jobs(site.pool, site.changed(audit_verify_command="false"))
    with pytest.raises(DrillFailed) as failure:
        await doubter.run("drill", "test")
    checks = {check.name: check.passed for check in failure.value.report.checks}
    assert checks.pop("audit log") is False
    assert len(checks) == 4
    assert all(checks.values())
    kept = await site.rows(
        "SELECT result->>'passed' AS passed FROM backup.jobs ORDER BY started_at DESC LIMIT 1"
    )
    assert kept[0]["passed"] == "false"
    assert sorted(await site.failures()) == ["drill", "drill", "dump", "full"]
    assert not list(folder.glob(f"{PARTIAL}*"))
    assert len(site.work.dumps.all()[0]) == len(dumps) + 1
    contents = await site.repository.contents()
    known = await site.rows("SELECT name FROM backup.backups WHERE kind = 'full' AND gone_at IS NULL")
    assert {row["name"] for row in known} == {full.label for full in contents.backups}


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    """A file system with room for little more than one dump."""
    folder = site.settings.state_folder / "small"
    folder.mkdir()
    newest = site.settings.snapshot_folder / site.work.dumps.all()[0][-1].name
    size = 2 * sum(-(-path.stat().st_size // 4096) * 4096 for path in newest.rglob("*"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no rights to mount a file system here")
    shutil.chown(folder, site.postgres.user)
    yield folder
    subprocess.run(["umount", folder], check=True)


@ONE_ENGINE
async def test_a_full_disk_costs_the_dump_that_does_not_fit_and_no_other(site, small_disk):
    work = site.changed(snapshot_folder=small_disk, snapshot_free_mib=0)
    first = await work.dump()
    ballast = small_disk / "ballast"
    _leave_free(ballast, first["bytes"] // 2)
    with pytest.raises(NoSpace):
        await work.dump()
    await work.dumps.verify(first["name"])
    shutil.rmtree(small_disk / first["name"])
    _leave_free(ballast, 65_536)
    with pytest.raises((ProgramFailed, OSError)):
        await work.dump()
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def _leave_free(ballast: Path, free: int) -> None:
    """Have a file fill the file system it is on but for so many bytes."""
    ballast.unlink(missing_ok=True)
    ballast.write_bytes(bytes(shutil.disk_usage(ballast.parent).free - free))


async def _write(site: Site) -> None:
    """Commit one number after the other, each with its time, until the database is gone."""
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await asyncpg.connect(site.admin_url)
        while True:
            await connection.execute("INSERT INTO public.ledger (at) VALUES (clock_timestamp())")
            await asyncio.sleep(0.02)


async def _watch(watch: Watch) -> None:
    while True:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await watch.look()
        await asyncio.sleep(0.2)


async def _register_gateway(site: Site) -> None:
    await site.rows("INSERT INTO ingest.gateways VALUES ('gw-01', 'north', 'Gateway')")
    await site.rows("INSERT INTO ingest.gateway_pumps SELECT 'gw-01', pump_id FROM ingest.pumps")


async def _send_readings(vhost: Vhost, count: int) -> None:
    first = datetime.now(UTC) - timedelta(hours=1)
    readings = [
        {
            "pump_id": "P-1",
            "time": (first + timedelta(seconds=n, milliseconds=7)).isoformat(),
            "motor_temp_c": 91.5,
        }
        for n in range(count)
    ]
    async with await aio_pika.connect(vhost.url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(topology.INGEST, ensure=False)
        message = aio_pika.Message(
            orjson.dumps(readings), content_type="application/json", message_id="kept-by-the-broker"
        )
        await exchange.publish(message, topology.telemetry_key("gw-01"))


async def test_a_destroyed_database_comes_back_with_what_was_covered_and_takes_what_waited(
    site, jobs, vhost, redis_url
):
    await site.rows("CREATE TABLE public.ledger (n bigserial PRIMARY KEY, at timestamptz)")
    await _register_gateway(site)
    settings = IngestSettings(
        database_url=site.postgres.url("esp_ingest", "esp"),
        amqp_url=vhost.url_for("ingest"),
        redis_url=redis_url,
    )
    watch, stop = Watch(site.settings, site.pool), asyncio.Event()
    query = "SELECT covered_until FROM backup.archiving WHERE covered_until > $1"
    before = (await site.rows("SELECT clock_timestamp() AS at"))[0]["at"]
    ingest = asyncio.create_task(run_ingest(settings, stop))
    async with beside(_write(site), _watch(watch)):

        async def covers_some() -> datetime | None:
            rows = await site.rows(query, before + timedelta(seconds=3))
            return rows[0]["covered_until"] if rows else None

        covered = await until(covers_some, "the archive covers some of what was written", timeout_s=120)
        site.postgres.kill()
        lost_at = datetime.now(UTC)
    shutil.rmtree(site.postgres.data)
    await _send_readings(vhost, 50)

    status, _, errors = await site.run("restore", "--to", "latest", "--target", str(site.postgres.data))
    assert status == 0, errors
    site.postgres.start()
    rows = await site.rows("SELECT count(*) AS rows, max(n) AS last, max(at) AS newest FROM public.ledger")
    assert rows[0]["rows"] == rows[0]["last"]
    assert rows[0]["newest"] > covered - timedelta(seconds=1)
    assert (lost_at - rows[0]["newest"]).total_seconds() < 300

    async def arrived() -> bool:
        found = await site.rows(
            "SELECT count(*) AS n FROM telemetry_v1.readings WHERE pump_id = 'P-1' AND motor_temp_c = 91.5"
        )
        return found[0]["n"] == 50

    await until(arrived, "the readings that the broker kept are stored", timeout_s=90)
    stop.set()
    await ingest
    # The new timeline goes into the archive, and can be restored from in its turn.
    await site.pool.expire_connections()
    await site.repository.backup("azure")
    assert (await jobs.run("drill", "test"))["passed"]
