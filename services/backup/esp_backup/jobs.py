"""Doing work once at a time, and telling how it ended: in the catalogue, as an event and as metrics."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import structlog
from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import OUTAGES, Connection, Pool
from esp_common.errors import Conflict
from prometheus_client import Counter, Gauge

from esp_backup.drill import DrillFailed
from esp_backup.store import jobs as store
from esp_backup.store.jobs import KINDS, Job
from esp_backup.work import Work

log = structlog.get_logger()

SERVICE: Final = "backup"
SCHEDULE: Final = "schedule"

SUCCEEDED: Final = Gauge(
    "esp_backup_last_success_timestamp_seconds",
    "When the last good one of each kind of work began, epoch seconds.",
    ["kind"],
)
_FAILED: Final = Counter("esp_backup_failures_total", "Runs of each kind of work that failed.", ["kind"])
_DRILL: Final = Gauge("esp_backup_drill_seconds", "RTO and RPO that the last drill measured.", ["figure"])
for _kind in KINDS:
    _FAILED.labels(_kind)


class Jobs:
    """The work of one platform. Any number of processes may run: one of them does each kind at a time."""

    def __init__(self, pool: Pool, work: Work) -> None:
        self._pool = pool
        self._work = work

    async def run(self, kind: str, requested_by: str) -> dict[str, Any]:
        """Do work of a kind now and return what there is to tell; raises what failed.

        Raises Conflict when another process does it.
        """
        async with store.turn(self._pool, kind) as mine:
            if not mine:
                raise Conflict(f"another process does {kind} now", fix="see `esp-backup jobs`")
            await self._clear(kind)
            async with self._pool.acquire() as connection:
                if await store.open_job(connection, kind) is None:
                    await ask(connection, kind, requested_by)
                job = await store.take(connection, kind)
            if job is None:
                raise Conflict(f"another process took {kind}", fix="see `esp-backup jobs`")
            return await self._do(job)

    async def _clear(self, kind: str) -> None:
        """Tell of the work that a process left when it was killed: the turn is ours, so nobody does it."""
        async with self._pool.acquire() as connection, connection.transaction():
            for job_id in await store.abandon(connection, kind):
                await _tell(connection, _failure(kind), kind, job_id, {"reason": store.ABANDONED})

    async def _do(self, job: Job) -> dict[str, Any]:
        log.info("backup.begun", kind=job.kind, requested_by=job.requested_by)
        try:
            result = await self._work.do(job.kind)
        except asyncio.CancelledError:
            await self._fail(job, "the process was told to stop", None)
            raise
        except Exception as error:
            report = error.report.to_json() if isinstance(error, DrillFailed) else None
            await self._fail(job, str(error) or type(error).__name__, report)
            raise
        async with self._pool.acquire() as connection, connection.transaction():
            await store.finish(connection, job.job_id, result=result)
            await _tell(connection, _success(job.kind), job.kind, job.job_id, result)
        SUCCEEDED.labels(job.kind).set_to_current_time()
        if job.kind == "drill":
            note_drill(result)
        log.info("backup.done", kind=job.kind)
        return result

    async def _fail(self, job: Job, reason: str, report: dict[str, Any] | None) -> None:
        _FAILED.labels(job.kind).inc()
        log.error("backup.failed", kind=job.kind, reason=reason)
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await store.finish(connection, job.job_id, error=reason, result=report)
                await _tell(connection, _failure(job.kind), job.kind, job.job_id, {"reason": reason})
        except OUTAGES as error:
            # Whoever does this kind of work next finds that nobody does it, and tells.
            log.warning("backup.untold", kind=job.kind, reason=str(error))


async def request(pool: Pool, kind: str, requested_by: str) -> UUID:
    """Ask the worker for work, on behalf of someone; raise Conflict when it is asked for or under way."""
    async with pool.acquire() as connection, connection.transaction():
        job_id = await ask(connection, kind, requested_by)
        if job_id is None:
            raise Conflict(f"{kind} is asked for or under way already", fix="see GET /api/v1/backups/jobs")
        return job_id


async def ask(connection: Connection, kind: str, requested_by: str) -> UUID | None:
    """Ask for work; None when it is asked for or under way. What a person asked for is audited."""
    async with connection.transaction():
        job_id = await store.request(connection, kind, requested_by)
        if job_id is not None and requested_by != SCHEDULE:
            await audit.record(
                connection,
                source=SERVICE,
                actor=requested_by,
                action=f"{kind}.requested",
                subject=str(job_id),
            )
    return job_id


async def tell_archiving(connection: Connection, *, behind: bool, data: Mapping[str, Any]) -> None:
    """Tell that the archive of the log fell behind, or has caught up."""
    type_ = "backup.failed" if behind else "backup.completed"
    event = Event(type_, SERVICE, "wal", {"kind": "wal", **data})
    await outbox.enqueue(connection, event, topology.EVENTS)


def note_drill(result: Mapping[str, Any]) -> None:
    """Show what a drill measured."""
    for figure in ("rto", "rpo"):
        if (seconds := result.get(f"{figure}_s")) is not None:
            _DRILL.labels(figure).set(seconds)


async def _tell(connection: Connection, type_: str, kind: str, job_id: UUID, data: Mapping[str, Any]) -> None:
    event = Event(type_, SERVICE, kind, {"kind": kind, "job_id": str(job_id), **data})
    await outbox.enqueue(connection, event, topology.EVENTS)


def _success(kind: str) -> str:
    return "backup.drill-passed" if kind == "drill" else "backup.completed"


def _failure(kind: str) -> str:
    return "backup.drill-failed" if kind == "drill" else "backup.failed"
