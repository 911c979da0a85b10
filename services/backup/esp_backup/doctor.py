"""The state of backups at a glance: which mode, what it promises and cannot do, and what hinders it now."""

import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from azure.core.exceptions import AzureError
from esp_common.checks import Finding, run_check
from esp_common.database import Pool
from esp_common.errors import Conflict

from esp_backup.blobs import Blobs
from esp_backup.domain.modes import PROMISES, Mode
from esp_backup.programs import Account, run
from esp_backup.repository import PROGRAM, Repository
from esp_backup.settings import BackupSettings
from esp_backup.store import jobs
from esp_backup.store.cluster import Cluster

FAULTS: Final = (AzureError, ValueError)
"""Errors that mean a failed check, besides those of the platform and of the database."""

_MAJOR: Final = re.compile(r"(\d+)")
OVERDUE: Final = 2
"""Periods of its schedule after which work that did not succeed is a problem."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `esp-backup doctor` prints."""

    mode: Mode
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        promise = PROMISES[self.mode]
        return {
            "mode": self.mode.value,
            "physical_by": promise.physical_by,
            "kinds": sorted(promise.kinds),
            "rpo": promise.rpo,
            "rto": promise.rto,
            "limits": promise.limits,
            "passed": self.passed,
            "checks": [asdict(finding) for finding in self.findings],
        }


class Doctor:
    """Checks one installation."""

    def __init__(self, settings: BackupSettings, account: Account, pool: Pool) -> None:
        self._settings = settings
        self._account = account
        self._pool = pool
        self._cluster = Cluster(settings.cluster_url)

    async def examine(self) -> Diagnosis:
        """Check everything that the mode needs; a check that fails does not stop the others."""
        mode = self._settings.mode
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "catalogue": self._catalogue,
            "database": self._database,
            "programs": self._programs,
            "storage": self._storage,
            "encryption": self._encryption,
            "schedule": self._schedule,
        }
        if mode is not Mode.MANAGED:
            checks["repository"] = self._repository
            checks["archive"] = self._archive
        return Diagnosis(
            mode, tuple([await run_check(name, check, faults=FAULTS) for name, check in checks.items()])
        )

    async def _catalogue(self) -> str:
        await self._pool.fetchval("SELECT 1")
        return "answers"

    async def _database(self) -> str:
        identity = await self._cluster.identity()
        timescale = f", TimescaleDB {identity.timescale_version}" if identity.timescale_version else ""
        return f"{identity.database} on PostgreSQL {identity.server_version}{timescale}"

    async def _programs(self) -> str:
        """Compare the major version of pg_dump, which must not be older than the server's."""
        said = await run([str(self._settings.postgres_bin / "pg_dump"), "--version"], self._account)
        tool, server = _major(said), _major((await self._cluster.identity()).server_version)
        if tool < server:
            raise Conflict(
                f"pg_dump {tool} cannot dump PostgreSQL {server}",
                fix=f"install postgresql-client-{server} and set ESP_BACKUP_POSTGRES_BIN",
            )
        if self._settings.mode is not Mode.MANAGED and not shutil.which(PROGRAM):
            raise Conflict(f"{PROGRAM} is not installed", fix=f"install the package {PROGRAM}")
        return f"pg_dump {tool}"

    async def _storage(self) -> str:
        async with Blobs(self._settings) as blobs:
            await blobs.ensure()
        return f"container {self._settings.blob_container}, by {self._settings.credential_kind}"

    async def _encryption(self) -> str:
        if self._settings.key is None:
            raise Conflict("backups are not encrypted", fix="set ESP_BACKUP_ENCRYPTION_KEY_FILE")
        return "AES-256; keep a copy of the key where no backup is"

    async def _schedule(self) -> str:
        """Find work that has not succeeded for two periods of its schedule."""
        known = await jobs.history(self._pool)
        now, late = datetime.now(UTC), []
        for kind, schedule in self._settings.schedules.items():
            last = known.get(kind, jobs.History()).last_good
            if last is None or now - last > OVERDUE * schedule.period:
                late.append(f"{kind} ({last.isoformat(timespec='seconds') if last else 'never'})")
        if late:
            raise Conflict(f"overdue, last success: {', '.join(late)}", fix="see `esp-backup jobs`")
        return f"{len(self._settings.schedules)} kinds of work are on time"

    async def _repository(self) -> str:
        repository = Repository(self._settings, self._account)
        repository.require_configured()
        contents = await repository.contents()
        if contents.unreachable:
            place, reason = next(iter(contents.unreachable.items()))
            raise Conflict(f"{place}: {reason}", fix="check storage and encryption key")
        if not contents.backups:
            raise Conflict("there is no physical backup", fix=self._how_to_begin())
        newest = max(contents.backups, key=lambda each: each.ended_at)
        return f"newest backup {newest.label} in {newest.place}"

    def _how_to_begin(self) -> str:
        if self._settings.mode is Mode.LOCAL:
            return "esp-backup now full"
        return "have the database operator take one; stanza, container and key must be the operator's"

    async def _archive(self) -> str:
        archiver = await self._cluster.archiver()
        if archiver.newest_segment is None:
            raise Conflict("no WAL is archived", fix="set archive_mode and archive_command")
        return f"{archiver.newest_segment} is archived, {archiver.waiting_segments} segments wait"


def _major(text: str) -> int:
    found = _MAJOR.search(text)
    if found is None:
        raise ValueError(f"no version in {text!r}")
    return int(found[1])
