"""Rolling up: aggregates follow what flushes have logged as touched, however late it came."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from esp_common.database import Connection, Engine, Pool

from esp_ingest.domain.known import Known
from esp_ingest.store import late, quality, rollups
from esp_ingest.store.rollups import DirtyHour

ENTRIES_AT_ONCE: Final = 5000
_NONE: Final = Known.none()


async def roll_up(pool: Pool, engine: Engine, today: date) -> int:
    """Bring what was stored before now into the aggregates, have its hours scored; return how many.

    An entry leaves the log only afterwards, so a crash repeats work and loses none. A day whose raw rows were
    dropped is never refreshed, since its aggregates know more than is left: late readings are folded in.
    """
    total = 0
    async with pool.acquire() as connection:
        now, newest = await rollups.newest_entry(connection)
        while True:
            ids, hours = await rollups.dirty(connection, ENTRIES_AT_ONCE, newest)
            if not ids:
                await rollups.note_current(connection, now)
                return total
            scored = await _bring_up_to_date(connection, engine, hours, today)
            async with connection.transaction():
                await quality.mark_stale(connection, scored)
                await rollups.clean(connection, ids)
            total += len(hours)


async def _bring_up_to_date(
    connection: Connection, engine: Engine, hours: Sequence[DirtyHour], today: date
) -> list[tuple[int, datetime]]:
    """Make the aggregates of `hours` current; return the pumps and hours whose raw rows can be scored."""
    gone = await rollups.dropped(connection, {hour.day for hour in hours})
    kept = [hour for hour in hours if hour.day not in gone]
    await rollups.refresh(connection, engine, kept, today)
    scored = [(pump_no, hour.hour) for hour in kept for pump_no in hour.pump_nos]
    unkeyed = await late.unkeyed_days(connection, gone)
    late_hours = [hour for hour in hours if hour.day in gone]
    for day, of_day in groupby(late_hours, key=attrgetter("day")):
        scored += await _fold_day(connection, engine, day, list(of_day), day in unkeyed)
    return scored


class _Late(NamedTuple):
    """Where a pump has late readings of a day: minutes in [first, until)."""

    pump_no: int
    first: datetime
    until: datetime


async def _fold_day(
    connection: Connection, engine: Engine, day: date, hours: Sequence[DirtyHour], unkeyed: bool
) -> list[tuple[int, datetime]]:
    """Fold late readings of a dropped day into its aggregates; return what can be scored by its raw rows."""
    spans = list(_spans(hours))
    pump_nos = [span.pump_no for span in spans]
    known = await late.known(connection, day, pump_nos)
    for span in spans:
        await late.keep_bases(connection, *span)
    if engine == "timescale":
        await _materialise_rest(connection, day)
    for span in spans:
        again = _NONE
        if span.pump_no in known:
            again = known[span.pump_no].of(await late.raw_times(connection, *span))
        await late.fold(connection, *span, unkeyed=unkeyed, again=again)
    start = rollups.midnight(day)
    await rollups.refresh_coarser(connection, engine, pump_nos, start, start + timedelta(days=1))
    new = set() if unkeyed else set(pump_nos) - set(known)
    return [(pump_no, hour.hour) for hour in hours for pump_no in hour.pump_nos if pump_no in new]


async def _materialise_rest(connection: Connection, day: date) -> None:
    """Materialise what of a day is past the watermark, where nothing was materialised that could be lost.

    Otherwise the folded minutes would stay invisible there: past the watermark only raw rows are read.
    """
    end = rollups.midnight(day) + timedelta(days=1)
    first = max(await late.watermark(connection), rollups.midnight(day))
    if first < end:
        await rollups.refresh_span(connection, "1min", first, end)


def _spans(hours: Sequence[DirtyHour]) -> Iterator[_Late]:
    """Yield where each pump was touched in the hours of one day."""
    for pump_no in sorted({pump_no for hour in hours for pump_no in hour.pump_nos}):
        of_pump = [hour for hour in hours if pump_no in hour.pump_nos]
        until = max(hour.last for hour in of_pump) + timedelta(minutes=1)
        yield _Late(pump_no, min(hour.first for hour in of_pump), until)
