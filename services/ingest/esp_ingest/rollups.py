"""Rolling up: aggregates follow what flushes have logged as touched, however late it came."""

from datetime import date
from typing import Final

from esp_common.database import Engine, Pool

from esp_ingest.store import quality, rollups

ENTRIES_AT_ONCE: Final = 5000


async def roll_up(pool: Pool, engine: Engine, today: date) -> int:
    """Make the aggregates current and have the hours scored again; return how many hours were touched.

    An entry leaves the log only afterwards, so a crash repeats work and loses none. What comes for a day
    whose raw rows were dropped stays out: the day's aggregates know more than is left.
    """
    total = 0
    async with pool.acquire() as connection:
        while True:
            ids, hours = await rollups.dirty(connection, ENTRIES_AT_ONCE)
            if not ids:
                return total
            gone = await rollups.dropped(connection, {hour.day for hour in hours})
            kept = [hour for hour in hours if hour.day not in gone]
            await rollups.refresh(connection, engine, kept, today)
            async with connection.transaction():
                await quality.mark_stale(
                    connection, [(pump_no, hour.hour) for hour in kept for pump_no in hour.pump_nos]
                )
                await rollups.clean(connection, ids)
            total += len(kept)
