"""Read readings and aggregates from ingest's published views."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isnan
from typing import Any, Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.database import Pool, load_queries

from esp_diagnostics.physics.arrays import Floats
from esp_diagnostics.trends.resolution import Plan, Span

_SQL: Final = load_queries(__package__, "history.sql")
STATISTICS: Final = ("avg", "min", "max")
_NEWEST: Final = _SQL.newest.format(columns=", ".join(CHANNEL_NAMES))

Row = Any
"""asyncpg row: columns by name and position."""

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Origin of PostgreSQL's binary time stamps."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """n buckets as columns, oldest first, with the number of readings and share of running time of each.

    `values`: (n, channels × STATISTICS) in requested order, NaN where nothing was measured.
    """

    times: Sequence[datetime]
    readings: Sequence[int]
    running_share: Sequence[float | None]
    values: Floats


class History:
    """Read stored telemetry. Channels are names of the catalogue."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def readings(self, pump_id: str, span: Span, channels: Sequence[str], limit: int) -> list[Row]:
        """Return up to `limit` readings, oldest first: time, running, trip_code, fault_channels, channels."""
        query = _readings(tuple(channels))
        return await self._pool.fetch(query, pump_id, span.start, span.end, limit)

    async def dropped(self, span: Span) -> bool:
        """Return whether ingest has dropped readings of `span`."""
        return bool(await self._pool.fetchval(_SQL.dropped, span.start, span.end))

    async def buckets(self, pump_id: str, plan: Plan, channels: Sequence[str]) -> list[Row]:
        """Return buckets, oldest first: bucket, readings, running_share, then STATISTICS of each channel."""
        query = statement_of(plan, channels)
        width = (timedelta(seconds=plan.bucket_s or 0),) if plan.merged else ()
        return await self._pool.fetch(query, pump_id, plan.span.start, plan.span.end, *width)

    async def columns(self, pump_id: str, plan: Plan, channels: Sequence[str]) -> Buckets:
        """Return `buckets` as columns; several times faster to read."""
        query = columns_statement_of(plan, channels)
        width = (timedelta(seconds=plan.bucket_s or 0),) if plan.merged else ()
        row = await self._pool.fetchrow(query, pump_id, plan.span.start, plan.span.end, *width)
        if row is None or row["times"] is None:
            return Buckets((), (), (), np.empty((0, len(channels) * len(STATISTICS))))
        times_us, numbers = _unpacked(row["times"], "i8"), _unpacked(row["numbers"], "f8")
        shares = numbers[:, 1].tolist()
        return Buckets(
            [_EPOCH + timedelta(microseconds=time_us) for time_us in times_us.tolist()],
            numbers[:, 0].astype(np.int64).tolist(),
            [None if isnan(share) else share for share in shares],
            numbers[:, 2:],
        )

    async def newest(self, pump_id: str, since: datetime, limit: int) -> list[Row]:
        """Return up to `limit` readings since a time, newest first, with every channel and both flags."""
        return await self._pool.fetch(_NEWEST, pump_id, since, limit)


def statement_of(plan: Plan, channels: Sequence[str]) -> str:
    """Return the statement that reads the buckets of `plan`."""
    return _buckets(plan.source.value, tuple(channels), plan.merged)


def columns_statement_of(plan: Plan, channels: Sequence[str]) -> str:
    """Return the statement that reads the buckets as columns."""
    return _packed(plan.source.value, tuple(channels), plan.merged)


# Few combinations occur in practice; each new text would also need a new query plan.
@lru_cache(maxsize=512)
def _readings(channels: tuple[str, ...]) -> str:
    return _SQL.readings.format(columns=", ".join(channels))


@lru_cache(maxsize=512)
def _buckets(grain: str, channels: tuple[str, ...], merged: bool) -> str:
    stored = ", ".join(f"{name}_{statistic}" for name in channels for statistic in STATISTICS)
    together = ", ".join(
        f"sum({name}_avg * {name}_count) / NULLIF(sum({name}_count), 0) AS {name}_avg, "
        f"min({name}_min) AS {name}_min, max({name}_max) AS {name}_max"
        for name in channels
    )
    if merged:
        return _SQL.merged_buckets.format(columns=together, grain=grain)
    return _SQL.buckets.format(columns=stored, grain=grain)


@lru_cache(maxsize=512)
def _packed(grain: str, channels: tuple[str, ...], merged: bool) -> str:
    statistics = (f"{name}_{statistic}" for name in channels for statistic in STATISTICS)
    measured = (f"coalesce({name}, 'NaN')" for name in ("running_share", *statistics))
    buckets = _buckets(grain, channels, merged).removesuffix(";")
    return _SQL.packed.format(numbers=", ".join(("readings::float8", *measured)), buckets=buckets)


def _unpacked(array: bytes, kind: str) -> Any:
    """Decode an array without nulls from PostgreSQL's binary format, elements of numpy type `kind`.

    Format of `array_send`, big-endian: int32 number of dimensions, flags and type; int32 size and lower bound
    of each dimension; then each element preceded by its int32 length.
    """
    dimensions = int.from_bytes(array[:4], "big")
    shape = np.frombuffer(array, ">i4", 2 * dimensions, 12)[::2]
    elements = np.frombuffer(array, [("length", ">i4"), ("value", f">{kind}")], offset=12 + 8 * dimensions)
    return elements["value"].astype(kind).reshape(shape)
