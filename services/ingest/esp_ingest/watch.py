"""Watch how far the aggregates are behind and which background jobs fail, and have alerts raised."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import structlog
from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import OUTAGES, Engine, Pool
from prometheus_client import Gauge

from esp_ingest.assets import SERVICE
from esp_ingest.store import watch as store
from esp_ingest.store.watch import Announced, FailingJob

log = structlog.get_logger()

BEHIND: Final = "maintenance.behind"
CURRENT: Final = "maintenance.current"
JOBS_FAILING: Final = "maintenance.jobs-failing"
JOBS_WORKING: Final = "maintenance.jobs-working"

PERIOD_S: Final = 10.0
MAX_REASON: Final = 120

_LAG: Final = Gauge(
    "esp_ingest_aggregate_lag_seconds",
    "Age of the time before which everything stored is in the aggregates; grows while rolling up fails.",
)
_FAILING: Final = Gauge(
    "esp_ingest_timescaledb_failing_jobs",
    "Background jobs of TimescaleDB whose last run failed; housekeeping: its own, on which nothing depends.",
    ["kind"],
)


class AggregateWatch:
    """Looks every few seconds, in every process of the role; each change is published once."""

    def __init__(self, pool: Pool, engine: Engine, alert_after_s: float) -> None:
        self._pool = pool
        self._engine = engine
        self._alert_after_s = alert_after_s
        self._current_until: datetime | None = None
        self._failing: Sequence[FailingJob] = ()
        _LAG.set_function(lambda: math.nan if self.lag_s is None else self.lag_s)

    @property
    def lag_s(self) -> float | None:
        """Age of the time before which everything stored is in the aggregates; None: not known yet."""
        if self._current_until is None:
            return None
        return max(0.0, (datetime.now(UTC) - self._current_until).total_seconds())

    def details(self) -> dict[str, Any]:
        """Return what readiness tells of the aggregates."""
        return {
            "lag_s": None if self.lag_s is None else round(self.lag_s, 1),
            "failing_jobs": [f"{job.name}: {job.reason}" for job in self._failing],
        }

    async def run(self) -> None:
        """Look until cancelled; while the database is away the last known state ages."""
        while True:
            try:
                await self.look()
            except (asyncpg.PostgresError, *OUTAGES) as error:
                log.warning("watch.failed", reason=str(error))
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """Look once, and publish what changed."""
        async with self._pool.acquire() as connection:
            self._current_until = await store.current_until(connection)
            if self._engine == "timescale":
                self._failing = await store.failing_jobs(connection)
            for kind in (True, False):
                count = sum(job.housekeeping is kind for job in self._failing)
                _FAILING.labels("housekeeping" if kind else "own").set(count)
            found = Announced((self.lag_s or 0.0) > self._alert_after_s, _named(self._failing))
            async with connection.transaction():
                before = await store.lock_announced(connection)
                if before == found:
                    return
                for event in self._changes(before, found):
                    await outbox.enqueue(connection, event, topology.EVENTS)
                await store.note_announced(connection, found)

    def _changes(self, before: Announced, found: Announced) -> Iterator[Event]:
        if before.behind != found.behind:
            lag_s = round(self.lag_s or 0.0)
            data = {"lag_s": lag_s, "reason": f"{lag_s} s" if found.behind else None}
            yield Event(BEHIND if found.behind else CURRENT, SERVICE, "aggregates", data)
        if before.failing_jobs != found.failing_jobs:
            type_ = JOBS_FAILING if found.failing_jobs else JOBS_WORKING
            yield Event(type_, SERVICE, "timescaledb", {"reason": self._reason()})

    def _reason(self) -> str | None:
        own = [job for job in self._failing if not job.housekeeping]
        return "; ".join(f"{job.name}: {(job.reason or 'unknown')[:MAX_REASON]}" for job in own[:3]) or None


def _named(failing: Sequence[FailingJob]) -> str | None:
    return ", ".join(job.name for job in failing if not job.housekeeping) or None
