"""State of the aggregates and of TimescaleDB's background jobs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from esp_common.database import Connection, load_queries

_QUERIES: Final = load_queries("esp_ingest.store", "watch.sql")
FIRST_OWN_JOB: Final = 1000
"""Jobs with smaller ids are TimescaleDB's housekeeping, on which nothing of the platform depends."""


@dataclass(frozen=True, slots=True)
class FailingJob:
    """A background job of TimescaleDB whose last run failed, and why."""

    job_id: int
    name: str
    reason: str | None

    @property
    def housekeeping(self) -> bool:
        """Whether it is TimescaleDB's own."""
        return self.job_id < FIRST_OWN_JOB


@dataclass(frozen=True, slots=True)
class Announced:
    """What was published last: whether aggregates are behind, and which jobs fail (None: none)."""

    behind: bool
    failing_jobs: str | None


async def current_until(connection: Connection) -> datetime:
    """Return the time before which everything stored is in the aggregates."""
    found: datetime = await connection.fetchval(_QUERIES.current_until)
    return found


async def failing_jobs(connection: Connection) -> list[FailingJob]:
    """Return TimescaleDB's background jobs whose last run failed."""
    return [FailingJob(**row) for row in await connection.fetch(_QUERIES.failing_jobs)]


async def lock_announced(connection: Connection) -> Announced:
    """Return what was published last, locked until the transaction ends."""
    (row,) = await connection.fetch(_QUERIES.announced)
    return Announced(row["behind"], row["failing_jobs"])


async def note_announced(connection: Connection, announced: Announced) -> None:
    """Note what is published."""
    await connection.execute(_QUERIES.note_announced, announced.behind, announced.failing_jobs)
