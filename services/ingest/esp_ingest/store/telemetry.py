"""Readings: a transaction per flush that stores each once, merges what belongs together, loses nothing."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, cast

import asyncpg
import numpy as np
from esp_common.database import Connection, Engine, Pool, load_queries

from esp_ingest.domain.readings import Quarantined
from esp_ingest.store import ledger, quality, quarantine
from esp_ingest.store.batch import (
    COLUMNS,
    MASKS,
    MEASURED,
    Batch,
    FlushCounts,
    Key,
    OnConflict,
    Positions,
    StoreResult,
    Tally,
)
from esp_ingest.store.copy import encode

_QUERIES: Final = load_queries("esp_ingest.store", "telemetry.sql")
_FRAGMENTS: Final = {
    "columns": ", ".join(COLUMNS),
    "differs": "coalesce(" + " OR ".join(f"s.{name} <> t.{name}" for name in MEASURED) + ", false)",
    "adds": "(" + " OR ".join(f"t.{name} IS NULL AND s.{name} IS NOT NULL" for name in MEASURED) + ")",
    "union": ", ".join(
        [f"{name} = coalesce(t.{name}, s.{name})" for name in MEASURED]
        + [f"{name} = coalesce(t.{name} | s.{name}, t.{name}, s.{name})" for name in MASKS]
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

    def __init__(self, pool: Pool, engine: Engine) -> None:
        self.engine = engine
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
        flush = _Flush(batch, quarantined, tallies, counts, on_conflict)
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


@dataclass(frozen=True, slots=True)
class _Rows:
    """What became of a batch's rows; `tallies` say whose and when the repeated and contrary ones are."""

    stored: int
    merged: int = 0
    duplicates: int = 0
    conflicts: Positions = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    tallies: Sequence[Tally] = ()


@dataclass(frozen=True, slots=True)
class _Flush:
    """One flush, and the transaction that writes it."""

    batch: Batch
    quarantined: Sequence[Quarantined]
    tallies: Sequence[Tally]
    counts: FlushCounts
    on_conflict: OnConflict

    async def write(self, connection: Connection) -> StoreResult:
        async with connection.transaction():
            rows = await self._store(connection)
            contrary = self.on_conflict(rows.conflicts) if len(rows.conflicts) else []
            refused = [*self.quarantined, *contrary]
            kept = await quarantine.keep(connection, refused)
            # A contrary row may have been folded from several readings, which are refused one by one.
            folded = len(contrary) - len(rows.conflicts)
            result = StoreResult(
                stored=rows.stored,
                merged=rows.merged + self.counts.merged - folded,
                duplicates=rows.duplicates + self.counts.duplicates + len(refused) - kept,
                quarantined=kept,
                conflicts=rows.conflicts,
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
        """Deal with rows whose key was taken: the same again, more channels, or something else."""
        await connection.execute(_QUERIES.lock_pumps, _MERGE_LOCK)
        told = await connection.fetch(_COMPARE, *self.batch.span())
        contrary = [(row["pump_no"], row["time"]) for row in told if row["differs"]]
        fuller = [(row["pump_no"], row["time"]) for row in told if not row["differs"]]
        for group in _merge_groups(fuller, datetime.now(UTC) - _ROWSTORE_AGE):
            await connection.execute(_MERGE, *group)
        repeated = self.batch.hours() - stored - _by_hour(fuller) - _by_hour(contrary)
        return _Rows(
            stored=stored.total(),
            merged=len(fuller),
            duplicates=repeated.total(),
            conflicts=np.array([self.batch.position(key) for key in contrary], dtype=np.int64),
            tallies=[
                *(Tally(*key, duplicates=n) for key, n in repeated.items()),
                *(Tally(*key, conflicts=n) for key, n in _by_hour(contrary).items()),
            ],
        )


def _by_hour(keys: Sequence[Key]) -> Counter[Key]:
    return Counter((pump_no, time.replace(minute=0, second=0, microsecond=0)) for pump_no, time in keys)


def _merge_groups(keys: Sequence[Key], rowstore: datetime) -> Iterator[tuple[list[int], datetime, datetime]]:
    """Yield pumps, first and last time of each merging statement: young rows at once, old by pump and day."""
    groups: dict[object, list[Key]] = {}
    for pump_no, time in keys:
        group = None if time >= rowstore else (pump_no, time.date())
        groups.setdefault(group, []).append((pump_no, time))
    for group_keys in groups.values():
        pumps, times = zip(*group_keys, strict=True)
        yield sorted(set(pumps)), min(times), max(times)
