"""Readings: a transaction per flush that stores each once, merges what belongs together, loses nothing."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple, cast

import asyncpg
import numpy as np
from esp_common.contracts.channels import MASK_BIT
from esp_common.database import Connection, Engine, Pool, load_queries

from esp_ingest.domain.readings import Quarantined
from esp_ingest.store import ledger, quality, quarantine
from esp_ingest.store.batch import (
    COLUMNS,
    MASKS,
    MEASURED,
    NO_CONFLICTS,
    Batch,
    Conflicts,
    FlushCounts,
    Key,
    OnConflict,
    StoreResult,
    Tally,
)
from esp_ingest.store.copy import encode

_QUERIES: Final = load_queries("esp_ingest.store", "telemetry.sql")


_BITS: Final = MASK_BIT.items()


def _mask(condition: str) -> str:
    """Return the SQL of the mask of channels for which `condition` holds."""
    bits = (f"CASE WHEN {condition.format(name)} THEN {1 << bit} ELSE 0 END" for name, bit in _BITS)
    return f"({' + '.join(bits)})"


def _united(mask: str) -> str:
    return f"{mask} = NULLIF(coalesce(t.{mask}, 0) | (coalesce(s.{mask}, 0) & m.fresh), 0)"


_FRAGMENTS: Final = {
    "columns": ", ".join(COLUMNS),
    "clash": _mask("s.{0} <> t.{0}"),
    "fresh": _mask("t.{0} IS NULL AND s.{0} IS NOT NULL"),
    "covered": _mask("t.{0} IS NOT NULL AND s.{0} IS NULL"),
    "union": ", ".join(
        [f"{name} = coalesce(t.{name}, s.{name})" for name in MEASURED]
        + [_united(name) for name in MASKS if name != "refused_mask"]
    ),
}
_INSERT_NEW: Final = _QUERIES.insert_new.format(**_FRAGMENTS)
_COMPARE: Final = _QUERIES.compare.format(**_FRAGMENTS)
_MERGE: Final = _QUERIES.merge.format(**_FRAGMENTS)

_MERGE_LOCK: Final = 0x7E1E
"""Class of the advisory locks that serialise merging."""

_ROWSTORE_AGE: Final = timedelta(days=6)
"""Rows younger than this are in the row store for sure: the columnstore takes chunks after 7 days."""


async def prepare(connection: "asyncpg.Connection[Any]") -> None:
    """Give a new connection its staging table: the `init` of a pool that writes readings."""
    await connection.execute(_QUERIES.stage)


async def installed_engine(connection: Connection) -> Engine:
    """Return the engine the database was migrated for."""
    return cast(Engine, await connection.fetchval(_QUERIES.engine))


class TelemetryStore:
    """Writes flushes, on either engine. The pool's connections must have been made with `prepare`."""

    def __init__(self, pool: Pool, engine: Engine, max_refused_per_day: int) -> None:
        self.engine = engine
        self._max_refused_per_day = max_refused_per_day
        self._pool = pool
        self._days: set[int] = set()

    async def write(
        self,
        batch: Batch,
        quarantined: Sequence[Quarantined],
        tallies: Sequence[Tally],
        counts: FlushCounts,
        on_conflict: OnConflict,
    ) -> StoreResult:
        """Make a flush durable, all or nothing; writing it again changes nothing but the ledger.

        Raises what asyncpg raises; see `esp_common.database.OUTAGES` for what merely calls for another try.
        """
        flush = _Flush(batch, quarantined, tallies, counts, on_conflict, self._max_refused_per_day)
        async with self._pool.acquire() as connection:
            await self._ensure_partitions(connection, batch)
            try:
                return await flush.write(connection)
            except asyncpg.CheckViolationError:
                # Retention took a partition this process remembers; what is late gets a new one.
                if not self._days:
                    raise
                self._days.clear()
            await self._ensure_partitions(connection, batch)
            return await flush.write(connection)

    async def era(self) -> str:
        """Return what names the database's history: after a restore or a failover it is another."""
        return str(await self._pool.fetchval(_QUERIES.era))

    async def _ensure_partitions(self, connection: Connection, batch: Batch) -> None:
        if self.engine == "timescale":
            return
        if days := batch.days() - self._days:
            # Not in the flush's transaction, which would hold the lock on the table until its commit.
            dates = [date(1970, 1, 1) + timedelta(day) for day in days]
            await connection.execute(_QUERIES.ensure_partitions, dates)
            self._days |= days


class _Compared(NamedTuple):
    """A staged row beside the stored one of its key, as `compare` returns it."""

    pump_no: int
    time: datetime
    clash: int
    fresh: int
    refused: int
    before: int

    @property
    def key(self) -> Key:
        return self.pump_no, self.time


@dataclass(frozen=True, slots=True)
class _Rows:
    """What became of a batch's rows; `tallies` say whose and when the repeated and contrary ones are."""

    stored: int
    merged: int = 0
    duplicates: int = 0
    conflicts: Conflicts = NO_CONFLICTS
    tallies: Sequence[Tally] = ()


@dataclass(frozen=True, slots=True)
class _Flush:
    """One flush, and the transaction that writes it."""

    batch: Batch
    quarantined: Sequence[Quarantined]
    tallies: Sequence[Tally]
    counts: FlushCounts
    on_conflict: OnConflict
    max_refused_per_day: int

    async def write(self, connection: Connection) -> StoreResult:
        async with connection.transaction():
            rows = await self._store(connection)
            conflicts = rows.conflicts
            contrary = self.on_conflict(conflicts) if len(conflicts) else []
            refusals = [*self.quarantined, *contrary]
            kept = await quarantine.keep(connection, refusals, self.max_refused_per_day)
            refused = sum(row.refusals.readings for row in self.quarantined)
            result = StoreResult(
                stored=rows.stored,
                merged=rows.merged + self.counts.merged,
                duplicates=rows.duplicates + self.counts.duplicates + refused - kept.new.readings,
                quarantined=kept.new.readings,
                refused_channels=kept.new.channels,
                conflicts=conflicts,
                unkept=sum(kept.unkept),
                filled=kept.filled,
            )
            tallies = [*self.tallies, *rows.tallies]
            await quality.tally(connection, tallies)
            await ledger.account(connection, self.batch, tallies, self.counts, result)
        return result

    async def _store(self, connection: Connection) -> _Rows:
        if not len(self.batch):
            return _Rows(0)
        rows = io.BytesIO(encode(self.batch.columns()))
        await connection.copy_to_table("staging", source=rows, columns=COLUMNS, format="binary")
        if self.batch.span()[1] < datetime.now(UTC) - _ROWSTORE_AGE:
            # Into the columnstore an insert unpacks what it might contradict, as a merge does: in one order.
            await connection.execute(_QUERIES.lock_pumps, _MERGE_LOCK)
        new = await connection.fetch(_INSERT_NEW, len(self.batch))
        if (stored := new[0]["total"]) == len(self.batch):
            return _Rows(stored)
        by_hour = {(row["pump_no"], row["hour"]): row["readings"] for row in new if stored}
        return await self._settle(connection, Counter(by_hour))

    async def _settle(self, connection: Connection, stored: Counter[Key]) -> _Rows:
        """Deal with rows whose key was taken: the same again, more channels, or contradicting ones."""
        await connection.execute(_QUERIES.lock_pumps, _MERGE_LOCK)
        compared = [_Compared(*row) for row in await connection.fetch(_COMPARE, *self.batch.span())]
        changed = [row for row in compared if row.fresh or row.refused != row.before]
        for group in _merge_groups(changed, datetime.now(UTC) - _ROWSTORE_AGE):
            await connection.execute(_MERGE, *group)
        contrary = [row for row in compared if row.clash]
        repeated = self.batch.hours() - stored - _by_hour(row.key for row in changed)
        new_conflicts = _by_hour(row.key for row in contrary if row.clash & ~row.before)
        return _Rows(
            stored=stored.total(),
            merged=len(changed),
            duplicates=repeated.total(),
            conflicts=Conflicts(
                np.array([self.batch.position(row.key) for row in contrary], dtype=np.int64),
                np.array([row.clash for row in contrary], dtype=np.int32),
            ),
            tallies=[
                *(Tally(*key, duplicates=n) for key, n in repeated.items()),
                *(Tally(*key, conflicts=n) for key, n in new_conflicts.items()),
            ],
        )


def _by_hour(keys: Iterable[Key]) -> Counter[Key]:
    return Counter((pump_no, time.replace(minute=0, second=0, microsecond=0)) for pump_no, time in keys)


def _merge_groups(rows: Sequence[_Compared], rowstore: datetime) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of each merging statement: young rows at once, old ones by pump and day."""
    groups: dict[object, list[_Compared]] = {}
    for row in rows:
        group = None if row.time >= rowstore else (row.pump_no, row.time.date())
        groups.setdefault(group, []).append(row)
    for members in groups.values():
        pumps, times, _, fresh, refused, _ = map(list, zip(*members, strict=True))
        yield sorted(set(pumps)), min(times), max(times), pumps, times, fresh, refused
