"""Logical dumps: one database as it was at a moment, which any PostgreSQL of its version can load."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import orjson
from esp_common.errors import Conflict, EspError, InvalidInput, NotFound, Unavailable
from esp_common.progress import Progress, silent

from esp_backup.domain.modes import Mode
from esp_backup.domain.retention import Kept, beyond_count
from esp_backup.domain.sealing import DUMPS, derive
from esp_backup.programs import Account, libpq_environment, run
from esp_backup.repository import Damaged
from esp_backup.sealed_files import open_folder, seal_folder
from esp_backup.settings import BackupSettings
from esp_backup.store.cluster import Cluster

PLACE: Final = "snapshots"
MANIFEST: Final = "manifest.json"
DATA: Final = "data"
ROLES: Final = "roles.sql"
PARTIAL: Final = ".partial-"
NAME: Final = "%Y%m%dT%H%M%SZ"
JOBS: Final = 2
WATCH_S: Final = 0.5
_MIB: Final = 1024 * 1024


class NoSpace(EspError):
    """There is not enough space left where dumps are kept."""

    code, status, title = "no-space", 507, "No space for a dump"


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump and what its manifest says. `files`: SHA-256 of each file, by its path in the dump.

    `sealed`: its files are encrypted, and end with `.sealed`; the manifest is not.
    """

    name: str
    database: str
    server_version: str
    timescale_version: str | None
    started_at: datetime
    ended_at: datetime
    bytes: int
    files: dict[str, str]
    sealed: bool = False


class Dumps:
    """The folder of dumps. One is there under its name when it is complete, and not before.

    What a sealed one is made of or opened to is never in that folder, but in the state folder for a while.
    """

    def __init__(self, settings: BackupSettings, account: Account, progress: Progress = silent) -> None:
        self._settings = settings
        self._progress = progress
        self._account = account
        self._folder = settings.snapshot_folder
        self._making = settings.state_folder / "dump-making"

    async def take(self, cluster: Cluster, now: datetime) -> Dump:
        """Dump the cluster's database; what an earlier try left half done is removed first.

        Raises NoSpace before it begins, ProgramFailed when a program did; the half of it is removed.
        """
        self._account.folder(self._folder)
        await asyncio.to_thread(self._clear)
        self._require_space(self._folder)
        if self._settings.seal_dumps:
            self._require_space(self._settings.state_folder)
        identity = await cluster.identity()
        name = now.strftime(NAME)
        partial = self._account.folder(self._folder / f"{PARTIAL}{name}")
        try:
            if self._settings.seal_dumps:
                await self._write_sealed(cluster.url, partial, name)
            else:
                await self._write(cluster.url, partial)
            dump = await asyncio.to_thread(
                _describe, partial, name, identity, now, sealed=self._settings.seal_dumps
            )
            self._account.write(partial / MANIFEST, orjson.dumps(asdict(dump)).decode())
            await asyncio.to_thread(_flush, partial)
            partial.rename(self._folder / name)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
            raise
        _flush_folder(self._folder)
        return dump

    def all(self) -> tuple[list[Dump], dict[str, str]]:
        """Return the dumps there are, oldest first, and by name what is no dump any more."""
        dumps, problems = [], {}
        for folder in sorted(self._folder.glob("[0-9]*T*Z")) if self._folder.exists() else []:
            try:
                dumps.append(_read(folder))
            except Damaged as damage:
                problems[folder.name] = damage.detail
        return dumps, problems

    async def verify(self, name: str) -> None:
        """Read a dump again; raise Damaged naming the first file that is not as it was written."""
        await asyncio.to_thread(_verify, self._existing(name))

    def expire(self, problems: Iterable[str]) -> list[str]:
        """Delete the dumps beyond those kept; `problems` names damaged ones, which count for nothing."""
        bad = set(problems)
        dumps, broken = self.all()
        kept = [Kept(dump.name, dump.started_at, dump.name not in bad) for dump in dumps]
        kept += [Kept(name, _taken_at(name), good=False) for name in broken]
        gone = beyond_count(kept, self._settings.dumps_kept)
        for name in gone:
            # It is no dump from the first moment on, whenever this ends.
            doomed = (self._folder / name).rename(self._folder / f"{PARTIAL}{name}")
            shutil.rmtree(doomed, ignore_errors=True)
        return gone

    async def open(self, name: str, folder: Path) -> Dump:
        """Write what a sealed dump holds into the new `folder`, once it is verified, and return the dump.

        Raises Damaged, Unreadable when it was sealed under another key, Conflict when `folder` exists.
        """
        await self.verify(name)
        dump = _read(self._existing(name))
        if not dump.sealed:
            raise InvalidInput(f"dump {name} is not sealed", fix=f"take it as it is: {self._folder / name}")
        self._new(folder)
        try:
            await asyncio.to_thread(open_folder, self._key(name), self._folder / name, folder, name)
            await asyncio.to_thread(self._own, folder)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        return dump

    @asynccontextmanager
    async def _readable(self, name: str) -> AsyncIterator[Path]:
        """Verify a dump and give a folder with its files as PostgreSQL's programs read them."""
        await self.verify(name)
        if not _read(self._existing(name)).sealed:
            yield self._folder / name
            return
        opened = self._settings.state_folder / f"dump-opened-{uuid4().hex}"
        await self.open(name, opened)
        try:
            yield opened
        finally:
            await asyncio.to_thread(shutil.rmtree, opened, ignore_errors=True)

    async def load(self, name: str, server_url: str, database: str, *, roles: bool) -> None:
        """Load a dump, once it is verified, as the new `database` of the server at `server_url`.

        `server_url`: a superuser's. `roles`: make the roles of the dump's cluster too, for a new server.
        Raises Damaged, Conflict when the database exists, ProgramFailed when something does not load.
        """
        async with self._readable(name) as folder:
            dump = _read(self._existing(name))
            async with _server(server_url) as server:
                query = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
                if await server.fetchval(query, database):
                    raise Conflict(f"there is a database {database}", fix="name one that does not exist")
                if roles:
                    await self._load_roles(server_url, folder / ROLES)
                await server.execute(f'CREATE DATABASE "{database}"')
            await self._fill(dump, folder / DATA, server_url, database)

    async def _fill(self, dump: Dump, data: Path, server_url: str, database: str) -> None:
        environment = libpq_environment(server_url, database)
        # Its tables have to be filled in the order in which they stand in the dump.
        jobs = 1 if dump.timescale_version else JOBS
        argv = [self._program("pg_restore"), "--exit-on-error", f"--jobs={jobs}", "--dbname", database]
        if not dump.timescale_version:
            await run([*argv, str(data)], self._account, environment=environment)
            return
        async with _server(server_url, database) as server:
            await server.execute(f"CREATE EXTENSION timescaledb VERSION '{dump.timescale_version}'")
            await server.execute("SELECT timescaledb_pre_restore()")
        await run([*argv, str(data)], self._account, environment=environment)
        async with _server(server_url, database) as server:
            await server.execute("SELECT timescaledb_post_restore()")

    async def _load_roles(self, server_url: str, file: Path) -> None:
        # Those that the server has already are no error.
        argv = [self._program("psql"), "--no-psqlrc", "--quiet", "--file", str(file)]
        await run(argv, self._account, environment=libpq_environment(server_url, "postgres"))

    async def _write_sealed(self, url: str, folder: Path, name: str) -> None:
        making = self._account.folder(self._making)
        try:
            await self._write(url, making)
            await asyncio.to_thread(seal_folder, self._key(name), making, folder, name)
            await asyncio.to_thread(self._own, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, making, ignore_errors=True)

    def _new(self, folder: Path) -> None:
        if folder.exists():
            raise Conflict(f"there is a folder {folder}", fix="name one that does not exist")
        self._account.folder(folder)

    def _own(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            self._account.own(path)

    def _key(self, name: str) -> bytes:
        if self._settings.key is None:
            raise InvalidInput(f"dump {name} is sealed", fix="set ESP_BACKUP_ENCRYPTION_KEY_FILE")
        return derive(self._settings.key, DUMPS)

    async def _write(self, url: str, folder: Path) -> None:
        environment = libpq_environment(url)
        argv = [self._program("pg_dump"), "--format=directory", "--compress=6", f"--jobs={JOBS}"]
        async with self._watched(folder):
            await run([*argv, f"--file={folder / DATA}"], self._account, environment=environment)
        roles = [self._program("pg_dumpall"), "--roles-only", f"--file={folder / ROLES}"]
        if self._settings.mode is Mode.MANAGED:
            roles.append("--no-role-passwords")  # only a superuser may read them
        await run(roles, self._account, environment=environment)

    @asynccontextmanager
    async def _watched(self, folder: Path) -> AsyncIterator[None]:
        """Report while inside how many bytes `folder` has, of those that the last dump had."""
        dumps, _ = self.all()
        expected = dumps[-1].bytes if dumps else None

        async def watch() -> None:
            while True:
                size = await asyncio.to_thread(_size, folder)
                self._progress("dump", min(size / expected, 1) if expected else None)
                await asyncio.sleep(WATCH_S)

        watching = None if self._progress is silent else asyncio.create_task(watch())
        try:
            yield
        finally:
            if watching:
                watching.cancel()

    def _program(self, name: str) -> str:
        return str(self._settings.postgres_bin / name)

    def _existing(self, name: str) -> Path:
        folder = self._folder / name
        if Path(name).name != name or not (folder / MANIFEST).exists():
            raise NotFound(f"no dump {name}", fix="see `esp-backup list`")
        return folder

    def _clear(self) -> None:
        for left in self._folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(self._making, ignore_errors=True)

    def _require_space(self, folder: Path) -> None:
        """Refuse before the disk is full for everybody else on it: the next dump is about like the last."""
        dumps, _ = self.all()
        needed = self._settings.snapshot_free_mib * _MIB + (dumps[-1].bytes if dumps else 0)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise NoSpace(
                f"{free // _MIB} MiB are free in {folder}, a dump needs {needed // _MIB} MiB",
                fix="make room, or keep fewer dumps (ESP_BACKUP_DUMPS_KEPT)",
            )


def _describe(folder: Path, name: str, identity: Any, began: datetime, *, sealed: bool) -> Dump:
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return Dump(
        name=name,
        database=identity.database,
        server_version=identity.server_version,
        timescale_version=identity.timescale_version,
        started_at=began,
        ended_at=datetime.now(UTC),
        bytes=sum(path.stat().st_size for path in files.values()),
        files={relative: _digest(path) for relative, path in files.items()},
        sealed=sealed,
    )


def _read(folder: Path) -> Dump:
    try:
        fields = orjson.loads((folder / MANIFEST).read_bytes())
        times = {name: datetime.fromisoformat(fields[name]) for name in ("started_at", "ended_at")}
        return Dump(**{**fields, **times})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Damaged(f"dump {folder.name} has no manifest that can be read: {error}") from error


def _verify(folder: Path) -> None:
    dump = _read(folder)
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    for relative in sorted(present ^ dump.files.keys()):
        what = "is not of it" if relative in present else "is missing"
        raise Damaged(f"dump {dump.name}: {relative} {what}", fix="restore another dump")
    for relative, digest in dump.files.items():
        try:
            found = _digest(folder / relative)
        except OSError as error:
            raise Unavailable(f"dump {dump.name}: {relative} cannot be read: {error}") from error
        if found != digest:
            raise Damaged(f"dump {dump.name}: {relative} has changed", fix="restore another dump")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path) -> int:
    """Return the bytes of a folder that is being written."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _flush(folder: Path) -> None:
    """See that all of a folder is on the disk: after a power cut too a name stands for a whole dump."""
    for path in (*folder.rglob("*"), folder):
        _flush_folder(path)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _taken_at(name: str) -> datetime:
    try:
        return datetime.strptime(name, NAME).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput(f"{name} is no name of a dump") from None


@asynccontextmanager
async def _server(url: str, database: str = "postgres") -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, database=database, timeout=10)
    try:
        yield connection
    finally:
        await connection.close()
