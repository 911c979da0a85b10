"""Late readings of dropped days: what was there before, and folding them into the aggregates of a minute.

A minute's aggregate is its base (the minute as it was when the day was dropped) plus what the raw rows of now
add to it, so that folding again changes nothing. Dropping the day again makes the sum the new base.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import numpy as np
from esp_common.database import Connection, load_queries

from esp_ingest.domain.known import Known
from esp_ingest.store.batch import MEASURED

_QUERIES: Final = load_queries("esp_ingest.store", "late.sql")
_MASK: Final = " | ".join(f"(({name} IS NOT NULL)::int4 << {bit})" for bit, name in enumerate(MEASURED))
_DAY_KEYS: Final = _QUERIES.day_keys.format(mask=_MASK)
_PUMPS_AT_ONCE: Final = 10
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)


async def remember_day(connection: Connection, day: date) -> None:
    """Keep the keys of a day's raw rows, which are about to be dropped and are in the aggregates."""
    start = datetime.combine(day, time(), UTC)
    async for row in connection.cursor(_DAY_KEYS, start, start + _DAY, prefetch=_PUMPS_AT_ONCE):
        found = Known(_array(row["times"], "i8"), _array(row["masks"], "i4"))
        before = (await known(connection, day, [row["pump_no"]])).get(row["pump_no"])
        keys = (found.union(before) if before else found).packed()
        await connection.execute(_QUERIES.remember, row["pump_no"], day, keys)
    await connection.execute(_QUERIES.forget_bases, start, start + _DAY)


async def known(connection: Connection, day: date, pump_nos: Sequence[int]) -> Mapping[int, Known]:
    """Return the readings of a day that were dropped, by pump; times are microseconds since 2000."""
    rows = await connection.fetch(_QUERIES.known, day, list(pump_nos))
    return {row["pump_no"]: Known.unpacked(row["keys"]) for row in rows}


async def unkeyed_days(connection: Connection, days: Iterable[date]) -> set[date]:
    """Return those of `days` that were dropped without their keys being kept."""
    return {row["day"] for row in await connection.fetch(_QUERIES.unkeyed_days, list(set(days)))}


async def raw_times(connection: Connection, pump_no: int, first: datetime, until: datetime) -> Any:
    """Return the times of a pump's raw rows in [first, until), microseconds since 2000."""
    data = await connection.fetchval(_QUERIES.raw_times, pump_no, first, until)
    return np.empty(0, np.int64) if data is None else _array(data, "i8")


async def keep_bases(connection: Connection, pump_no: int, first: datetime, until: datetime) -> None:
    """Keep the minutes of a pump's raw rows in [first, until) as they are, unless they are kept already."""
    await connection.execute(_QUERIES.keep_bases, pump_no, first, until)


async def fold(
    connection: Connection, pump_no: int, first: datetime, until: datetime, *, unkeyed: bool, again: Known
) -> None:
    """Make the minutes of a pump's raw rows in [first, until) afresh; `again`: those dropped before."""
    times = [_EPOCH + timedelta(microseconds=us) for us in again.times_us.tolist()]
    await connection.execute(_QUERIES.fold, pump_no, first, until, unkeyed, times, again.masks.tolist())


async def watermark(connection: Connection) -> datetime:
    """Return the end of what TimescaleDB has materialised of the minutes."""
    found: datetime = await connection.fetchval(_QUERIES.watermark)
    return found


def _array(data: bytes, kind: str) -> Any:
    """Return a one-dimensional array without nulls from its binary form.

    As `array_send` writes it, big-endian: 20 bytes of header, then each element after its int32 length.
    """
    elements = np.frombuffer(data, [("length", ">i4"), ("value", f">{kind}")], offset=20)
    return elements["value"].astype(kind)
