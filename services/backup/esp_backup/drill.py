"""The restore drill: the newest backup and the log since, in a scratch instance, compared with the source."""

import os
import shlex
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

import asyncpg
from esp_common.database import OUTAGES, Pool
from esp_common.errors import EspError
from esp_common.progress import Progress, silent

from esp_backup.domain.counts import Table, mismatches
from esp_backup.instance import Instance, clear
from esp_backup.programs import PATH, Account, libpq_environment, run
from esp_backup.recovery import Recovery
from esp_backup.repository import Repository
from esp_backup.settings import BackupSettings
from esp_backup.store import catalogue
from esp_backup.store.cluster import AuditHead, Cluster

ARCHIVE_TIMEOUT_S: Final = 180.0
MOST_TOLD: Final = 20


class DrillFailed(EspError):
    """A restored instance is not what its source was; `report` has every check."""

    code, title = "drill-failed", "Restore drill failed"

    def __init__(self, report: "Report") -> None:
        failed = [f"{check.name}: {check.detail}" for check in report.checks if not check.passed]
        super().__init__(
            "; ".join(failed), fix="keep the database as it is, take a full backup and drill again"
        )
        self.report = report


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at in the restored instance."""

    name: str
    passed: bool
    detail: str
    seconds: float


@dataclass(slots=True)
class Report:
    """What a drill found. `rto_s`: until the instance took connections; `rpo_s`: what a loss at its begin
    would have cost, None where that was not known.
    """

    backup: str
    place: str
    target: str
    rto_s: float = 0.0
    copy_s: float = 0.0
    recovery_s: float = 0.0
    rpo_s: float | None = None
    bytes: int = 0
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    async def check(self, name: str, look: Callable[[], Awaitable[str | None]], progress: Progress) -> None:
        """Run one check and note how it went; an error of its own is a failure like any other."""
        progress(f"check: {name}", None)
        started = time.monotonic()
        try:
            detail, passed = await look() or "", True
        except (*OUTAGES, EspError, asyncpg.PostgresError) as error:
            # A page that cannot be read shows as an error of the query that meets it.
            detail, passed = str(error) or type(error).__name__, False
        self.checks.append(Check(name, passed, detail, round(time.monotonic() - started, 2)))

    def to_json(self) -> dict[str, Any]:
        """Return it as it is kept."""
        return {
            **{name: value for name, value in asdict(self).items() if name != "checks"},
            "passed": self.passed,
            "megabytes_per_s": round(self.bytes / 1e6 / self.rto_s, 1) if self.rto_s else None,
            "checks": [asdict(check) for check in self.checks],
        }


class Source(NamedTuple):
    """What the source was like around the moment `target`."""

    target: str
    before: dict[str, Table]
    after: dict[str, Table]
    audit: AuditHead | None
    beat: datetime
    rpo_s: float | None


class ScratchDrill:
    """What drills have in common: the folder of a scratch instance, which is gone when a drill has ended."""

    def __init__(
        self, settings: BackupSettings, account: Account, pool: Pool, progress: Progress = silent
    ) -> None:
        self._settings = settings
        self._account = account
        self._pool = pool
        self._progress = progress
        self._home = settings.state_folder / "drill"


class Drill(ScratchDrill):
    """Drills of one cluster."""

    def __init__(
        self, settings: BackupSettings, account: Account, pool: Pool, progress: Progress = silent
    ) -> None:
        super().__init__(settings, account, pool, progress)
        self._recovery = Recovery(settings, account, progress)
        self._repository = Repository(settings, account, self._home)

    async def run(self, place: str | None = None) -> Report:
        """Restore to a moment of now and check what comes out; raise DrillFailed when it is not the source.

        `place`: the repository to restore from; None: the one with the newest backup. The scratch instance is
        gone afterwards, whatever happened.
        """
        await clear(self._home)
        self._progress("count the rows of the source", None)
        source = await self._observe()
        try:
            self._repository.configure()
            full = await self._repository.choose(before=None, place=place)
            report = Report(full.label, full.place, source.target, rpo_s=source.rpo_s)
            data = self._account.folder(self._home / "data")
            instance = Instance(self._settings, self._account, self._home, data, to_keep=False)
            started = time.monotonic()
            target = ["--type=name", f"--target={source.target}"]
            await self._recovery.copy(self._repository, full, data, target)
            report.copy_s = round(time.monotonic() - started, 2)
            self._progress("replay the log", None)
            async with instance.running():
                report.rto_s = round(time.monotonic() - started, 2)
                report.recovery_s = round(report.rto_s - report.copy_s, 2)
                restored = instance.cluster(self._recovery.database)
                report.bytes = await restored.size()
                looks = Looks(self._settings, self._account, restored, source)
                await report.check("moment", looks.moment, self._progress)
                await report.check("rows", looks.rows, self._progress)
                await report.check("audit log", looks.audit_log, self._progress)
                await report.check("amcheck", looks.amcheck, self._progress)
            await report.check("checksums", instance.checksums, self._progress)
        finally:
            await clear(self._home)
        await catalogue.forget_marks(self._pool)
        if not report.passed:
            raise DrillFailed(report)
        return report

    async def _observe(self) -> Source:
        """Name a moment of the source, with what it held before and after it, and have it archived."""
        target = f"drill-{uuid4().hex}"
        cluster = Cluster(self._settings.cluster_url)
        archiving = await catalogue.archiving(self._pool)
        covered = archiving.covered_until if archiving else None
        rpo_s = round((datetime.now(UTC) - covered).total_seconds(), 1) if covered else None
        beat = await catalogue.beat(self._pool)
        audit = await cluster.audit_head()
        before = await cluster.count()
        await catalogue.mark(self._pool, f"{target}-before")
        await cluster.restore_point(target)
        await catalogue.mark(self._pool, f"{target}-after")
        after = await cluster.count()
        await cluster.archive_now(ARCHIVE_TIMEOUT_S)
        return Source(target, before, after, audit, beat, rpo_s)


class _Wrong(EspError):
    """Something in the restored instance is not as it was."""


class Looks:
    """What is looked at in a running restored instance: each raises what is wrong, or says what it saw."""

    def __init__(self, settings: BackupSettings, account: Account, restored: Cluster, source: Source) -> None:
        self._settings = settings
        self._account = account
        self._restored = restored
        self._source = source

    async def moment(self) -> str:
        """It is of the moment it was to be of."""
        target = self._source.target
        has = [await self._restored.has_mark(f"{target}-{side}") for side in ("before", "after")]
        if has != [True, False]:
            raise _Wrong(f"marks before and after the moment: {has}, not [True, False]")
        newest, beat = await self._restored.heartbeat(), self._source.beat
        if newest is None or newest < beat:
            raise _Wrong(f"the newest heartbeat is of {newest}, not {beat}")
        return f"heartbeat of {newest}"

    async def rows(self) -> str:
        """Every table and chunk has its rows."""
        counts = {name: table.rows for name, table in (await self._restored.count()).items()}
        if wrong := mismatches(self._source.before, self._source.after, counts):
            raise _Wrong(f"{len(wrong)} tables: {'; '.join(wrong[:MOST_TOLD])}")
        return f"{len(counts)} tables, {sum(counts.values())} rows"

    async def audit_log(self) -> str:
        """The audit log is a whole chain, and the one it was."""
        head = self._source.audit
        if head is None:
            return "there is no audit log"
        if problem := await self._restored.audit_problem(head):
            raise _Wrong(problem)
        if not self._settings.audit_verify_command:
            return f"{head.seq} records; their seals are not verified"
        own = {name: value for name, value in os.environ.items() if name.startswith("ESP_AUTH_")}
        own.pop("ESP_AUTH_DATABASE_URL_FILE", None)
        own |= {"ESP_AUTH_DATABASE_URL": self._restored.url, "PATH": os.environ.get("PATH", PATH)}
        # As this process's own account: the cluster's need not be able to run our programs.
        verifier = Account(None, None)
        await run(shlex.split(self._settings.audit_verify_command), verifier, environment=own)
        return f"{head.seq} records, each with its seal"

    async def amcheck(self) -> str:
        """Every page of every table and index makes sense, and every row is in its indexes."""
        program = str(self._settings.postgres_bin / "pg_amcheck")
        argv = [program, "--install-missing", "--heapallindexed", f"--jobs={self._settings.processes}"]
        await run(argv, self._account, environment=libpq_environment(self._restored.url))
        return "every table and index"
