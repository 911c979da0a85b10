"""Scoring: each pump's closed hours, again when something late came in, and who fell under the limit."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final

from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Pool

from esp_ingest.assets import SERVICE
from esp_ingest.domain.quality import Quality, assess
from esp_ingest.store import quality as store
from esp_ingest.store.batch import Key
from esp_ingest.store.quality import DueHour

GRACE: Final = timedelta(minutes=2)
"""How long after its end an hour is scored: what is on its way arrives, and no false gap is announced."""

NEWS: Final = timedelta(days=1)
"""Older hours are scored but not announced: an archive being replayed is no news of its pumps."""

HOURS_AT_ONCE: Final = 500


async def score_hours(pool: Pool, now: datetime, degraded_below: float) -> int:
    """Score every closed hour that is due; return how many.

    `quality.degraded` is published for an hour under the limit that follows one above it (or none), and
    never twice for the same hour.
    """
    closed = (now - GRACE).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    total = await _score_all(pool, closed, now, degraded_below)
    async with pool.acquire() as connection:
        await store.mark_silent(connection, closed)
    return total + await _score_all(pool, closed, now, degraded_below)


async def _score_all(pool: Pool, closed: datetime, now: datetime, degraded_below: float) -> int:
    total = 0
    while scored := await _score_some(pool, closed, now, degraded_below):
        total += scored
    return total


async def _score_some(pool: Pool, closed: datetime, now: datetime, degraded_below: float) -> int:
    async with pool.acquire() as connection, connection.transaction():
        due = await store.due(connection, closed, HOURS_AT_ONCE)
        scored = [(hour, assess(hour.counts)) for hour in due]
        scores = {hour.key: quality.score for hour, quality in scored}
        announced: dict[Key, datetime] = {}
        for hour, quality in scored:
            before = scores.get((hour.pump_no, hour.hour - timedelta(hours=1)), hour.score_before)
            crossed = quality.score < degraded_below and (before is None or before >= degraded_below)
            if crossed and not hour.announced and hour.hour >= now - NEWS:
                await outbox.enqueue(connection, _degraded(hour, quality, degraded_below), topology.EVENTS)
                announced[hour.key] = now
        await store.score(connection, scored, announced)
        return len(due)


def _degraded(hour: DueHour, quality: Quality, limit: float) -> Event:
    data = {"pump_id": hour.pump_id, "field_id": hour.field_id, "hour": hour.hour, "limit": limit}
    return Event("quality.degraded", SERVICE, hour.pump_id, data | asdict(quality))
