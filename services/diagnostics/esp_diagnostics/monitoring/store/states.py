"""Workers, the partitions they hold, and the states of the pumps in these."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

import orjson
from esp_common.database import Connection, Pool, load_queries

_SQL: Final = load_queries(__package__, "states.sql")

_DOCUMENTS: Final = (
    "latest",
    "operating_point",
    "residuals",
    "health_terms",
    "hypotheses",
    "path",
    "anomaly",
)
"""Columns of a status that are JSON."""


class Snapshot(NamedTuple):
    """A pump's state as a worker left it; `through`: the newest reading it has seen."""

    pump_id: str
    partition: int
    body: bytes
    through: datetime


class Spell(NamedTuple):
    """A pump was in `state` from `started_at` to `ended_at`, or is in it still (None)."""

    pump_id: str
    started_at: datetime
    state: str
    ended_at: datetime | None
    trip_code: int | None


class Status(NamedTuple):
    """What a pump does and suffers from now; documents as JSON text."""

    pump_id: str
    field_id: str
    time: datetime
    state: str
    since: datetime
    latest: str
    operating_point: str
    residuals: str
    health: float | None
    health_terms: str
    hypotheses: str
    path: str
    gauge_fault: bool
    anomaly: str | None


class Ownership:
    """Which workers live, and who holds which partition."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def beat(self, worker_id: str, ttl_s: float) -> set[str]:
        """Say that `worker_id` lives; return it and all others that said so in the last `ttl_s` seconds."""
        return {row["worker_id"] for row in await self._pool.fetch(_SQL.beat, worker_id, ttl_s)}

    async def waiting(self, worker_id: str, ttl_s: float) -> set[int]:
        """Return the partitions with a backlog that no worker has, or only `worker_id`."""
        return {row["partition"] for row in await self._pool.fetch(_SQL.waiting, worker_id, ttl_s)}

    async def leave(self, worker_id: str) -> None:
        """Say that `worker_id` is no more."""
        await self._pool.execute(_SQL.leave, worker_id)

    async def claim(self, partition: int, worker_id: str) -> int:
        """Make the partition that worker's; return its epoch, which grows when it changes hands."""
        return int(await self._pool.fetchval(_SQL.claim, partition, worker_id))


async def fence(connection: Connection, worker_id: str, epochs: Mapping[int, int]) -> set[int]:
    """Return those of `epochs` that are still the worker's, and keep them so for this transaction."""
    rows = await connection.fetch(_SQL.fence, worker_id, list(epochs), list(epochs.values()))
    return {row["partition"] for row in rows}


async def save_snapshots(connection: Connection, snapshots: Sequence[Snapshot]) -> None:
    """Keep pumps' states in place of those kept before."""
    if snapshots:
        await connection.execute(_SQL.save_snapshots, *_columns(snapshots))


async def read_snapshots(
    connection: Connection, pump_ids: Iterable[str]
) -> dict[str, tuple[bytes, datetime]]:
    """Return the kept state of each pump that has one, and the newest reading it has seen."""
    rows = await connection.fetch(_SQL.snapshots, list(pump_ids))
    return {row["pump_id"]: (row["body"], row["through"]) for row in rows}


async def put_statuses(connection: Connection, statuses: Sequence[Status], rule_version: str) -> None:
    """Store the newest status of each pump.

    A pump with a backlog may have two: that of its newest reading, and that of the reading judged last.
    """
    newest = {each.pump_id: each for each in sorted(statuses, key=attrgetter("time"))}
    if newest:
        await connection.execute(_SQL.put_statuses, *_columns(list(newest.values())), rule_version)


async def status(pool: Pool, pump_id: str) -> dict[str, Any]:
    """Return what a pump does and suffers from now, as far as a worker has said; `time` None: nothing yet.

    Beside it `judged_since`, `received`, the newest reading known of, and `diagnosis_lag_s`.
    """
    row = await pool.fetchrow(_SQL.status, pump_id)
    assert row is not None  # noqa: S101 - the query returns one row
    return {
        name: orjson.loads(value) if name in _DOCUMENTS and value else value for name, value in row.items()
    }


async def open_spells(connection: Connection, pump_ids: Iterable[str]) -> dict[str, tuple[datetime, str]]:
    """Return when each pump began what it still does, and what that is."""
    rows = await connection.fetch(_SQL.open_spells, list(pump_ids))
    return {row["pump_id"]: (row["started_at"], row["state"]) for row in rows}


async def first_spells(connection: Connection, pump_ids: Iterable[str]) -> dict[str, datetime]:
    """Return when the first spell of each pump began that is on record."""
    rows = await connection.fetch(_SQL.first_spells, list(pump_ids))
    return {row["pump_id"]: row["started_at"] for row in rows}


async def spells_at(
    connection: Connection, pump_ids: Sequence[str], at: Sequence[datetime]
) -> dict[str, tuple[datetime, str]]:
    """Return when each pump began what it did at its time, and what that was."""
    rows = await connection.fetch(_SQL.spells_at, list(pump_ids), list(at))
    return {row["pump_id"]: (row["started_at"], row["state"]) for row in rows}


async def log_spells(connection: Connection, spells: Sequence[Spell]) -> None:
    """Add spells, in order of each pump's time; the one in which the first begins ends there."""
    if not spells:
        return
    first: dict[str, datetime] = {}
    for spell in spells:
        first.setdefault(spell.pump_id, spell.started_at)
    await connection.execute(_SQL.end_spells, list(first), list(first.values()))
    await connection.execute(_SQL.begin_spells, *_columns(spells))


async def mark_of_rulebook(connection: Connection) -> str:
    """Return what changes whenever a pump, its settings or any rules do."""
    return str(await connection.fetchval(_SQL.mark))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
