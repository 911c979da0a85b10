"""The drill of a managed database: load a new dump into a scratch instance and compare it with its source."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

from esp_common.database import Pool
from esp_common.progress import Progress, silent

from esp_backup.drill import DrillFailed, Looks, Report, ScratchDrill, Source
from esp_backup.dumps import PLACE, Dump, Dumps
from esp_backup.instance import Instance, clear
from esp_backup.programs import Account, run
from esp_backup.settings import BackupSettings
from esp_backup.store import catalogue, jobs
from esp_backup.store.cluster import Cluster

TURN_POLL_S: Final = 1.0


class DumpDrill(ScratchDrill):
    """Drills of dumps, for a database whose physical backups are its provider's."""

    def __init__(
        self, settings: BackupSettings, account: Account, pool: Pool, progress: Progress = silent
    ) -> None:
        super().__init__(settings, account, pool, progress)
        self._dumps = Dumps(settings, account, progress)

    async def run(self) -> Report:
        """Take a dump, load it elsewhere and compare; raise DrillFailed when it is not the source.

        `rpo_s` of the report is the age of the dump before: what a loss would have cost without the
        provider's backups. The dump stays; the scratch instance is gone afterwards, whatever happened.
        """
        await clear(self._home)
        rpo_s = self._age_of_newest()
        dump, source = await self._observe(rpo_s)
        report = Report(dump.name, PLACE, dump.name, rpo_s=rpo_s)
        try:
            instance = await self._create()
            async with instance.running():
                await self._load(dump, instance, report)
                restored = instance.cluster(dump.database)
                report.bytes = await restored.size()
                looks = Looks(self._settings, self._account, restored, source)
                await report.check("rows", looks.rows, self._progress)
                await report.check("audit log", looks.audit_log, self._progress)
                await report.check("amcheck", looks.amcheck, self._progress)
            await report.check("checksums", instance.checksums, self._progress)
        finally:
            await clear(self._home)
        if not report.passed:
            raise DrillFailed(report)
        return report

    def _age_of_newest(self) -> float | None:
        dumps, _ = self._dumps.all()
        return round((datetime.now(UTC) - dumps[-1].started_at).total_seconds(), 1) if dumps else None

    async def _observe(self, rpo_s: float | None) -> tuple[Dump, Source]:
        """Take a dump between two counts of its source."""
        cluster = Cluster(self._settings.cluster_url)
        beat = await catalogue.beat(self._pool)
        audit = await cluster.audit_head()
        self._progress("count the rows of the source", None)
        before = await cluster.count()
        dump = await self._take(cluster)
        self._progress("count the rows of the source", None)
        after = await cluster.count()
        return dump, Source(dump.name, before, after, audit, beat, rpo_s)

    async def _take(self, cluster: Cluster) -> Dump:
        """Take a dump while no other process or scheduled job takes one: they share the folder."""
        while True:
            async with jobs.turn(self._pool, "dump") as mine:
                if mine:
                    return await self._dumps.take(cluster, datetime.now(UTC))
            await asyncio.sleep(TURN_POLL_S)

    async def _create(self) -> Instance:
        """Create an empty instance with data checksums."""
        self._account.folder(self._home)
        data = self._home / "data"
        argv = [str(self._settings.postgres_bin / "initdb"), "--pgdata", str(data)]
        options = ["--username=postgres", "--auth=trust", "--data-checksums", "--encoding=UTF8", "--no-sync"]
        await run([*argv, *options, "--locale=C.UTF-8"], self._account)
        return Instance(self._settings, self._account, self._home, data, to_keep=False)

    async def _load(self, dump: Dump, instance: Instance, report: Report) -> None:
        self._progress("load the dump", None)
        started = time.monotonic()
        server = instance.cluster("postgres").url
        await self._dumps.load(dump.name, server, dump.database, roles=True)
        report.rto_s = report.copy_s = round(time.monotonic() - started, 2)
