"""Retention: raw days go when the archiver or someone says so, never by themselves; their aggregates stay."""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any, Final

import asyncpg
import structlog
from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Engine, Pool
from esp_common.errors import Conflict, Unavailable

from esp_ingest.assets import SERVICE
from esp_ingest.rollups import roll_up
from esp_ingest.store import retention as store
from esp_ingest.store import rollups

log = structlog.get_logger()


MAX_TRIES: Final = 5
"""How often aggregates of a day are made current that is written to meanwhile."""


class _Written(Exception):
    """Readings came after the day's aggregates were made current."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A raw day that is gone, how many readings it held, and the archive it went for."""

    day: date
    readings: int
    archive_id: str | None = None


async def drop_before(
    pool: Pool,
    engine: Engine,
    before: date,
    *,
    today: date,
    keep_days: int,
    by: str,
    unarchived: bool = False,
) -> AsyncIterator[Dropped]:
    """Drop every raw day before `before`, oldest first, each in a transaction with its event.

    Raises `Conflict` when that reaches into the last `keep_days` days, and at the first day that holds
    anything else than the archive proved to have, unless `unarchived`; `Unavailable` when the table stays
    in use. The days' aggregates are made current first, since nothing can make them afterwards.
    """
    latest = today - timedelta(days=keep_days)
    if before > latest:
        raise Conflict(f"raw days are kept for {keep_days} days", fix=f"name a date up to {latest}")
    async with rollups.led(pool), pool.acquire() as connection:
        for day in await store.raw_days(connection, before):
            for _ in range(MAX_TRIES):
                await roll_up(pool, engine, today)
                try:
                    dropped = await _drop(connection, engine, day, by, unarchived)
                except _Written:
                    continue
                yield dropped
                break
            else:
                raise Unavailable(f"raw day {day} is being written to", fix="wait for the backlog to end")


async def _drop(connection: Any, engine: Engine, day: date, by: str, unarchived: bool) -> Dropped:
    if engine == "timescale" and not await rollups.dropped(connection, [day]):
        await rollups.refresh_day(connection, day)
    try:
        async with connection.transaction():
            await store.freeze_day(connection, day)
            if await rollups.is_dirty(connection, day):
                raise _Written
            archive_id = await _archive_of(connection, day)
            if archive_id is None and not unarchived:
                raise Conflict(
                    f"raw day {day} holds what is not proved to be in the archive; it and later days stay",
                    fix="have `esp-archiver run` archive it; --unarchived drops it for good",
                )
            dropped = Dropped(day, await store.drop_day(connection, day, by, archive_id), archive_id)
            await tell_dropped(connection, dropped, by)
    except asyncpg.LockNotAvailableError:
        raise Unavailable(f"raw day {day} is being read", fix="wait for long queries to end") from None
    if archive_id is None:
        log.warning("retention.dropped-unarchived", day=str(day), readings=dropped.readings, by=by)
    return dropped


async def _archive_of(connection: Any, day: date) -> str | None:
    """Return the archive that has just what a day holds, which must be frozen."""
    archived = await store.archived(connection, day)
    if archived is None:
        return None
    archive_id, has = archived
    return archive_id if await store.content(connection, day) == has else None


async def tell_dropped(connection: Any, dropped: Dropped, by: str) -> None:
    """Tell in the caller's transaction, as an event and in the audit trail, that a day was dropped."""
    subject = dropped.day.isoformat()
    event = Event("retention.dropped", SERVICE, subject, asdict(dropped))
    await outbox.enqueue(connection, event, topology.EVENTS)
    await audit.record(
        connection,
        source=SERVICE,
        actor=by,
        action="retention.dropped" if dropped.archive_id else "retention.dropped-unarchived",
        subject=subject,
        data=asdict(dropped),
    )
