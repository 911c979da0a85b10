"""Backup modes in which somebody else takes the physical backups: a managed database, a database operator."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from backup_site import DATABASE, ONE_ENGINE, Site, open_site
from esp_backup.app import run_worker
from esp_backup.domain.modes import Mode
from esp_backup.drill import DrillFailed
from esp_backup.dump_drill import DumpDrill
from esp_backup.settings import BackupSettings
from esp_backup.work import Work
from esp_common.contracts.events import Event
from esp_common.errors import InvalidInput
from esp_common.messaging import EventListener
from esp_stack.programs import free_port, private_folder
from esp_stack.servers import Vhost
from waiting import beside, until

pytestmark = [pytest.mark.timeout(420), ONE_ENGINE]


@pytest.fixture(scope="module")
async def site(server_home: Path, engine: str) -> AsyncIterator[Site]:
    """A cluster that archives to its repository, with no backup yet."""
    async with open_site(server_home / f"backup-modes-{engine}", engine) as site:
        yield site


def settings_of(site: Site, mode: Mode) -> BackupSettings:
    """Return settings of a service that reaches the database over TCP only."""
    state = private_folder(site.settings.state_folder.parent / f"state-{mode}", site.postgres.user)
    return site.settings.model_copy(
        update={
            "mode": mode,
            "local_repository": None,
            "cluster_url": site.postgres.url("postgres", DATABASE),
            "state_folder": state,
            "snapshot_folder": state / "snapshots",
            "configuration_files": (Path(__file__),),
        }
    )


@pytest.fixture
def managed(site: Site) -> Work:
    """The work of a service beside a managed database."""
    return Work.of(settings_of(site, Mode.MANAGED), site.pool)


async def test_a_managed_database_is_drilled_by_loading_a_new_dump(site, managed):
    result = await managed.do("drill")
    assert result["passed"], result
    assert [check["name"] for check in result["checks"]] == ["rows", "audit log", "amcheck", "checksums"]
    (dump,) = managed.dumps.all()[0]
    assert (result["place"], result["backup"]) == ("snapshots", dump.name)
    catalogue = await site.rows("SELECT name FROM backup.backups WHERE kind = 'dump'")
    assert dump.name in {row["name"] for row in catalogue}
    state = settings_of(site, Mode.MANAGED).state_folder
    assert not (state / "drill").exists()
    assert not (state / "pgbackrest.conf").exists()


async def test_a_drill_fails_when_the_loaded_dump_lacks_rows(site, managed, monkeypatch):
    load = DumpDrill._load

    async def load_and_lose(self, dump, instance, report):
        await load(self, dump, instance, report)
        url = instance.cluster(dump.database).url
        await site.rows("DELETE FROM ingest.pumps WHERE pump_id = 'P-1' RETURNING 1", url=url)

    await site.rows("INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P-new', 'W-1')")
    monkeypatch.setattr(DumpDrill, "_load", load_and_lose)
    with pytest.raises(DrillFailed, match=r"ingest\.pumps"):
        await managed.do("drill")


@pytest.mark.parametrize("mode", [Mode.MANAGED, Mode.OPERATOR])
@pytest.mark.parametrize("kind", ["full", "diff", "incr"])
async def test_physical_backups_are_refused_where_somebody_else_takes_them(site, mode, kind):
    with pytest.raises(InvalidInput, match=f"no {kind} in backup mode {mode}"):
        await Work.of(settings_of(site, mode), site.pool).do(kind)


async def heard_from_worker(settings: BackupSettings, vhost: Vhost, kinds: set[str]) -> dict[str, Event]:
    """Run a worker until it has done work of all `kinds`; return the newest event of each kind."""
    heard: dict[str, Event] = {}
    settings = settings.model_copy(
        update={"amqp_url": vhost.url_for("backup"), "http_port": free_port(), "poll_s": 0.2}
    )
    listener = EventListener(
        vhost.url_for("diagnostics"),
        ["backup.*"],
        on_event=lambda event: heard.__setitem__(event.subject or "", event),
        on_connected=lambda: None,
    )
    stop = asyncio.Event()
    async with beside(listener.run()):
        await until(lambda: listener.alive, "the listener listens")
        working = asyncio.create_task(run_worker(settings, stop))
        await until(lambda: kinds <= heard.keys(), f"{kinds} are done", timeout_s=240)
        stop.set()
        await working
    return heard


async def test_a_worker_beside_a_managed_database_does_all_that_the_mode_promises(site, vhost):
    settings = settings_of(site, Mode.MANAGED)
    heard = await heard_from_worker(settings, vhost, {"dump", "set", "verify", "drill"})
    assert {kind: event.type for kind, event in heard.items()} == {
        "dump": "backup.completed",
        "set": "backup.completed",
        "verify": "backup.completed",
        "drill": "backup.drill-passed",
    }
    assert await site.rows("SELECT 1 FROM backup.jobs WHERE kind IN ('full', 'diff', 'incr')") == []
    managed = replace(site, settings=settings)
    status, said, errors = await managed.run("doctor", "--json")
    report = json.loads(said)
    assert (status, report["passed"]) == (0, True), (said, errors)
    assert [check["name"] for check in report["checks"]] == [
        *("catalogue", "database", "programs", "storage", "encryption", "schedule"),
    ]
    assert any("point-in-time restore" in limit for limit in report["limits"])
    status, _, errors = await managed.run("now", "full")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "provider" in errors
    status, _, errors = await managed.run("restore", "--to", "latest")
    assert (status, len(errors.splitlines())) == (2, 1)


async def test_beside_an_operator_its_backups_are_drilled_and_verified(site, vhost):
    # An event that was published when the worker before stopped may be in the outbox still, and come again.
    await site.rows("DELETE FROM backup.outbox")
    await site.rows("DELETE FROM backup.jobs")
    settings = settings_of(site, Mode.OPERATOR)
    operator = replace(site, settings=settings)
    Work.of(settings, site.pool).repository.configure()
    status, said, _ = await operator.run("doctor")
    assert status == 1
    assert "there is no physical backup" in said
    assert "have the database operator take one" in said
    # The operator has its own pgBackRest; to this service its repository is there to read.
    taken = await site.work.do("full")
    heard = await heard_from_worker(settings, vhost, {"dump", "set", "verify", "drill"})
    assert heard["drill"].type == "backup.drill-passed", heard["drill"].data
    assert heard["drill"].data["backup"] in {each["name"] for each in taken["backups"]}
    assert heard["verify"].type == "backup.completed"
    status, said, errors = await operator.run("doctor")
    assert status == 0, (said, errors)
