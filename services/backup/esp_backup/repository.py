"""Physical backups and the archive of the log: pgBackRest's repositories, in Azure and on this machine."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from esp_common.errors import Conflict, EspError, InvalidInput, NotFound, Unavailable
from esp_common.progress import Progress, silent

from esp_backup.domain.modes import Mode
from esp_backup.domain.physical import FULL, Expiry, Physical, usable
from esp_backup.domain.sealing import Unreadable
from esp_backup.domain.spans import Hole, holes
from esp_backup.domain.verification import problems
from esp_backup.pgbackrest import KEEP_ALL, configuration_text, differing_options
from esp_backup.programs import Account, ProgramFailed, run
from esp_backup.settings import BackupSettings

AZURE: Final = "azure"
LOCAL: Final = "local"
PROGRAM: Final = "pgbackrest"
CONFIGURATION: Final = "pgbackrest.conf"
HOLD: Final = "hold"
"""The annotation of a backup that is exempt from retention."""
FINE: Final = 0
NO_BACKUP: Final = 2
UNREACHABLE: Final = 99
"""What `info` says of a repository."""
LOCKED: Final = 50
"""Exit status while another pgBackRest does something that excludes this."""
LOCKED_S: Final = 30.0
EACH_FILE: Final = ("--log-level-stderr=detail",)
"""Has each file told with the percentage that is done."""
_LOCK_POLL_S: Final = 0.2
_OTHER_KEY: Final = re.compile(r"\[(?:Crypto|Format)Error\]")
_PERCENT: Final = re.compile(r", (\d+(?:\.\d+)?)%\)")
_SEGMENT: Final = re.compile(r".*/([0-9A-F]{24})-[0-9a-f]{40}")


class Damaged(EspError):
    """A backup or the archive is not as it was written: do not rely on it."""

    code, title = "backup-damaged", "Backup damaged"


def _places(settings: BackupSettings) -> tuple[str, ...]:
    if settings.mode is Mode.MANAGED:
        return ()
    return (AZURE, LOCAL) if settings.local_repository else (AZURE,)


@dataclass(frozen=True, slots=True)
class Contents:
    """What the repositories hold; `unreachable`: those that did not answer, and why."""

    backups: tuple[Physical, ...]
    newest_wal: dict[str, str]
    unreachable: dict[str, str]


class Repository:
    """The cluster's repositories. Azure is the first, so that adding a local one changes no number.

    `folder`: of configuration, spool, locks and logs; None: the state folder, whose configuration the
    cluster's archiving uses.
    """

    def __init__(self, settings: BackupSettings, account: Account, folder: Path | None = None) -> None:
        self._settings = settings
        self._account = account
        self.folder = folder or settings.state_folder
        self.places = _places(settings)

    @property
    def configuration(self) -> Path:
        """The file that says to pgBackRest where everything is."""
        return self.folder / CONFIGURATION

    @property
    def archive_command(self) -> str:
        """What PostgreSQL's `archive_command` has to be."""
        return f"{PROGRAM} --config={self.configuration} --stanza={self._settings.stanza} archive-push %p"

    def restore_command(self, data: Path) -> str:
        """Return what PostgreSQL's `restore_command` has to be for a cluster in `data`.

        It names no repository: a segment that is missing or damaged in one is taken from the other.
        """
        command = f"{PROGRAM} --config={self.configuration} --stanza={self._settings.stanza}"
        return f'{command} --pg1-path={data} archive-get %f "%p"'

    def configure(self) -> None:
        """Write pgBackRest's configuration and make its folders; without a repository do nothing."""
        if not self.places:
            return
        folder = self._account.folder(self.folder)
        for name in ("spool", "log", "lock"):
            self._account.folder(folder / name)
        if self._settings.local_repository:
            self._account.folder(self._settings.local_repository)
        self._account.write(self.configuration, configuration_text(self._settings, self.folder))

    def require_configured(self) -> None:
        """Raise Conflict unless the cluster archives to what these settings name; they may name none.

        The configuration is the running archiving's: a command does not write it.
        """
        if not self.places:
            return
        try:
            existing = self.configuration.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise Conflict(
                f"there is no {self.configuration}", fix="start the worker, or run `esp-backup configure`"
            ) from None
        except PermissionError:
            raise InvalidInput(
                f"{self.configuration} may not be read", fix="run as root or as the cluster's account"
            ) from None
        if differing := differing_options(existing, configuration_text(self._settings)):
            raise Conflict(
                f"these settings are not those of {self.configuration}: {', '.join(differing)} differ",
                fix="give the settings of the worker; `esp-backup configure` changes where WAL is archived",
            )

    async def ensure(self) -> None:
        """Make the stanza in every repository that lacks it."""
        repos = [repo for stanza in await self._info() for repo in stanza.get("repo", [])]
        # The status of one that does not answer is unknown; the others do not wait for it.
        has = (FINE, NO_BACKUP, UNREACHABLE)
        if len(repos) < len(self.places) or any(repo["status"]["code"] not in has for repo in repos):
            await self._run("stanza-create")

    async def backup(self, place: str, type_: str = FULL, progress: Progress = silent) -> None:
        """Take a backup to `place`; what is there already stays."""
        watch = _percent(f"{type_} backup to {place}", progress)
        options = [self._repo(place), f"--type={type_}", *(EACH_FILE if watch else ())]
        await self._run("backup", *options, on_message=watch)

    async def expire(self, place: str, expiry: Expiry) -> None:
        """Delete from `place` the backups that may go, and the WAL that no backup needs any more."""
        number = self.places.index(place) + 1
        policy = [
            f"--repo{number}-retention-full={KEEP_ALL}",
            f"--repo{number}-retention-archive={expiry.fulls_with_wal}",
        ]
        for label in expiry.gone:
            await self._run("expire", self._repo(place), *policy, f"--set={label}")
        await self._run("expire", self._repo(place), *policy)

    async def hold(self, place: str, label: str, reason: str | None) -> None:
        """Exempt a backup from retention, and the full one it needs; None: end that."""
        await self._run(
            "annotate", self._repo(place), f"--set={label}", f"--annotation={HOLD}={reason or ''}"
        )

    async def contents(self) -> Contents:
        """Return what there is; a repository that does not answer is named, not an error."""
        if not self.places:
            return Contents((), {}, {})
        backups: list[Physical] = []
        newest, unreachable = {}, {}
        for stanza in await self._info():
            for repo in stanza.get("repo", []):
                if repo["status"]["code"] == UNREACHABLE:
                    unreachable[self._place(repo["key"])] = repo["status"]["message"]
            backups += [self._physical(found) for found in stanza.get("backup", [])]
            for archive in stanza.get("archive", []):
                if archive.get("max"):
                    newest[self._place(archive["database"]["repo-key"])] = archive["max"]
        return Contents(tuple(backups), newest, unreachable)

    async def holes(self, contents: Contents) -> list[Hole]:
        """Return the times between the first backup and now that the database cannot be put back to."""
        archived: dict[str, datetime] = {}
        for place in self.places:
            if place in contents.newest_wal:
                archived |= await self._archived(place)
        return holes(contents.backups, archived)

    async def verify(self, place: str) -> dict[str, str]:
        """Read everything in `place` again; return what is wrong, by backup label or `wal`.

        pgBackRest tells a file it could not get from a damaged one in its log only. Damage is there the
        second time too, and in a place that answers. Raises Unavailable for one that does not, or too slowly.
        """
        limit_s = self._settings.verify_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                found = await self._read_again(place)
                if not found:
                    return {}
                again = await self._read_again(place)
                unreachable = (await self.contents()).unreachable
        except TimeoutError as error:
            raise Unavailable(
                f"{place} could not be read again within {limit_s:g} s",
                fix="see that it answers; ESP_BACKUP_VERIFY_TIMEOUT_S gives a large one more time",
            ) from error
        if place in unreachable:
            raise Unavailable(f"{place} could not be read: {unreachable[place]}", fix="see that it answers")
        return {what: said for what, said in again.items() if what in found}

    async def _read_again(self, place: str) -> dict[str, str]:
        messages: list[str] = []
        options = ("--output=text", "--verbose", "--log-level-stderr=info")
        report = await self._run("verify", self._repo(place), *options, on_message=messages.append)
        return problems(report, "\n".join(messages))

    async def restore(
        self,
        place: str,
        label: str,
        folder: Path,
        target: Sequence[str],
        progress: Progress = silent,
    ) -> None:
        """Put backup `label` into the empty `folder`, to recover as `target` (options of pgBackRest) says.

        Only for a repository with a folder of its own: pgBackRest empties its spool for a restore, and the
        spool of a running cluster must stay.
        """
        where = [self._repo(place), f"--set={label}", f"--pg1-path={folder}"]
        recovery = f"--recovery-option=restore_command={self.restore_command(folder)}"
        watch = _percent(f"restore {label} from {place}", progress)
        options = [*where, recovery, *target, *(EACH_FILE if watch else ())]
        await self._run("restore", *options, on_message=watch)

    async def choose(self, before: datetime | None, place: str | None = None) -> Physical:
        """Return the newest undamaged backup that ended before a moment, of the nearest repository.

        Raises Unreadable when a repository that could have it does not open with the encryption key,
        Unavailable when it does not answer, else NotFound.
        """
        contents = await self.contents()
        fitting = [
            backup
            for backup in usable(contents.backups)
            if place in (None, backup.place) and (before is None or backup.ended_at <= before)
        ]
        if not fitting:
            _raise_unreachable(contents.unreachable, place)
            raise NotFound("no backup that ended before this moment", fix="see `esp-backup list`")
        return max(fitting, key=lambda backup: (backup.ended_at, backup.place == LOCAL))

    async def _archived(self, place: str) -> dict[str, datetime]:
        """Return the WAL segments in a repository, with the time at which each was archived."""
        path = f"archive/{self._settings.stanza}"
        listed: Mapping[str, Any] = json.loads(
            await self._run("repo-ls", self._repo(place), "--recurse", "--output=json", arguments=(path,))
        )
        return {
            name[1]: datetime.fromtimestamp(entry["time"], UTC)
            for path, entry in listed.items()
            if entry["type"] == "file" and (name := _SEGMENT.match(path))
        }

    async def _info(self) -> list[dict[str, Any]]:
        text = await self._run("info", "--output=json")
        try:
            # With another encryption key the messages in it are bytes of any kind.
            stanzas: list[dict[str, Any]] = json.loads(text, strict=False)
        except ValueError as error:
            raise Unavailable(f"pgBackRest's answer cannot be read: {error}") from error
        return stanzas

    async def _run(
        self,
        command: str,
        *options: str,
        arguments: Sequence[str] = (),
        on_message: Callable[[str], None] | None = None,
    ) -> str:
        argv = [PROGRAM, f"--config={self.configuration}", f"--stanza={self._settings.stanza}"]
        deadline = time.monotonic() + LOCKED_S
        while True:
            try:
                return await run([*argv, *options, command, *arguments], self._account, on_message=on_message)
            except ProgramFailed as failure:
                failure.fix = f"see {self.folder}/log"
                # The archiving of a segment, or what a killed process left, is over in a moment.
                if failure.exit_status != LOCKED or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOCK_POLL_S)

    def _repo(self, place: str) -> str:
        if place not in self.places:
            raise InvalidInput(f"no repository {place!r}", fix=f"name one of {', '.join(self.places)}")
        return f"--repo={self.places.index(place) + 1}"

    def _place(self, key: int) -> str:
        return self.places[key - 1] if key <= len(self.places) else f"repository {key}"

    def _physical(self, found: dict[str, Any]) -> Physical:
        sizes, times = found["info"], found["timestamp"]
        return Physical(
            place=self._place(found["database"]["repo-key"]),
            label=found["label"],
            type=found["type"],
            started_at=datetime.fromtimestamp(times["start"], UTC),
            ended_at=datetime.fromtimestamp(times["stop"], UTC),
            bytes=sizes["size"],
            stored_bytes=sizes["repository"]["delta"],
            damaged=bool(found.get("error")),
            first_wal=found["archive"]["start"],
            last_wal=found["archive"]["stop"],
            held=found.get("annotation", {}).get(HOLD),
        )


def _raise_unreachable(unreachable: Mapping[str, str], place: str | None) -> None:
    """Raise for the repository that could have what is sought but does not answer or open."""
    for where, why in unreachable.items():
        if place not in (None, where):
            continue
        if _OTHER_KEY.search(why):
            raise Unreadable(
                f"repository {where} does not open with this encryption key",
                fix="give the key it was made with: ESP_BACKUP_ENCRYPTION_KEY_FILE",
            )
        raise Unavailable(f"repository {where} does not answer: {why}")


def _percent(what: str, progress: Progress) -> Callable[[str], None] | None:
    """Return what reports the percentages in pgBackRest's messages; None where nobody looks."""
    if progress is silent:
        return None

    def watch(message: str) -> None:
        if found := _PERCENT.search(message):
            progress(what, float(found[1]) / 100)

    return watch
