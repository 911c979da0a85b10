"""Each kind of work, from taking a backup to what it leaves in storage and in the catalogue."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from esp_common.database import Pool, create_pool
from esp_common.errors import EspError, NotFound, Unavailable
from esp_common.progress import Progress, silent
from prometheus_client import Counter

from esp_backup import dumps as dump_files
from esp_backup.blobs import Blobs
from esp_backup.domain.modes import Mode, require
from esp_backup.domain.physical import TYPES, Expiry, Physical, expiry
from esp_backup.drill import Drill
from esp_backup.dump_drill import DumpDrill
from esp_backup.dumps import Dump, Dumps
from esp_backup.programs import Account, ProgramFailed
from esp_backup.repository import AZURE, LOCAL, Damaged, Repository
from esp_backup.sets import DailySet, Sets
from esp_backup.settings import BackupSettings
from esp_backup.store import catalogue
from esp_backup.store.catalogue import Entry
from esp_backup.store.cluster import Cluster

log = structlog.get_logger()

_NOT_PRUNED: Final = Counter(
    "esp_backup_pruning_failures_total", "Runs after which old backups could not be deleted.", ["kind"]
)


class Work:
    """What the service does to one cluster. `account`: the one that owns the cluster's files."""

    def __init__(
        self, settings: BackupSettings, pool: Pool, account: Account, progress: Progress = silent
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._progress = progress
        self.account = account
        self.repository = Repository(settings, account)
        self.dumps = Dumps(settings, account, progress)

    @classmethod
    def of(cls, settings: BackupSettings, pool: Pool, progress: Progress = silent) -> "Work":
        """Return the work of the cluster that the settings name."""
        return cls(settings, pool, owner_of(settings.cluster_data), progress)

    async def do(self, kind: str) -> dict[str, Any]:
        """Do one kind of work and return what there is to tell of it; raises what failed.

        Raises InvalidInput for work that is not this service's in the backup mode.
        """
        require(self._settings.mode, kind)
        does: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "dump": self.dump,
            **{type_: partial(self.physical, type_) for type_ in TYPES},
            "set": self.set,
            "verify": self.verify,
            "drill": self.drill,
        }
        return await does[kind]()

    async def dump(self) -> dict[str, Any]:
        """Take a logical dump, then let go of those beyond what is kept."""
        dump = await self.dumps.take(Cluster(self._settings.cluster_url), datetime.now(UTC))
        async with self._pool.acquire() as connection:
            problems = await catalogue.known_problems(connection, "dump")
        gone = self.dumps.expire(name for _, name in problems)
        await self.note_dumps()
        return {"name": dump.name, "bytes": dump.bytes, "expired": gone}

    async def physical(self, type_: str) -> dict[str, Any]:
        """Take a physical backup to each repository, then delete there what the policy does not keep.

        A repository that fails does not stop the others; the first failure is raised at the end. One that has
        its backup lets go of old ones all the same: the work is repeated until all have theirs.
        """
        await self.repository.ensure()
        failures: list[EspError] = []
        taken = []
        for place in self.repository.places:
            try:
                await self.repository.backup(place, type_, self._progress)
                taken.append(place)
            except EspError as failure:
                failures.append(failure)
        found = await self.note_physical()
        newest = [
            max((each for each in found if each.place == place), key=lambda each: each.ended_at)
            for place in taken
            if any(each.place == place for each in found)
        ]
        if any(each.damaged for each in newest):
            raise Damaged("pages of the cluster fail their checksums", fix="see pgBackRest's log; drill")
        pruned = await _pruned(type_, self.expire_physical(taken))
        if failures:
            raise failures[0]
        return {
            "backups": [
                {"place": each.place, "name": each.label, "type": each.type, "bytes": each.bytes}
                for each in newest
            ],
            **pruned,
        }

    async def set(self) -> dict[str, Any]:
        """Store a daily set, then let go of those older than the policy keeps."""
        async with Blobs(self._settings) as blobs:
            sets = Sets(self._settings, blobs)
            taken, files = await sets.take(datetime.now(UTC))
            await self._note_sets(await sets.all())
            async with self._pool.acquire() as connection:
                problems = await catalogue.known_problems(connection, "set")
            pruned = await _pruned("set", self._expire_sets(sets, [name for _, name in problems]))
        return {"name": taken.name, "bytes": taken.bytes, "files": files, **pruned}

    async def verify(self) -> dict[str, Any]:
        """Read every backup again and note what is wrong; raise Damaged when something is.

        What can be read is, whatever cannot; then, unless something is damaged, raises what hindered it.
        """
        wrong: list[str] = []
        unread: list[EspError] = []
        physical = [partial(self.verify_physical, place) for place in self.repository.places]
        parts: list[Callable[[], Awaitable[list[str]]]] = [self.verify_dumps, *physical, self.verify_sets]
        for part in parts:
            try:
                wrong += await part()
            except (Unavailable, ProgramFailed) as hindrance:
                unread.append(hindrance)
        if wrong:
            raise Damaged(
                "; ".join([*wrong, *(f"not read: {each.detail}" for each in unread)]),
                fix="take new backups at once; `esp-backup list` names the bad ones",
            )
        if unread:
            raise unread[0]
        return {"problems": []}

    async def drill(self) -> dict[str, Any]:
        """Restore the newest backup elsewhere and compare it with the source."""
        of_mode = DumpDrill if self._settings.mode is Mode.MANAGED else Drill
        report = await of_mode(self._settings, self.account, self._pool, self._progress).run()
        await self.note_dumps()
        return report.to_json()

    async def protect(self) -> int:
        """Have the storage account keep what is deleted for a while; return for how many days."""
        async with Blobs(self._settings) as blobs:
            return await blobs.keep_deleted(self._settings.blob_deleted_days)

    async def rebuild(self) -> dict[str, int]:
        """Make the catalogue say what is in storage; return how many there are of each kind."""
        async with Blobs(self._settings) as blobs:
            await blobs.ensure()
            sets = await Sets(self._settings, blobs).all()
        await self._note_sets(sets)
        dumps, backups = await self.note_dumps(), await self.note_physical()
        physical = {type_: sum(each.type == type_ for each in backups) for type_ in TYPES}
        return {"dump": dumps, **physical, "set": len(sets)}

    async def note_dumps(self) -> int:
        """Make the catalogue say which dumps there are; return how many."""
        found, broken = self.dumps.all()
        async with self._pool.acquire() as connection:
            entries = [_dump_entry(dump) for dump in found]
            await catalogue.note_found(connection, "dump", [dump_files.PLACE], entries)
        for name, problem in broken.items():
            log.warning("backup.broken-dump", name=name, reason=problem)
        return len(found)

    async def note_physical(self) -> list[Physical]:
        """Make the catalogue say which physical backups there are, and which holes the archive has.

        Of a repository that does not answer it says what it said before. Returns the backups.
        """
        contents = await self.repository.contents()
        seen = [place for place in self.repository.places if place not in contents.unreachable]
        holes = None if contents.unreachable else await self.repository.holes(contents)
        async with self._pool.acquire() as connection, connection.transaction():
            for type_ in TYPES:
                entries = [_physical_entry(each) for each in contents.backups if each.type == type_]
                await catalogue.note_found(connection, type_, seen, entries)
            if holes is not None:
                await catalogue.note_holes(connection, holes)
        return list(contents.backups)

    async def _note_sets(self, found: list[DailySet]) -> None:
        async with self._pool.acquire() as connection:
            entries = [_set_entry(each) for each in found]
            await catalogue.note_found(connection, "set", [AZURE], entries)

    async def _expire_sets(self, sets: Sets, problems: list[str]) -> dict[str, Any]:
        gone = await sets.expire(problems, datetime.now(UTC))
        if gone:
            await self._note_sets(await sets.all())
        return {"expired": gone}

    async def expire_physical(self, places: Collection[str] | None = None) -> None:
        """Delete old backups from `places` (None: all) where no newer one is known to be damaged."""
        async with self._pool.acquire() as connection:
            problems = [
                place for type_ in TYPES for place, _ in await catalogue.known_problems(connection, type_)
            ]
        backups = (await self.repository.contents()).backups
        for place in self.repository.places if places is None else places:
            if place in problems:
                log.warning("backup.kept", place=place, reason="a newer backup is damaged")
            else:
                await self.repository.expire(place, self._expiry(place, backups))
        await self.note_physical()

    def _expiry(self, place: str, backups: Iterable[Physical]) -> Expiry:
        of_place = [each for each in backups if each.place == place]
        if place == LOCAL:
            return expiry(of_place, datetime.now(UTC), count=self._settings.local_fulls)
        return expiry(of_place, datetime.now(UTC), age=timedelta(days=self._settings.full_days))

    async def hold(self, name: str, reason: str | None) -> list[str]:
        """Exempt a physical backup from retention wherever it is; None: end that. Returns the places.

        Raises NotFound when no repository that answers has it.
        """
        found = [each.place for each in (await self.repository.contents()).backups if each.label == name]
        if not found:
            raise NotFound(f"no physical backup {name}", fix="see `esp-backup list`")
        for place in found:
            await self.repository.hold(place, name, reason)
        await self.note_physical()
        return found

    async def verify_dumps(self) -> list[str]:
        """Read every dump again; note and return what is wrong."""
        found, broken = self.dumps.all()
        problems: dict[str, str | None] = {**broken}
        for number, dump in enumerate(found):
            self._progress("read the dumps again", number / len(found))
            try:
                await self.dumps.verify(dump.name)
                problems[dump.name] = None
            except Damaged as damage:
                problems[dump.name] = damage.detail
        return await self._note_verified("dump", dump_files.PLACE, problems)

    async def verify_physical(self, place: str) -> list[str]:
        """Have a repository read again; note and return what is wrong."""
        self._progress(f"read {place} again", None)
        found = await self.repository.verify(place)
        backups = [each for each in await self.note_physical() if each.place == place]
        wrong: list[str] = []
        for type_ in TYPES:
            of_type = {each.label: found.get(each.label) for each in backups if each.type == type_}
            wrong += await self._note_verified(type_, place, of_type)
        labels = {each.label for each in backups}
        return wrong + [f"{place} {what}: {said}" for what, said in found.items() if what not in labels]

    async def verify_sets(self) -> list[str]:
        """Read every daily set again; note and return what is wrong."""
        async with Blobs(self._settings) as blobs:
            await blobs.ensure()
            self._progress("read the daily sets again", None)
            problems = await Sets(self._settings, blobs).problems()
        return await self._note_verified("set", AZURE, problems)

    async def _note_verified(self, kind: str, place: str, problems: dict[str, str | None]) -> list[str]:
        async with self._pool.acquire() as connection:
            for name, problem in problems.items():
                await catalogue.note_verified(connection, kind, place, name, problem)
        return [f"{kind} {name} in {place}: {problem}" for name, problem in problems.items() if problem]


async def _pruned(kind: str, pruning: Coroutine[Any, Any, dict[str, Any] | None]) -> dict[str, Any]:
    """Let go of old backups. Where that fails the new one is none the worse, and the next run tries again.

    Returns what there is to tell of it; `not_pruned`: why it failed.
    """
    try:
        return await pruning or {}
    except EspError as error:
        _NOT_PRUNED.labels(kind).inc()
        log.warning("backup.not-pruned", kind=kind, reason=str(error))
        return {"not_pruned": str(error)}


def owner_of(data: Path) -> Account:
    """Return the account that owns the cluster's files; where there are none any more, this process's own."""
    existing = next(path for path in (data, *data.parents) if path.exists())
    return Account.owner_of(existing)


def _dump_entry(dump: Dump) -> Entry:
    detail = {
        "database": dump.database,
        "server_version": dump.server_version,
        "timescale_version": dump.timescale_version,
        "sealed": dump.sealed,
    }
    return Entry(
        "dump",
        dump_files.PLACE,
        dump.name,
        dump.started_at,
        dump.ended_at,
        dump.bytes,
        dump.bytes,
        detail,
    )


def _physical_entry(each: Physical) -> Entry:
    problem = "pages fail their checksums" if each.damaged else None
    detail = {"first_wal": each.first_wal}
    if each.held is not None:
        detail["held"] = each.held
    return Entry(
        each.type,
        each.place,
        each.label,
        each.started_at,
        each.ended_at,
        each.bytes,
        each.stored_bytes,
        detail,
        problem,
    )


def _set_entry(each: DailySet) -> Entry:
    return Entry("set", AZURE, each.name, each.taken_at, each.stored_at, each.bytes, each.bytes)


@asynccontextmanager
async def open_work(
    settings: BackupSettings, progress: Progress = silent
) -> AsyncIterator[tuple[Pool, Work]]:
    """Open what a command needs that does one thing: the catalogue, which may be away, and the work."""
    async with await create_pool(settings, role="esp-backup cli", min_size=0, max_size=4) as pool:
        yield pool, Work.of(settings, pool, progress)
