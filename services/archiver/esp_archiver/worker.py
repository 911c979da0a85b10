"""The worker: runs by schedule and on request, readings brought back, what ingest says of archived days."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from esp_common import topology
from esp_common.contracts.events import Event, decode_event
from esp_common.database import OUTAGES, Connection, Pool
from esp_common.errors import EspError, InvalidInput
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from esp_common.outbox import Relay
from esp_common.roles import until_first_ends
from prometheus_client import Counter, Gauge

from esp_archiver.reading import Reader
from esp_archiver.restores import bring_back
from esp_archiver.runs import Archive, Outcome, describe, tell_ended
from esp_archiver.settings import SERVICE, ArchiverSettings
from esp_archiver.storage import Store
from esp_archiver.store import manifest
from esp_archiver.store import runs as store

log = structlog.get_logger()

PREFETCH: Final = 10
AGAIN_S: Final = 2.0
DROPPED: Final = "retention.dropped"
REFUSED: Final = "retention.refused"
_FAILURES: Final = (EspError, asyncpg.PostgresError, *OUTAGES)

_SUCCEEDED: Final = Gauge(
    "esp_archiver_run_success_timestamp_seconds", "When a run last archived all that was due, epoch seconds."
)
_FAILED: Final = Counter("esp_archiver_run_failures_total", "Runs that failed.")
_REFUSED: Final = Counter("esp_archiver_days_refused_total", "Archived days that ingest keeps.", ["reason"])


class Worker:
    """The role's parts. Of several replicas one works at a time; another goes on when its connection ends.

    `pool`: without a statement timeout, since a day of readings takes longer than any question of an API.
    """

    def __init__(self, pool: Pool, publisher: Publisher, blobs: Store, settings: ArchiverSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._blobs = blobs
        self._archive = Archive(pool, blobs, settings)
        self._reader = Reader(pool, blobs)
        self._relay = Relay(pool, publisher, SERVICE)
        self._scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})
        self._news: asyncio.Queue[Delivery] = asyncio.Queue()
        self._consumer = LeanConsumer(
            settings.amqp_url,
            topology.ARCHIVER_RETENTION,
            prefetch=PREFETCH,
            on_message=self._news.put_nowait,
            service=SERVICE,
        )

    @property
    def listening(self) -> bool:
        """Whether the broker has the consumer of what ingest says."""
        return self._consumer.alive

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. What is under way is left as it is: the next run takes it up."""
        try:
            await self._blobs.ensure()
        except EspError as error:
            log.warning("archive.delayed", reason=error.detail)
        trigger = CronTrigger.from_crontab(self._settings.schedule, timezone=UTC)
        self._scheduler.add_job(self._ask, trigger, ("schedule",))
        self._scheduler.start()
        try:
            await until_first_ends(
                self._relay.run(), self._consumer.run(), self._hear(), self._work(), stop.wait()
            )
        finally:
            self._scheduler.shutdown(wait=False)

    async def _ask(self, by: str) -> None:
        try:
            await store.ask_run(self._pool, by)
        except _FAILURES as error:
            log.warning("archive.not-asked", by=by, reason=describe(error))
            self._ask_later(by)

    def _ask_later(self, by: str) -> None:
        later = datetime.now(UTC) + timedelta(seconds=self._settings.retry_s)
        self._scheduler.add_job(self._ask, "date", (by,), run_date=later, id="later", replace_existing=True)

    async def _work(self) -> None:
        """Do what was asked for, one thing after the other, while this process leads."""
        while True:
            try:
                async with manifest.leading(self._pool) as lead:
                    if lead is not None:
                        await work_once(lead, self._archive, self._reader, self._ask_later)
            except _FAILURES as error:
                log.warning("archive.delayed", reason=describe(error))
            await asyncio.sleep(self._settings.poll_s)

    async def _hear(self) -> None:
        """Take what ingest says of archived days; each is acknowledged once it is noted."""
        while True:
            delivery = await self._news.get()
            try:
                event = _retention_event(delivery)
            except InvalidInput as error:
                log.error("retention.unreadable", reason=error.detail)  # noqa: TRY400 - it is the sender's
                self._consumer.reject(delivery, requeue=False)
                continue
            if event is not None:
                await self._note(event)
            self._consumer.done([delivery])

    async def _note(self, event: Event) -> None:
        """Note what ingest did with a day, however long the database is away."""
        reason = str(event.data.get("reason")) if event.type == REFUSED else None
        if reason is not None:
            _REFUSED.labels(reason).inc()
            log.warning("archive.refused", day=event.subject, reason=reason)
        while True:
            try:
                await manifest.settle(self._pool, str(event.data["archive_id"]), reason)
            except (*OUTAGES, asyncpg.PostgresError) as error:
                log.warning("retention.delayed", reason=str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                return


async def work_once(lead: Connection, archive: Archive, reader: Reader, ask_later: Any) -> None:
    """Do what was asked for and is not over: a run, readings to bring back, and what is to go.

    `ask_later(by)` has a run that failed asked for again after a while.
    """
    if run := await store.begin_run(lead):
        problem = await _run(lead, archive, run)
        if problem is not None:
            ask_later(run.asked_by)
    if restore := await store.begin_restore(lead):
        await _restore(lead, reader, restore)
    await archive.protect(lead)
    await store.drop_expired(lead)


async def _run(lead: Connection, archive: Archive, run: store.Run) -> str | None:
    """Run the archive, note and tell how it ended, and return what was wrong."""
    log.info("archive.run", run_id=str(run.run_id), asked_by=run.asked_by)
    outcome = Outcome()
    try:
        outcome = await archive.run(lead, datetime.now(UTC).date())
        problem = "; ".join(outcome.problems[:10]) or None
    except _FAILURES as error:
        problem = describe(error)
    counted = {"days": outcome.days, "parts": outcome.parts, "rows": outcome.rows}
    async with lead.transaction():
        await store.end_run(lead, problem, **counted, written=outcome.bytes)
        await tell_ended(lead, str(run.run_id), problem, {**counted, "bytes": outcome.bytes})
    if problem is None:
        _SUCCEEDED.set_to_current_time()
        log.info("archive.completed", **counted)
    else:
        _FAILED.inc()
        log.error("archive.failed", reason=problem, **counted)
    return problem


async def _restore(lead: Connection, reader: Reader, restore: store.Restore) -> None:
    rows, problem = 0, None
    try:
        rows = await bring_back(lead, reader, restore)
    except EspError as error:
        problem = error.detail
    await store.end_restore(lead, restore.restore_id, problem, rows)
    log.info("archive.restored", restore_id=str(restore.restore_id), rows=rows, problem=problem)


def _retention_event(delivery: Delivery) -> Event | None:
    """Return what ingest says of a day it was told of; None where it is about another, or not ingest's."""
    event = decode_event(delivery.headers, delivery.body)
    if delivery.user_id != topology.speaker_of(event.type):
        log.critical("event.forged", type=event.type, subject=event.subject, sender=delivery.user_id)
        return None
    if event.type not in (DROPPED, REFUSED) or not isinstance(event.data, dict):
        return None
    return event if event.data.get("archive_id") else None
