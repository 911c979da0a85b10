"""Restore the database to a moment, in a new folder, and verify it."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

from esp_common.errors import Conflict, InvalidInput
from esp_common.progress import Progress, silent
from psycopg.conninfo import conninfo_to_dict

from esp_backup.domain.physical import Physical
from esp_backup.domain.spans import hole_at
from esp_backup.domain.window import recovery_window
from esp_backup.instance import Instance, RecoveryFailed
from esp_backup.programs import Account
from esp_backup.repository import Repository
from esp_backup.settings import BackupSettings

TARGET_FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f+00"
_RECOVERY_SETTINGS: Final = ("restore_command", "recovery_target", "# Recovery settings generated")


@dataclass(frozen=True, slots=True)
class Recovered:
    """A cluster that was put back, its newest heartbeat, and the seconds for its files and its log."""

    folder: Path
    backup: Physical
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

    def __init__(self, settings: BackupSettings, account: Account, progress: Progress = silent) -> None:
        self._settings = settings
        self._account = account
        self._progress = progress

    async def restore(
        self, moment: datetime | None, folder: Path | None = None, place: str | None = None
    ) -> Recovered:
        """Put the database back to `moment` (None: all that the archive has) in `folder`, and verify it.

        It is recovered, reads in full and shut down in order; `folder` can then be started as the platform's
        database. `place`: only from this repository. When it fails `folder` is left as it was found.

        Raises InvalidInput for a moment outside the recovery window or in a hole of the archive, Conflict
        when `folder` is not empty, another restore writes to it, or a cluster started on it still runs,
        RecoveryFailed and ProgramFailed when it is no good or its log could not be read to the end.
        """
        moment = moment and moment.astimezone(UTC)
        name = (moment or datetime.now(UTC)).strftime("restored-%Y%m%dT%H%M%S")
        data = folder or self._settings.state_folder / name
        _require_ended(data)
        with self._home() as home:
            repository = Repository(self._settings, self._account, home)
            repository.configure()
            full, archived = await self._choose(repository, moment, place)
            with _claimed(data, self._account):
                return await self._fill(repository, full, data, moment, archived)

    async def copy(self, repository: Repository, full: Physical, data: Path, target: list[str]) -> None:
        """Put the files of a backup into `data`, to recover as `target` says and then take writes."""
        action = ["--target-action=promote"] if target else []
        await repository.restore(full.place, full.label, data, [*target, *action], self._progress)

    @property
    def database(self) -> str:
        """The database of the cluster that is the platform's."""
        return str(conninfo_to_dict(self._settings.cluster_url).get("dbname") or "postgres")

    @contextmanager
    def _home(self) -> Iterator[Path]:
        """Make a folder of this restore's own, gone at its end: any number may go on at the same time."""
        for left in self._settings.state_folder.glob("restore-*"):
            with suppress(OSError, Conflict), _locked(left):
                shutil.rmtree(left)
        home = self._account.folder(self._settings.state_folder / f"restore-{uuid4().hex[:8]}")
        with _locked(home):
            try:
                yield home
            finally:
                shutil.rmtree(home, ignore_errors=True)

    async def _choose(
        self, repository: Repository, moment: datetime | None, place: str | None
    ) -> tuple[Physical, str]:
        """Return the backup to begin with, and the newest segment to be replayed; "": up to the moment."""
        contents = await repository.contents()
        if moment is None:
            # What is unreadable is found by `choose`.
            newest = max(contents.newest_wal.values(), key=lambda name: name[8:], default="")
            return await repository.choose(before=None, place=place), newest
        if contents.backups or not contents.unreachable:
            ends = [backup.ended_at for backup in contents.backups]
            recovery_window(ends, datetime.now(UTC)).require(moment)
            if hole := hole_at(moment, await repository.holes(contents)):
                raise InvalidInput(
                    f"{moment.isoformat()} lies in a hole of the archive: {hole.segments} segments are"
                    f" missing from {hole.first_segment} on",
                    fix=f"name a time before {hole.begin.isoformat()} or after {hole.end.isoformat()}",
                )
        return await repository.choose(before=moment, place=place), ""

    async def _fill(
        self,
        repository: Repository,
        full: Physical,
        data: Path,
        moment: datetime | None,
        archived: str,
    ) -> Recovered:
        target = [] if moment is None else ["--type=time", f"--target={moment:{TARGET_FORMAT}}"]
        instance = Instance(self._settings, self._account, repository.folder, data, to_keep=True)
        started = time.monotonic()
        await self.copy(repository, full, data, target)
        copied = time.monotonic()
        self._progress("replay the log", None)
        try:
            async with instance.running():
                recovered = time.monotonic()
                cluster = instance.cluster(self.database)
                _require_whole(await cluster.log_segment(), archived)
                newest, size = await cluster.heartbeat(), await cluster.size()
            self._progress("read every page", None)
            await instance.checksums()
        except RecoveryFailed as failure:
            if "before configured recovery target was reached" in failure.detail:
                raise InvalidInput(
                    f"the archive ends before {moment}", fix="restore to latest, or to an earlier time"
                ) from failure
            failure.fix = f"see {self._keep(instance.log)}; {failure.fix}" if failure.fix else None
            raise
        _forget_recovery(data)
        return Recovered(data, full, newest, size, copied - started, recovered - copied)

    def _keep(self, log: Path) -> Path:
        """Keep the log of an instance that did not recover."""
        logs = self._account.folder(self._settings.state_folder / "log")
        kept = logs / datetime.now(UTC).strftime("restore-%Y%m%dT%H%M%S%f.log")
        with suppress(OSError):
            shutil.copy2(log, kept)
            self._account.own(kept)
        return kept


@contextmanager
def _claimed(folder: Path, account: Account) -> Iterator[None]:
    """Make the empty `folder`, and let no other restore write to it; on an error leave it as it was found.

    Raises Conflict when it is not empty, or another restore writes to it.
    """
    existed = folder.exists()
    account.folder(folder)
    with _locked(folder):
        if any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty", fix="name a folder that does not exist")
        try:
            yield
        except BaseException:
            _empty(folder)
            if not existed:
                folder.rmdir()
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with this process; raise Conflict while another holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another restore writes to {folder}", fix="name another folder") from None
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _forget_recovery(data: Path) -> None:
    """Remove from a recovered cluster the settings of its recovery, which name a folder that is gone."""
    file = data / "postgresql.auto.conf"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(_RECOVERY_SETTINGS)]
    file.write_text("".join(kept), encoding="utf-8")


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
