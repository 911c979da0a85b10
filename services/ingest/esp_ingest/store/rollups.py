"""Aggregates: what flushes have put out of date, and making it current on either engine."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Final

import asyncpg
import stamina
from esp_common.database import Connection, Engine, Pool, load_queries

_QUERIES: Final = load_queries("esp_ingest.store", "rollups.sql")
_REFRESH_TIMESCALE: Final = {
    grain: _QUERIES.refresh_timescale.format(grain=grain) for grain in ("1min", "1hour", "1day")
}
_REFRESH_POSTGRES: Final = {
    grain: _QUERIES.refresh_postgres.format(grain=grain) for grain in ("1min", "1hour", "1day")
}
REFRESH_AWAITED_S: Final = 60
"""How long a refresh waits for another of the same aggregate and time."""

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DirtyHour:
    """An hour whose aggregates lack something: of these pumps, in minutes `first` to `last` (starts of)."""

    hour: datetime
    first: datetime
    last: datetime
    pump_nos: list[int]

    @property
    def day(self) -> date:
        """The UTC day."""
        return self.hour.date()


@asynccontextmanager
async def leading(pool: Pool) -> AsyncIterator[bool]:
    """Hold the lock of maintenance for a while; false if another process does."""
    async with pool.acquire() as connection:
        leads: bool = await connection.fetchval(_QUERIES.lead)
        try:
            yield leads
        finally:
            if leads and not connection.is_closed():
                await connection.execute(_QUERIES.step_down)


async def dirty(connection: Connection, limit: int) -> tuple[list[int], list[DirtyHour]]:
    """Return the ids of up to `limit` log entries, and the hours that they come to, oldest first."""
    rows = sorted(await connection.fetch(_QUERIES.dirty, limit), key=lambda row: row["hour"])
    hours = [
        DirtyHour(
            hour,
            min(entry["first"] for entry in entries),
            max(entry["last"] for entry in entries),
            sorted({pump_no for entry in entries for pump_no in entry["pump_nos"]}),
        )
        for hour, group in groupby(rows, key=lambda row: row["hour"])
        if (entries := list(group))
    ]
    return [row["id"] for row in rows], hours


async def clean(connection: Connection, ids: Sequence[int]) -> None:
    """Take entries off the log."""
    await connection.execute(_QUERIES.clean, ids)


async def dropped(connection: Connection, days: Iterable[date]) -> set[date]:
    """Return those of `days` whose raw rows are gone: refreshing them would empty their aggregates."""
    return {row["day"] for row in await connection.fetch(_QUERIES.dropped_days, list(set(days)))}


async def refresh(connection: Connection, engine: Engine, hours: Sequence[DirtyHour], today: date) -> None:
    """Make the aggregates of `hours` (in order) current; outside a transaction.

    TimescaleDB's own policies see to `today`, and know themselves what else of a day is out of date.
    """
    for day, group in groupby(hours, key=attrgetter("day")):
        if engine == "postgres":
            await _refresh_pumps(connection, day, list(group))
        elif day < today:
            await refresh_day(connection, day)


async def refresh_day(connection: Connection, day: date) -> None:
    """Make the continuous aggregates of one day current, after whoever refreshes a part of it already.

    TimescaleDB refuses to wait for another refresh, its own policies' too (they last seconds).
    """
    for query in _REFRESH_TIMESCALE.values():
        async for attempt in stamina.retry_context(
            on=asyncpg.LockNotAvailableError, attempts=None, timeout=REFRESH_AWAITED_S, wait_max=2.0
        ):
            with attempt:
                await connection.execute(query, _midnight(day), _midnight(day) + _DAY)


async def _refresh_pumps(connection: Connection, day: date, hours: Sequence[DirtyHour]) -> None:
    for at in hours:
        await connection.execute(
            _REFRESH_POSTGRES["1min"], at.pump_nos, at.first, at.last + timedelta(minutes=1)
        )
        await connection.execute(_REFRESH_POSTGRES["1hour"], at.pump_nos, at.hour, at.hour + _HOUR)
    pumps = sorted({pump_no for at in hours for pump_no in at.pump_nos})
    await connection.execute(_REFRESH_POSTGRES["1day"], pumps, _midnight(day), _midnight(day) + _DAY)


async def ensure_partitions(connection: Connection, ahead_days: int) -> None:
    """Have a partition for today and so many days ahead (plain PostgreSQL only)."""
    await connection.execute(_QUERIES.ensure_partitions, ahead_days)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
