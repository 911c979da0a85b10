"""What was backed up comes back: by the worker's own drill, to a moment, from a dump, from a daily set."""

import asyncio
import base64
import io
import shutil
import stat
import sys
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from backup_site import ONE_ENGINE, PUMPS, Site, open_site
from esp_auth.domain.secrets import AUDIT_CHAIN, decode_master_key, derive
from esp_backup.app import run_worker
from esp_backup.blobs import Blobs
from esp_backup.domain.sealing import Unreadable
from esp_backup.instance import Instance, RecoveryFailed
from esp_backup.programs import Account
from esp_backup.recovery import Recovery
from esp_backup.repository import Damaged
from esp_backup.sets import DEFINITIONS, VAULT_SNAPSHOT, Sets
from esp_backup.store import jobs
from esp_backup.store.cluster import Cluster
from esp_common.contracts.events import Event
from esp_common.errors import Conflict, InvalidInput
from esp_common.messaging import EventListener
from esp_stack.servers import OpenBao, RabbitMQ, Vhost
from waiting import beside, until

pytestmark = pytest.mark.timeout(420)


@pytest.fixture(scope="module")
def configuration(server_home: Path) -> Path:
    """A file that belongs to the daily set."""
    file = server_home / "platform.conf"
    file.write_text("the platform's configuration")
    file.chmod(0o644)
    return file


@pytest.fixture(scope="module")
def openbao(server_home: Path):
    """A vault with a secret in it."""
    server = OpenBao(server_home / "backup-openbao")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
async def site(
    server_home: Path, engine: str, rabbitmq: RabbitMQ, openbao: OpenBao, configuration: Path
) -> AsyncIterator[Site]:
    """A cluster without a backup, beside a broker and a vault."""
    login = f"http://admin:{rabbitmq.passwords['admin']}@127.0.0.1:{rabbitmq.ports.management}/api"
    async with open_site(
        server_home / f"backup-restore-{engine}",
        engine,
        broker_management_url=login,
        vault_snapshot_url=openbao.url,
        vault_snapshot_token=openbao.token,
        configuration_files=(configuration,),
    ) as site:
        yield site


@pytest.fixture(scope="module")
async def first_round(site: Site, vhost: Vhost) -> SimpleNamespace:
    """What a worker does that finds no backup at all, and the events it sends."""
    settings = site.settings.model_copy(
        update={
            "amqp_url": vhost.url_for("backup"),
            "heartbeat_s": 0.5,
            "poll_s": 0.2,
            "audit_verify_command": f"{Path(sys.executable).with_name('esp-auth')} audit verify",
        }
    )
    heard: list[Event] = []
    listener = EventListener(
        vhost.url_for("diagnostics"), ["backup.*"], on_event=heard.append, on_connected=lambda: None
    )
    stop = asyncio.Event()
    monkeypatch = pytest.MonkeyPatch()
    # The key of the seals is enough: the master key stays with auth.
    key = derive(decode_master_key(site.master_key), AUDIT_CHAIN)
    monkeypatch.setenv("ESP_AUTH_AUDIT_KEY", base64.b64encode(key).decode())
    async with beside(listener.run()):
        await until(lambda: listener.alive, "the listener listens")
        working = asyncio.create_task(run_worker(settings, stop))
        await until(lambda: len({event.subject for event in heard}) == 5, "five kinds of work", timeout_s=300)
        covered = await until(
            lambda: site.rows("SELECT * FROM backup.archiving WHERE covered_until IS NOT NULL"), timeout_s=60
        )
        stop.set()
        await working
    monkeypatch.undo()
    return SimpleNamespace(heard=heard, archiving=covered[0])


async def test_a_new_worker_backs_up_and_drills_at_once(site, first_round):
    outcomes = {event.subject: event for event in first_round.heard}
    assert {subject: event.type for subject, event in outcomes.items()} == {
        "dump": "backup.completed",
        "full": "backup.completed",
        "set": "backup.completed",
        "verify": "backup.completed",
        "drill": "backup.drill-passed",
    }
    report = outcomes["drill"].data
    assert any("each with its seal" in check["detail"] for check in report["checks"])
    assert [check["name"] for check in report["checks"] if check["passed"]] == [
        "moment",
        "rows",
        "audit log",
        "amcheck",
        "checksums",
    ]
    assert report["rto_s"] < 120
    rows = await site.rows(
        "SELECT kind, place, bytes FROM backup.backups WHERE gone_at IS NULL ORDER BY 1, 2"
    )
    assert [(row["kind"], row["place"]) for row in rows] == [
        ("dump", "snapshots"),
        ("full", "azure"),
        ("full", "local"),
        ("set", "azure"),
    ]
    assert all(row["bytes"] > 0 for row in rows)


@ONE_ENGINE
async def test_storage_account_keeps_what_is_deleted(site, first_round):
    async with Blobs(site.settings) as blobs:
        assert await blobs.keep_deleted(1) == site.settings.blob_deleted_days == 14
        assert await blobs.keep_deleted(20) == 20
        assert await blobs.keep_deleted(14) == 20


@ONE_ENGINE
async def test_what_a_loss_would_cost_is_known_and_little(first_round):
    archiving = first_round.archiving
    assert (archiving["checked_at"] - archiving["covered_until"]).total_seconds() < 300
    assert not archiving["behind"]


async def test_the_database_is_put_back_to_a_moment_by_the_command(site, first_round, tmp_path_factory):
    await site.rows("CREATE TABLE public.steps (step int)")
    await site.rows("INSERT INTO public.steps VALUES (1)")
    moment = (await site.rows("SELECT clock_timestamp() AS at"))[0]["at"]
    await site.rows("INSERT INTO public.steps VALUES (2)")
    await site.rows("SELECT pg_switch_wal()")
    target = site.settings.state_folder / "put-back"
    status, said, errors = await site.run("restore", "--to", moment.isoformat(), "--target", str(target))
    assert status == 0, errors
    assert "verified" in said
    account = Account.owner_of(target)
    again = Instance(site.settings, account, site.settings.state_folder / "again", target, to_keep=True)
    async with again.running():
        url = again.cluster("esp").url
        assert [row["step"] for row in await site.rows("SELECT step FROM public.steps", url=url)] == [1]
        readings = await site.rows("SELECT count(DISTINCT pump_no) AS pumps FROM ingest.telemetry", url=url)
        assert readings[0]["pumps"] == PUMPS
        # What the new timeline has written waits for the archive of whoever starts it for good.
        waiting = await site.rows(
            "SELECT name FROM pg_ls_archive_statusdir() WHERE name LIKE '%.history.ready'", url=url
        )
        assert [row["name"] for row in waiting] == ["00000002.history.ready"]


@pytest.mark.parametrize("moment", ["1999-12-31T00:00:00Z", "2999-12-31T00:00:00Z"])
@ONE_ENGINE
async def test_a_moment_outside_the_window_is_refused_before_anything_is_written(site, first_round, moment):
    target = site.settings.state_folder / "never"
    recovery = Recovery(site.settings, site.work.account)
    with pytest.raises(InvalidInput, match="recovery window"):
        await recovery.restore(datetime.fromisoformat(moment), target)
    assert not target.exists()


@ONE_ENGINE
async def test_a_folder_with_something_in_it_is_not_restored_over(site, first_round):
    recovery = Recovery(site.settings, site.work.account)
    taken = site.settings.state_folder / "taken"
    taken.mkdir()
    (taken / "file").touch()
    with pytest.raises(Conflict, match="not empty"):
        await recovery.restore(None, taken)


@ONE_ENGINE
async def test_a_cluster_that_still_runs_is_not_restored_over_even_if_its_folder_was_moved(site, first_round):
    recovery = Recovery(site.settings, site.work.account)
    data = site.postgres.data
    moved = data.with_name("moved")
    data.rename(moved)
    try:
        with pytest.raises(Conflict, match="still runs"):
            await recovery.restore(None, data)
        assert not data.exists()
    finally:
        moved.rename(data)
    assert await site.rows("SELECT 1 AS it_lives")


async def _counts(site: Site, database: str) -> dict[str, int]:
    url = site.postgres.url("postgres", database)
    query = (
        "SELECT 'readings', count(*) FROM telemetry_v1.readings UNION ALL"
        " SELECT 'hours', count(*) FROM telemetry_v1.readings_1hour UNION ALL"
        " SELECT 'audit', count(*) FROM auth.audit_log UNION ALL"
        " SELECT 'chunks', count(DISTINCT tableoid) FROM ingest.telemetry"
    )
    return dict(map(tuple, await site.rows(query, url=url)))


async def test_a_dump_loads_as_a_new_database_with_its_chunks_and_aggregates(site, first_round):
    (dump,), _ = site.work.dumps.all()
    folder = site.settings.snapshot_folder / dump.name
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await site.work.dumps.load(dump.name, site.postgres.admin_url, "loaded", roles=False)
    assert await _counts(site, "loaded") == await _counts(site, "esp")
    url = site.postgres.url("esp_diagnostics", "loaded")
    assert await site.rows("SELECT * FROM telemetry_v1.readings_1hour LIMIT 1", url=url)
    await site.rows("DROP DATABASE loaded WITH (FORCE)", url=site.postgres.admin_url)


async def test_a_sealed_dump_shows_nothing_and_loads_with_its_key_alone(site, first_round):
    folder = site.settings.state_folder / "sealed-dumps"
    work = site.changed(snapshot_folder=folder, seal_dumps=True)
    dump = await work.dumps.take(Cluster(site.settings.cluster_url), datetime.now(UTC))
    files = [path for path in (folder / dump.name).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".sealed", ".json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert not any(b"PGDMP" in path.read_bytes() or b"CREATE ROLE" in path.read_bytes() for path in files)
    await work.dumps.load(dump.name, site.postgres.admin_url, "unsealed", roles=False)
    assert await _counts(site, "unsealed") == await _counts(site, "esp")
    await site.rows("DROP DATABASE unsealed WITH (FORCE)", url=site.postgres.admin_url)

    other_key = base64.b64encode(bytes(32)).decode()
    for key, error in ((other_key, Unreadable), ("", InvalidInput)):
        stranger = site.changed(snapshot_folder=folder, encryption_key=key)
        with pytest.raises(error):
            await stranger.dumps.load(dump.name, site.postgres.admin_url, "never", roles=False)
    opened = site.settings.state_folder / "opened"
    status, _, errors = await site.run(
        "open-dump", dump.name, "--target", str(opened), snapshot_folder=folder
    )
    assert status == 0, errors
    assert (opened / "data" / "toc.dat").read_bytes().startswith(b"PGDMP")
    left = {path.name for path in site.settings.state_folder.glob("dump-*")}
    assert left == set()


@ONE_ENGINE
async def test_a_dump_that_is_killed_leaves_nothing_readable_once_the_next_is_taken(site, first_round):
    folder, state = site.settings.state_folder / "killed-dumps", site.settings.state_folder
    making = state / "dump-making"
    process = await site.command("now", "dump", snapshot_folder=folder, seal_dumps=True)
    await until(lambda: (making / "data").exists() or process.returncode is not None)
    process.kill()
    await process.communicate()
    assert not list(folder.glob("[0-9]*"))
    assert not [path for path in folder.rglob("*") if path.suffix != ".sealed" and path.is_file()]
    status, _, errors = await site.run("now", "dump", snapshot_folder=folder, seal_dumps=True)
    assert status == 0, errors
    assert not making.exists()
    assert len([path for path in folder.iterdir() if not path.name.startswith(".")]) == 1
    await site.work.note_dumps()


@ONE_ENGINE
async def test_a_damaged_dump_is_found_and_neither_loaded_nor_counted_among_those_kept(site, first_round):
    result = await site.work.dump()
    newest = site.settings.snapshot_folder / result["name"]
    flip(max((newest / "data").iterdir(), key=lambda path: path.stat().st_size))
    with pytest.raises(Damaged, match="has changed"):
        await site.work.dumps.load(result["name"], site.postgres.admin_url, "never", roles=False)
    (wrong,) = await site.work.verify_dumps()
    assert result["name"] in wrong
    rows = await site.rows("SELECT name FROM backup.backups WHERE problem IS NOT NULL")
    assert [row["name"] for row in rows] == [result["name"]]
    work = site.changed(dumps_kept=1)
    older = {dump.name for dump in work.dumps.all()[0]} - {result["name"]}
    assert work.dumps.expire([result["name"]]) == []
    assert older <= {dump.name for dump in work.dumps.all()[0]}
    shutil.rmtree(newest)
    await site.work.note_dumps()


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@ONE_ENGINE
async def test_a_flipped_byte_in_the_archive_or_a_backup_is_found_and_old_backups_stay(
    site, first_round, monkeypatch
):
    repository = site.settings.local_repository
    label = (await site.rows("SELECT name FROM backup.backups WHERE place = 'local' ORDER BY 1"))[0]["name"]
    bundle = next((repository / "backup" / "esp" / label / "bundle").iterdir())
    segment = min((repository / "archive" / "esp").rglob("0000000100000000*-*.lz4"))
    kept = {path: path.read_bytes() for path in (bundle, segment)}
    try:
        for path in kept:
            flip(path)
        with pytest.raises(Damaged) as found:
            await site.work.verify()
        assert label in found.value.detail
        assert f"local wal: 1 other: segment {segment.name[:24]}" in found.value.detail
        expired = []

        async def expire(place: str, _: object) -> None:
            expired.append(place)

        monkeypatch.setattr(site.repository, "expire", expire)
        await site.work.expire_physical()
        assert expired == ["azure"]
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


async def test_a_log_that_cannot_be_read_to_its_end_is_not_restored_to_latest(site, first_round):
    await site.rows("CREATE TABLE public.last_words (said text)")
    segment = (await site.rows("SELECT pg_walfile_name(pg_current_wal_lsn()) AS name"))[0]["name"]
    await Cluster(site.settings.cluster_url).archive_now(60)
    [local] = (site.settings.local_repository / "archive" / "esp").rglob(f"{segment}-*")
    recovery = Recovery(site.settings, site.work.account)
    kept = local.read_bytes()
    async with Blobs(site.settings) as blobs:
        [name] = [blob.name for blob in await blobs.all("") if segment in blob.name]
        whole = await blobs.get(name)
        flip(local)
        await _replace(blobs, name, local.read_bytes())
        try:
            with pytest.raises(RecoveryFailed, match=f"{segment[8:]} only, but"):
                await recovery.restore(None, site.settings.state_folder / "cut-short")
            assert not (site.settings.state_folder / "cut-short").exists()
        finally:
            local.write_bytes(kept)
            await _replace(blobs, name, whole)


async def _replace(blobs: Blobs, name: str, content: bytes) -> None:
    await blobs.delete(name)
    await blobs.put(name, content, {})


@ONE_ENGINE
async def test_a_daily_set_brings_back_broker_vault_and_configuration(
    site, first_round, configuration, tmp_path
):
    status, said, errors = await site.run("restore-set", "--target", str(tmp_path / "set"))
    assert status == 0, errors
    files = {Path(line) for line in said.splitlines()}
    assert f'"name":"{"ingest.telemetry"}"' in (tmp_path / "set" / DEFINITIONS).read_text()
    assert (tmp_path / "set" / VAULT_SNAPSHOT).stat().st_size > 1000
    kept = next(file for file in files if file.name == configuration.name)
    assert kept.read_text() == configuration.read_text()


@ONE_ENGINE
async def test_a_set_in_storage_shows_nothing_and_does_not_open_once_it_was_changed(
    site, first_round, tmp_path
):
    async with Blobs(site.settings) as blobs:
        sets = Sets(site.settings, blobs)
        name = (await sets.all())[-1].name
        content = await blobs.get(name)
        assert b"definitions" not in content
        with pytest.raises(Conflict):
            await blobs.put(name, b"another", {})
        await blobs.put(f"{name}.tar.gz.sealed", content[:-1] + bytes([content[-1] ^ 1]), {"sha256": "0"})
        with pytest.raises(Unreadable):
            await sets.fetch(f"{name}.tar.gz.sealed", tmp_path / "changed")
        await blobs.delete(f"{name}.tar.gz.sealed")


@pytest.mark.parametrize(("name", "kind"), [("../beside", tarfile.REGTYPE), ("link", tarfile.SYMTYPE)])
@ONE_ENGINE
async def test_a_set_that_reaches_outside_of_its_folder_is_not_unpacked(site, tmp_path, name, kind):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        archive.addfile(entry)
    async with Blobs(site.settings) as blobs:
        await blobs.put("elsewhere/set.tar.gz", packed.getvalue(), {})
        with pytest.raises(Damaged, match="no file inside"):
            await Sets(site.settings, blobs).fetch("elsewhere/set.tar.gz", tmp_path / "set")
        await blobs.delete("elsewhere/set.tar.gz")
    assert list(tmp_path.iterdir()) == []


@ONE_ENGINE
async def test_a_lost_catalogue_is_rebuilt_from_storage(site, first_round):
    query = "SELECT kind, place, name, bytes FROM backup.backups WHERE gone_at IS NULL ORDER BY 1, 2, 3"
    before = await site.rows(query)
    await site.rows("TRUNCATE backup.backups")
    status, _, errors = await site.run("catalogue", "rebuild")
    assert status == 0, errors
    assert await site.rows(query) == before
    _, listed, _ = await site.run("list", "--kind", "full")
    assert [line.split("\t")[1] for line in listed.splitlines()[1:]] == ["local", "azure"]
    _, done, _ = await site.run("jobs")
    assert {"dump", "full", "set", "verify", "drill"} <= {line.split("\t")[1] for line in done.splitlines()}


@ONE_ENGINE
async def test_one_process_at_a_time_does_a_kind_of_work(site, first_round):
    async with jobs.turn(site.pool, "full") as mine:
        assert mine
        status, _, errors = await site.run("now", "full")
    assert status == 2
    assert "another process does full now" in errors
