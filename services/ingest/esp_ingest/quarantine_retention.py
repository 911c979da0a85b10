"""Retention of quarantine: rows go by age and, beyond a number of rows, oldest first."""

from datetime import datetime, timedelta
from typing import Final

import structlog
from esp_common.database import Pool
from prometheus_client import Counter

from esp_ingest.settings import IngestSettings
from esp_ingest.store import quarantine

log = structlog.get_logger()

DROPPED: Final = Counter(
    "esp_ingest_quarantine_dropped_total",
    "Rows that retention dropped from quarantine, by reason.",
    ["reason"],
)
BATCH_ROWS: Final = 5_000
"""Rows dropped in one transaction."""


async def expire(pool: Pool, now: datetime, settings: IngestSettings, batch_rows: int = BATCH_ROWS) -> None:
    """Drop the rows that are too old, then the oldest of those that are too many, in batches.

    Pending rows of the last `quarantine_pending_days` stay, even if there are too many.
    """
    oldest = now - timedelta(days=settings.quarantine_days)
    aged = 0
    async with pool.acquire() as connection:
        while dropped := await quarantine.drop_oldest(connection, "age", oldest, oldest, batch_rows):
            aged += dropped
        _report("age", aged, settings)
        excess = await quarantine.size(connection) - settings.quarantine_max_rows
        pending = now - timedelta(days=settings.quarantine_pending_days)
        surplus = 0
        while surplus < excess:
            limit = min(batch_rows, excess - surplus)
            dropped = await quarantine.drop_oldest(connection, "size", now, pending, limit)
            if not dropped:
                log.warning(
                    "quarantine.oversized", rows_too_many=excess - surplus, reason="pending and young"
                )
                break
            surplus += dropped
        _report("size", surplus, settings)


def _report(reason: str, rows: int, settings: IngestSettings) -> None:
    if rows:
        DROPPED.labels(reason).inc(rows)
        log.warning(
            "quarantine.dropped",
            reason=reason,
            rows=rows,
            keep_days=settings.quarantine_days,
            max_rows=settings.quarantine_max_rows,
        )
