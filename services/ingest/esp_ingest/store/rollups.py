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

RECENT: Final = timedelta(days=7)
"""How far back regular refreshes look: well inside raw retention (at least 9 days)."""

COLUMNSTORE_AGES: Final = {
    "telemetry": timedelta(days=7),
    "telemetry_1min": timedelta(days=8),
    "telemetry_1hour": timedelta(days=30),
}
"""Age at which chunks go into the columnstore. Days are too few rows to gain from it."""

_MINUTE: Final = timedelta(minutes=1)
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


@asynccontextmanager
async def led(pool: Pool) -> AsyncIterator[None]:
    """Hold the lock of maintenance, after whoever has it."""
    async with pool.acquire() as connection:
        await connection.execute(_QUERIES.lead_wait)
        try:
            yield
        finally:
            if not connection.is_closed():
                await connection.execute(_QUERIES.step_down)


async def newest_entry(connection: Connection) -> tuple[datetime, int]:
    """Return the log's newest entry, and a time: what was committed before it is among the entries so far."""
    (row,) = await connection.fetch(_QUERIES.newest_entry)
    return row["at"], row["id"]


async def dirty(connection: Connection, limit: int, up_to: int) -> tuple[list[int], list[DirtyHour]]:
    """Return up to `limit` log entries no newer than `up_to`, and the hours they come to, oldest first."""
    rows = sorted(await connection.fetch(_QUERIES.dirty, limit, up_to), key=lambda row: row["hour"])
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


async def is_dirty(connection: Connection, day: date) -> bool:
    """Whether anything of a day is not in the aggregates yet."""
    return bool(await connection.fetchval(_QUERIES.is_dirty, midnight(day), midnight(day) + _DAY))


async def note_current(connection: Connection, until: datetime) -> None:
    """Note that everything stored before `until` is in the aggregates."""
    await connection.execute(_QUERIES.note_current, until)


async def clean(connection: Connection, ids: Sequence[int]) -> None:
    """Take entries off the log."""
    await connection.execute(_QUERIES.clean, ids)


async def dropped(connection: Connection, days: Iterable[date]) -> set[date]:
    """Return those of `days` whose raw rows are gone: refreshing them would empty their aggregates."""
    return {row["day"] for row in await connection.fetch(_QUERIES.dropped_days, list(set(days)))}


async def refresh(connection: Connection, engine: Engine, hours: Sequence[DirtyHour], today: date) -> None:
    """Make the aggregates of `hours` (in order) current; outside a transaction.

    On TimescaleDB a past day is refreshed at every grain, today's minutes up to the last whole one; its hours
    follow by `refresh_recent`, and what is newer is aggregated while reading.
    """
    for day, group in groupby(hours, key=attrgetter("day")):
        if engine == "postgres":
            await _refresh_pumps(connection, day, list(group))
        elif day < today:
            await refresh_day(connection, day)
        elif day == today:
            await refresh_recent(connection, "1min", datetime.now(UTC) - _MINUTE)


async def refresh_day(connection: Connection, day: date) -> None:
    """Make the continuous aggregates of one day current, whose raw rows must all be there."""
    for grain in _REFRESH_TIMESCALE:
        await refresh_span(connection, grain, midnight(day), midnight(day) + _DAY)


async def refresh_recent(connection: Connection, grain: str, until: datetime) -> None:
    """Make a continuous aggregate current from a week before `until` on: raw rows are kept for longer."""
    await refresh_span(connection, grain, until - RECENT, until)


async def refresh_span(connection: Connection, grain: str, first: datetime, until: datetime) -> None:
    """Refresh a continuous aggregate between two times, after whoever refreshes a part of it already.

    TimescaleDB refuses to wait for another refresh (it lasts seconds).
    """
    async for attempt in stamina.retry_context(
        on=asyncpg.LockNotAvailableError, attempts=None, timeout=REFRESH_AWAITED_S, wait_max=2.0
    ):
        with attempt:
            await connection.execute(_REFRESH_TIMESCALE[grain], first, until)


async def refresh_coarser(
    connection: Connection, engine: Engine, pump_nos: Sequence[int], first: datetime, until: datetime
) -> None:
    """Make hours and days current from the minutes, between two midnights."""
    for grain in ("1hour", "1day"):
        if engine == "postgres":
            await connection.execute(_REFRESH_POSTGRES[grain], list(pump_nos), first, until)
        else:
            await refresh_span(connection, grain, first, until)


async def convert_to_columnstore(connection: Connection) -> int:
    """Move chunks past their age into the columnstore, late rows too; return how many (TimescaleDB only)."""
    names, ages = list(COLUMNSTORE_AGES), list(COLUMNSTORE_AGES.values())
    chunks = [row["chunk"] for row in await connection.fetch(_QUERIES.unconverted, names, ages)]
    for chunk in chunks:
        await connection.execute(_QUERIES.convert, chunk)
    return len(chunks)


async def _refresh_pumps(connection: Connection, day: date, hours: Sequence[DirtyHour]) -> None:
    for at in hours:
        await connection.execute(
            _REFRESH_POSTGRES["1min"], at.pump_nos, at.first, at.last + timedelta(minutes=1)
        )
        await connection.execute(_REFRESH_POSTGRES["1hour"], at.pump_nos, at.hour, at.hour + _HOUR)
    pumps = sorted({pump_no for at in hours for pump_no in at.pump_nos})
    await connection.execute(_REFRESH_POSTGRES["1day"], pumps, midnight(day), midnight(day) + _DAY)


async def ensure_partitions(connection: Connection, ahead_days: int) -> None:
    """Have a partition for today and so many days ahead (plain PostgreSQL only)."""
    await connection.execute(_QUERIES.ensure_partitions, ahead_days)


def midnight(day: date) -> datetime:
    """Return the beginning of a UTC day."""
    return datetime.combine(day, time(), UTC)
