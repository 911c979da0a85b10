"""Putting the database back to a moment, in a new folder, and proving it before it says done."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from esp_common.errors import Conflict, InvalidInput
from psycopg.conninfo import conninfo_to_dict

from esp_backup.domain.window import recovery_window
from esp_backup.instance import Instance, RecoveryFailed
from esp_backup.programs import Account
from esp_backup.repository import Full, Repository
from esp_backup.settings import BackupSettings

TARGET_FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f+00"


@dataclass(frozen=True, slots=True)
class Recovered:
    """A cluster that was put back, its newest heartbeat, and the seconds for its files and its log."""

    folder: Path
    backup: Full
    newest: datetime | None
    bytes: int
    copy_s: float
    recovery_s: float

    @property
    def megabytes_per_s(self) -> float:
        """Database bytes put back and recovered a second, in MB."""
        return self.bytes / 1e6 / (self.copy_s + self.recovery_s)


class Recovery:
    """Restores into new folders; what is there is never written over."""

    def __init__(self, settings: BackupSettings, account: Account, repository: Repository) -> None:
        self._settings = settings
        self._account = account
        self._repository = repository

    async def restore(
        self, moment: datetime | None, folder: Path | None = None, place: str | None = None
    ) -> Recovered:
        """Put the database back to `moment` (None: all that the archive has) in `folder`, and verify it.

        It is recovered, reads in full and shut down in order; `folder` can then be started as the platform's
        database. `place`: only from this repository. Raises InvalidInput for a moment outside the recovery
        window, Conflict when `folder` is not empty or a cluster that was started on it still runs,
        RecoveryFailed and ProgramFailed when it is no good or its log could not be read to the end.
        """
        if folder is not None:
            _require_ended(folder)
        if moment is not None:
            moment = moment.astimezone(UTC)
            await self._require(moment)
        archived = "" if moment is not None else await self._newest_segment()
        full = await self._repository.choose(before=moment, place=place)
        name = (moment or datetime.now(UTC)).strftime("restored-%Y%m%dT%H%M%S")
        data = self._empty(folder or self._settings.state_folder / name)
        target = [] if moment is None else ["--type=time", f"--target={moment:{TARGET_FORMAT}}"]
        home = self._account.folder(self._settings.state_folder / "restore")
        instance = Instance(self._settings, self._account, home, data, to_keep=True)
        started = time.monotonic()
        await self.copy(full, data, target)
        copied = time.monotonic()
        try:
            async with instance.running():
                recovered = time.monotonic()
                cluster = instance.cluster(self.database)
                _require_whole(await cluster.log_segment(), archived)
                newest, size = await cluster.heartbeat(), await cluster.size()
        except RecoveryFailed as failure:
            if "before configured recovery target was reached" in failure.detail:
                raise InvalidInput(
                    f"the archive ends before {moment}", fix="restore to latest, or to an earlier time"
                ) from failure
            raise
        await instance.checksums()
        return Recovered(data, full, newest, size, copied - started, recovered - copied)

    async def copy(self, full: Full, data: Path, target: list[str]) -> None:
        """Put the files of a full backup into `data`, to recover as `target` says and then take writes."""
        action = ["--target-action=promote"] if target else []
        await self._repository.restore(full.place, full.label, data, [*target, *action])

    @property
    def database(self) -> str:
        """The database of the cluster that is the platform's."""
        return str(conninfo_to_dict(self._settings.cluster_url).get("dbname") or "postgres")

    async def _require(self, moment: datetime) -> None:
        """Raise InvalidInput when the moment lies before every backup or has not come yet."""
        contents = await self._repository.contents()
        if contents.fulls or not contents.unreachable:
            ends = [full.ended_at for full in contents.fulls]
            recovery_window(ends, datetime.now(UTC)).require(moment)

    async def _newest_segment(self) -> str:
        """Return the newest segment of the log that a repository which answers has; "": none has any."""
        return max((await self._repository.contents()).newest_wal.values(), default="")

    def _empty(self, folder: Path) -> Path:
        if folder.exists() and any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty", fix="name a folder that does not exist")
        return self._account.folder(folder)


def _require_ended(folder: Path) -> None:
    """Raise Conflict while a cluster runs that was started on `folder`, wherever that has been moved since.

    It writes to the path it was started with: its last checkpoint would go into the restored cluster.
    """
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if Path(argv[0]).name == "postgres" and f"-D\0{folder.absolute()}\0" in "\0".join(argv):
            raise Conflict(
                f"a cluster that was started on {folder} still runs, process {process.name}",
                fix="stop it, and see that it is gone: `pgrep -a postgres`",
            )


def _require_whole(writing: str, archived: str) -> None:
    """Raise RecoveryFailed when a cluster that writes a segment has not seen all of the archived one.

    PostgreSQL takes a segment that cannot be read for the end of the log, and says nothing.
    """
    # The first eight digits are the timeline, which a recovery changes.
    if writing[8:] <= archived[8:]:
        raise RecoveryFailed(
            f"the log could be read up to segment {writing[8:]} only, but {archived[8:]} is archived",
            fix="`esp-backup verify` says what is damaged; restore to a time before it, or from the other"
            " repository",
        )
