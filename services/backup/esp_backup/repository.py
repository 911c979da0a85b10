"""Physical backups and the log's archive: pgBackRest's repositories, in Azure and on this machine."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from esp_common.errors import EspError, InvalidInput, NotFound, Unavailable
from psycopg.conninfo import conninfo_to_dict

from esp_backup.domain.sealing import passphrase
from esp_backup.domain.verification import problems
from esp_backup.programs import Account, ProgramFailed, run
from esp_backup.settings import BackupSettings

AZURE: Final = "azure"
LOCAL: Final = "local"
PROGRAM: Final = "pgbackrest"
FINE: Final = 0
NO_BACKUP: Final = 2
UNREACHABLE: Final = 99
"""What `info` says of a repository."""
LOCKED: Final = 50
"""Exit status while another pgBackRest does something that excludes this."""
LOCKED_S: Final = 30.0
_LOCK_POLL_S: Final = 0.2


class Damaged(EspError):
    """A backup or the archive is not as it was written: do not rely on it."""

    code, title = "backup-damaged", "Backup damaged"


@dataclass(frozen=True, slots=True)
class Full:
    """A full backup: when it began and ended, bytes of the database and of the repository."""

    place: str
    label: str
    started_at: datetime
    ended_at: datetime
    bytes: int
    stored_bytes: int
    damaged: bool
    first_wal: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What the repositories hold; `unreachable`: those that did not answer, and why."""

    fulls: tuple[Full, ...]
    newest_wal: dict[str, str]
    unreachable: dict[str, str]


class Repository:
    """The cluster's repositories. Azure is the first, so that adding a local one changes no number."""

    def __init__(self, settings: BackupSettings, account: Account) -> None:
        self._settings = settings
        self._account = account
        self.places = (AZURE, LOCAL) if settings.local_repository else (AZURE,)

    @property
    def configuration(self) -> Path:
        """The file that says to pgBackRest where everything is."""
        return self._settings.state_folder / "pgbackrest.conf"

    @property
    def archive_command(self) -> str:
        """What PostgreSQL's `archive_command` has to be."""
        return f"{PROGRAM} --config={self.configuration} --stanza={self._settings.stanza} archive-push %p"

    def configure(self) -> None:
        """Write pgBackRest's configuration and make its folders."""
        state = self._account.folder(self._settings.state_folder)
        for name in ("spool", "log", "lock"):
            self._account.folder(state / name)
        if self._settings.local_repository:
            self._account.folder(self._settings.local_repository)
        self._account.write(self.configuration, configuration_text(self._settings))

    async def ensure(self) -> None:
        """Make the stanza in every repository that lacks it."""
        stanzas: list[dict[str, Any]] = orjson.loads(await self._run("info", "--output=json"))
        repos = [repo for stanza in stanzas for repo in stanza.get("repo", [])]
        # Of one that does not answer nothing is known; the others need not wait for it.
        has = (FINE, NO_BACKUP, UNREACHABLE)
        if len(repos) < len(self.places) or any(repo["status"]["code"] not in has for repo in repos):
            await self._run("stanza-create")

    async def backup(self, place: str) -> None:
        """Take a full backup to `place`; what is there already stays."""
        await self._run("backup", self._repo(place), "--type=full")

    async def expire(self, place: str) -> None:
        """Delete from `place` what the configured retention allows: never the last full backup."""
        await self._run("expire", self._repo(place))

    async def contents(self) -> Contents:
        """Return what there is; a repository that does not answer is named, not an error."""
        stanzas: list[dict[str, Any]] = orjson.loads(await self._run("info", "--output=json"))
        fulls, newest, unreachable = [], {}, {}
        for stanza in stanzas:
            for repo in stanza.get("repo", []):
                if repo["status"]["code"] == UNREACHABLE:
                    unreachable[self._place(repo["key"])] = repo["status"]["message"]
            fulls += [self._full(found) for found in stanza.get("backup", []) if found["type"] == "full"]
            for archive in stanza.get("archive", []):
                if archive.get("max"):
                    newest[self._place(archive["database"]["repo-key"])] = archive["max"]
        return Contents(tuple(fulls), newest, unreachable)

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
        return problems(await self._run("verify", self._repo(place), "--output=text", "--verbose"))

    async def restore(self, place: str, label: str, folder: Path, target: Sequence[str]) -> None:
        """Put backup `label` into the empty `folder`, to recover as `target` (options of pgBackRest) says."""
        # pgBackRest empties its spool for a restore: the spool of a running cluster is not to be touched.
        own = [
            f"--{name}-path={self._account.folder(self._settings.state_folder / 'restore' / name)}"
            for name in ("spool", "lock")
        ]
        where = [self._repo(place), f"--set={label}", f"--pg1-path={folder}"]
        await self._run("restore", *where, *own, *target)

    async def choose(self, before: datetime | None, place: str | None = None) -> Full:
        """Return the newest undamaged full backup that ended before a moment, of the nearest repository.

        Raises Unavailable when a repository that could have it does not answer, else NotFound.
        """
        contents = await self.contents()
        fitting = [
            full
            for full in contents.fulls
            if not full.damaged
            and place in (None, full.place)
            and (before is None or full.ended_at <= before)
        ]
        if not fitting and contents.unreachable:
            where, why = next(iter(contents.unreachable.items()))
            raise Unavailable(f"repository {where} does not answer: {why}")
        if not fitting:
            raise NotFound("no full backup that ended before this moment", fix="see `esp-backup list`")
        return max(fitting, key=lambda full: (full.ended_at, full.place == LOCAL))

    async def _run(self, command: str, *options: str) -> str:
        argv = [PROGRAM, f"--config={self.configuration}", f"--stanza={self._settings.stanza}"]
        deadline = time.monotonic() + LOCKED_S
        while True:
            try:
                return await run([*argv, *options, command], self._account)
            except ProgramFailed as failure:
                failure.fix = f"see {self._settings.state_folder}/log"
                # The archiving of a segment, or what a killed process left, is over in a moment.
                if failure.exit_status != LOCKED or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOCK_POLL_S)

    def _repo(self, place: str) -> str:
        return f"--repo={self.places.index(place) + 1}"

    def _place(self, key: int) -> str:
        return self.places[key - 1] if key <= len(self.places) else f"repository {key}"

    def _full(self, found: dict[str, Any]) -> Full:
        sizes, times = found["info"], found["timestamp"]
        return Full(
            place=self._place(found["database"]["repo-key"]),
            label=found["label"],
            started_at=datetime.fromtimestamp(times["start"], UTC),
            ended_at=datetime.fromtimestamp(times["stop"], UTC),
            bytes=sizes["size"],
            stored_bytes=sizes["repository"]["delta"],
            damaged=bool(found.get("error")),
            first_wal=found["archive"]["start"],
        )


def configuration_text(settings: BackupSettings) -> str:
    """Return pgbackrest.conf. Raises InvalidInput when the storage account is not named or not over https."""
    state = settings.state_folder
    timeout_s = settings.io_timeout_s
    lines = {
        **_azure(settings),
        "repo1-retention-full-type": "time",
        "repo1-retention-full": str(settings.full_days),
        **_local(settings),
        "process-max": str(settings.processes),
        "job-retry-interval": f"{settings.part_retry_s:g}",
        "compress-type": "lz4",
        "start-fast": "y",
        # Only what has been checked makes older ones go: see the work `full`.
        "expire-auto": "n",
        "archive-async": "y",
        "spool-path": f"{state}/spool",
        "lock-path": f"{state}/lock",
        "log-path": f"{state}/log",
        "log-level-console": "warn",
        "log-level-stderr": "warn",
        "io-timeout": f"{timeout_s:g}",
    }
    cluster = conninfo_to_dict(settings.cluster_url)
    stanza = {
        "pg1-path": str(settings.cluster_data),
        "pg1-socket-path": str(cluster.get("host") or "/var/run/postgresql"),
        "pg1-port": str(cluster.get("port") or 5432),
        "pg1-user": str(cluster.get("user") or "postgres"),
        "pg1-database": str(cluster.get("dbname") or "postgres"),
    }
    sections = {"global": lines, settings.stanza: stanza}
    return "\n".join(
        f"[{name}]\n" + "".join(f"{option}={value}\n" for option, value in options.items())
        for name, options in sections.items()
    )


def _azure(settings: BackupSettings) -> dict[str, str]:
    parts = connection_parts(settings.blob_connection_string)
    lines = {
        "repo1-type": "azure",
        "repo1-path": f"/{settings.stanza}",
        "repo1-azure-account": parts["AccountName"],
        "repo1-azure-key": parts["AccountKey"],
        "repo1-azure-container": settings.blob_container,
        "repo1-bundle": "y",
        **_cipher(1, settings),
    }
    endpoint = urlsplit(parts.get("BlobEndpoint", ""))
    if endpoint.hostname and parts["AccountName"] in endpoint.path:
        # An account named by the path is not Azure itself, but what stands in for it.
        lines["repo1-azure-uri-style"] = "path"
        lines["repo1-storage-host"] = endpoint.hostname
        lines["repo1-storage-port"] = str(endpoint.port or 443)
    elif suffix := parts.get("EndpointSuffix"):
        lines["repo1-azure-endpoint"] = f"blob.{suffix}"
    if settings.blob_ca_file:
        lines["repo1-storage-ca-file"] = str(settings.blob_ca_file)
    return lines


def _local(settings: BackupSettings) -> dict[str, str]:
    if not settings.local_repository:
        return {}
    return {
        "repo2-path": str(settings.local_repository),
        "repo2-retention-full": str(settings.local_fulls),
        "repo2-bundle": "y",
        **_cipher(2, settings),
    }


def _cipher(number: int, settings: BackupSettings) -> dict[str, str]:
    if settings.key is None:
        return {}
    return {
        f"repo{number}-cipher-type": "aes-256-cbc",
        f"repo{number}-cipher-pass": passphrase(settings.key),
    }


def connection_parts(text: str) -> dict[str, str]:
    """Return the parts of a storage account's connection string; raise InvalidInput when one lacks."""
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    missing = [name for name in ("AccountName", "AccountKey") if name not in parts]
    if missing:
        raise InvalidInput(
            f"the storage account's connection string has no {' and no '.join(missing)}",
            fix="set ESP_BACKUP_BLOB_CONNECTION_STRING_FILE",
        )
    if urlsplit(parts.get("BlobEndpoint", "https:")).scheme != "https":
        raise InvalidInput("pgBackRest speaks to blob storage over https only", fix="give an https endpoint")
    return parts
