"""Storage of workers, their partitions, and the states of pumps."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

import orjson
from esp_common import topology
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
"""Status columns that hold JSON."""


class Snapshot(NamedTuple):
    """Saved state of a pump; `through`: its newest reading."""

    pump_id: str
    partition: int
    body: bytes
    through: datetime


class Spell(NamedTuple):
    """Interval of a pump in `state`; `ended_at` None: still in it."""

    pump_id: str
    started_at: datetime
    state: str
    ended_at: datetime | None
    trip_code: int | None


class Status(NamedTuple):
    """Present status of a pump; documents as JSON text."""

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
    """Registered workers and their partitions."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def beat(self, worker_id: str, ttl_s: float) -> set[str]:
        """Record a heartbeat of `worker_id`; return all workers with one in the last `ttl_s` seconds."""
        return {row["worker_id"] for row in await self._pool.fetch(_SQL.beat, worker_id, ttl_s)}

    async def older_live(self, ttl_s: float) -> bool:
        """Return whether a worker that divides pumps into fewer partitions was seen in the last `ttl_s`."""
        return bool(await self._pool.fetchval(_SQL.older_live, topology.FIRST_PARTITION, ttl_s))

    async def retire_older(self) -> None:
        """Give what is stored under numbers of older partitions to the present ones."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_SQL.forget_older, topology.FIRST_PARTITION)
            rows = await connection.fetch(_SQL.older_backlogs, topology.FIRST_PARTITION)
            pump_ids = [row["pump_id"] for row in rows]
            if pump_ids:
                numbers = list(map(topology.partition, pump_ids))
                await connection.execute(_SQL.renumber_backlogs, pump_ids, numbers)

    async def waiting(self, worker_id: str, ttl_s: float) -> set[int]:
        """Return the partitions with a backlog that belong to no live worker, or to `worker_id`."""
        return {row["partition"] for row in await self._pool.fetch(_SQL.waiting, worker_id, ttl_s)}

    async def leave(self, worker_id: str) -> None:
        """Unregister `worker_id`."""
        await self._pool.execute(_SQL.leave, worker_id)

    async def claim(self, partition: int, worker_id: str) -> int:
        """Claim a partition for a worker; return its epoch, which grows when the owner changes."""
        return int(await self._pool.fetchval(_SQL.claim, partition, worker_id))


async def fence(connection: Connection, worker_id: str, epochs: Mapping[int, int]) -> set[int]:
    """Return the partitions of `epochs` still owned by the worker, locked for this transaction."""
    rows = await connection.fetch(_SQL.fence, worker_id, list(epochs), list(epochs.values()))
    return {row["partition"] for row in rows}


async def save_snapshots(connection: Connection, snapshots: Sequence[Snapshot]) -> None:
    """Save the states of pumps, replacing earlier ones."""
    if snapshots:
        await connection.execute(_SQL.save_snapshots, *_columns(snapshots))


async def read_snapshots(
    connection: Connection, pump_ids: Iterable[str]
) -> dict[str, tuple[bytes, datetime]]:
    """Return the saved state of each pump, and its newest reading."""
    rows = await connection.fetch(_SQL.snapshots, list(pump_ids))
    return {row["pump_id"]: (row["body"], row["through"]) for row in rows}


async def put_statuses(connection: Connection, statuses: Sequence[Status], rule_version: str) -> None:
    """Store the newest status of each pump.

    A pump with a backlog may have two: of its newest reading, and of the last evaluated reading of the
    backlog.
    """
    newest = {each.pump_id: each for each in sorted(statuses, key=attrgetter("time"))}
    if newest:
        await connection.execute(_SQL.put_statuses, *_columns(list(newest.values())), rule_version)


async def status(pool: Pool, pump_id: str) -> dict[str, Any]:
    """Return the status of a pump; `time` None before the first report of a worker.

    Includes `judged_since`, `received` (newest known reading) and `diagnosis_lag_s`.
    """
    row = await pool.fetchrow(_SQL.status, pump_id)
    assert row is not None  # noqa: S101 - the query returns one row
    return {
        name: orjson.loads(value) if name in _DOCUMENTS and value else value for name, value in row.items()
    }


async def open_spells(connection: Connection, pump_ids: Iterable[str]) -> dict[str, tuple[datetime, str]]:
    """Return start and state of each pump's present interval."""
    rows = await connection.fetch(_SQL.open_spells, list(pump_ids))
    return {row["pump_id"]: (row["started_at"], row["state"]) for row in rows}


async def first_spells(connection: Connection, pump_ids: Iterable[str]) -> dict[str, datetime]:
    """Return the start of the first recorded interval of each pump."""
    rows = await connection.fetch(_SQL.first_spells, list(pump_ids))
    return {row["pump_id"]: row["started_at"] for row in rows}


async def spells_at(
    connection: Connection, pump_ids: Sequence[str], at: Sequence[datetime]
) -> dict[str, tuple[datetime, str]]:
    """Return start and state of each pump's interval at its given time."""
    rows = await connection.fetch(_SQL.spells_at, list(pump_ids), list(at))
    return {row["pump_id"]: (row["started_at"], row["state"]) for row in rows}


async def log_spells(connection: Connection, spells: Sequence[Spell]) -> None:
    """Log intervals, in order of time per pump; the interval in which the first one starts ends there."""
    if not spells:
        return
    first: dict[str, datetime] = {}
    for spell in spells:
        first.setdefault(spell.pump_id, spell.started_at)
    await connection.execute(_SQL.end_spells, list(first), list(first.values()))
    await connection.execute(_SQL.begin_spells, *_columns(spells))


async def mark_of_rulebook(connection: Connection) -> str:
    """Return a digest that changes with any pump, its settings or any rules."""
    return str(await connection.fetchval(_SQL.mark))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
