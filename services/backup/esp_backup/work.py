"""Each kind of work from its beginning to what it leaves in storage and in the catalogue."""

from collections.abc import Awaitable, Callable, Collection, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from esp_common.database import Pool
from esp_common.errors import EspError, Unavailable
from prometheus_client import Counter

from esp_backup import dumps as dump_files
from esp_backup.blobs import Blobs
from esp_backup.drill import Drill
from esp_backup.dumps import Dump, Dumps
from esp_backup.programs import Account, ProgramFailed
from esp_backup.repository import Damaged, Full, Repository
from esp_backup.sets import DailySet, Sets
from esp_backup.settings import BackupSettings
from esp_backup.store import catalogue
from esp_backup.store.catalogue import Entry
from esp_backup.store.cluster import Cluster

log = structlog.get_logger()

AZURE: Final = "azure"

_NOT_PRUNED: Final = Counter(
    "esp_backup_pruning_failures_total", "Runs after which old backups could not be deleted.", ["kind"]
)


class Work:
    """What the service does to one cluster. `account`: the one that owns the cluster's files."""

    def __init__(self, settings: BackupSettings, pool: Pool, account: Account) -> None:
        self._settings = settings
        self._pool = pool
        self.account = account
        self.repository = Repository(settings, account)
        self.dumps = Dumps(settings, account)

    @classmethod
    def of(cls, settings: BackupSettings, pool: Pool) -> "Work":
        """Return the work of the cluster that the settings name."""
        return cls(settings, pool, owner_of(settings.cluster_data))

    async def do(self, kind: str) -> dict[str, Any]:
        """Do one kind of work and return what there is to tell of it; raises what failed."""
        does = {
            "dump": self.dump,
            "full": self.full,
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

    async def full(self) -> dict[str, Any]:
        """Take a full backup to each repository, then let go there of what is older than the policy keeps.

        A repository that fails does not keep the others from theirs; the first failure is raised at the end.
        One that has its backup lets go of old ones all the same: it is asked again until all have theirs.
        """
        await self.repository.ensure()
        failures: list[EspError] = []
        taken = []
        for place in self.repository.places:
            try:
                await self.repository.backup(place)
                taken.append(place)
            except EspError as failure:
                failures.append(failure)
        fulls = await self.note_fulls()
        newest = [
            max((full for full in fulls if full.place == place), key=lambda full: full.ended_at)
            for place in taken
            if any(full.place == place for full in fulls)
        ]
        if any(full.damaged for full in newest):
            raise Damaged("pages of the cluster fail their checksums", fix="see pgBackRest's log; drill")
        pruned = await _pruned("full", self.expire_fulls(taken))
        if failures:
            raise failures[0]
        return {
            "backups": [{"place": full.place, "name": full.label, "bytes": full.bytes} for full in newest],
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
        fulls = [partial(self.verify_fulls, place) for place in self.repository.places]
        parts: list[Callable[[], Awaitable[list[str]]]] = [self.verify_dumps, *fulls, self.verify_sets]
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
        """Restore the newest backup elsewhere and hold it against the source."""
        drill = Drill(self._settings, self.account, self.repository, self._pool)
        return (await drill.run()).to_json()

    async def rebuild(self) -> dict[str, int]:
        """Make the catalogue say what is in storage; return how many there are of each kind."""
        async with Blobs(self._settings) as blobs:
            await blobs.ensure()
            sets = await Sets(self._settings, blobs).all()
        await self._note_sets(sets)
        return {"dump": await self.note_dumps(), "full": len(await self.note_fulls()), "set": len(sets)}

    # --- what is in storage ---------------------------------------------------------------------------------

    async def note_dumps(self) -> int:
        """Make the catalogue say which dumps there are; return how many."""
        found, broken = self.dumps.all()
        async with self._pool.acquire() as connection:
            entries = [_dump_entry(dump) for dump in found]
            await catalogue.note_found(connection, "dump", [dump_files.PLACE], entries)
        for name, problem in broken.items():
            log.warning("backup.broken-dump", name=name, reason=problem)
        return len(found)

    async def note_fulls(self) -> list[Full]:
        """Make the catalogue say which full backups there are, where that can be seen; return them."""
        contents = await self.repository.contents()
        seen = [place for place in self.repository.places if place not in contents.unreachable]
        async with self._pool.acquire() as connection:
            entries = [_full_entry(full) for full in contents.fulls]
            await catalogue.note_found(connection, "full", seen, entries)
        return list(contents.fulls)

    async def _note_sets(self, found: list[DailySet]) -> None:
        async with self._pool.acquire() as connection:
            entries = [_set_entry(each) for each in found]
            await catalogue.note_found(connection, "set", [AZURE], entries)

    async def _expire_sets(self, sets: Sets, problems: list[str]) -> dict[str, Any]:
        gone = await sets.expire(problems, datetime.now(UTC))
        if gone:
            await self._note_sets(await sets.all())
        return {"expired": gone}

    async def expire_fulls(self, places: Collection[str] | None = None) -> None:
        """Let old full backups go from `places` (None: all) where no newer one is known to be damaged."""
        async with self._pool.acquire() as connection:
            problems = await catalogue.known_problems(connection, "full")
        for place in self.repository.places if places is None else places:
            if any(where == place for where, _ in problems):
                log.warning("backup.kept", place=place, reason="a newer backup is damaged")
            else:
                await self.repository.expire(place)
        await self.note_fulls()

    # --- reading again --------------------------------------------------------------------------------------

    async def verify_dumps(self) -> list[str]:
        """Read every dump again; note and return what is wrong."""
        found, broken = self.dumps.all()
        problems: dict[str, str | None] = {**broken}
        for dump in found:
            try:
                await self.dumps.verify(dump.name)
                problems[dump.name] = None
            except Damaged as damage:
                problems[dump.name] = damage.detail
        return await self._note_verified("dump", dump_files.PLACE, problems)

    async def verify_fulls(self, place: str) -> list[str]:
        """Have a repository read again; note and return what is wrong."""
        found = await self.repository.verify(place)
        labels = [full.label for full in await self.note_fulls() if full.place == place]
        wrong = await self._note_verified("full", place, {label: found.get(label) for label in labels})
        return wrong + [f"{place} {what}: {said}" for what, said in found.items() if what not in labels]

    async def verify_sets(self) -> list[str]:
        """Read every daily set again; note and return what is wrong."""
        async with Blobs(self._settings) as blobs:
            await blobs.ensure()
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


def _full_entry(full: Full) -> Entry:
    problem = "pages fail their checksums" if full.damaged else None
    return Entry(
        "full",
        full.place,
        full.label,
        full.started_at,
        full.ended_at,
        full.bytes,
        full.stored_bytes,
        {"first_wal": full.first_wal},
        problem,
    )


def _set_entry(each: DailySet) -> Entry:
    return Entry("set", AZURE, each.name, each.taken_at, each.stored_at, each.bytes, each.bytes)
