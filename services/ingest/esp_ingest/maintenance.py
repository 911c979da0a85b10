"""The maintenance role: partitions, rollups, columnstore, scores, events, archived days; one leads."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from esp_common import topology
from esp_common.contracts.events import decode_event
from esp_common.database import OUTAGES, Engine, Pool
from esp_common.errors import InvalidInput
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from esp_common.outbox import Relay
from esp_common.roles import until_first_ends
from prometheus_client import Counter, Gauge

from esp_ingest.archived import ArchivedDay, archived_day, settle
from esp_ingest.assets import SERVICE
from esp_ingest.quality import score_hours
from esp_ingest.quarantine_retention import expire
from esp_ingest.rollups import roll_up
from esp_ingest.settings import IngestSettings
from esp_ingest.store import rollups
from esp_ingest.watch import AggregateWatch

log = structlog.get_logger()

_SUCCEEDED: Final = Gauge(
    "esp_ingest_maintenance_success_timestamp_seconds",
    "When a job last succeeded, epoch seconds.",
    ["job"],
)
_FAILED: Final = Counter("esp_ingest_maintenance_failures_total", "Runs of a job that failed.", ["job"])

PARTITIONS_S: Final = 3600
HOURS_S: Final = 600
DAYS_S: Final = 3600
QUARANTINE_S: Final = 3600
COLUMNSTORE_S: Final = 3600
AGAIN_S: Final = 2.0
"""How long an archived day waits that could not be settled: the table is in use, another process leads."""

Job = Callable[[], Awaitable[object]]


class Maintenance:
    """The role's jobs. `pool` belongs to the schema's owner, without a statement timeout.

    Jobs run one after another, each as often as its setting says, and in one process at a time: another
    replica stands by until this one's connection ends.
    """

    def __init__(self, pool: Pool, engine: Engine, publisher: Publisher, settings: IngestSettings) -> None:
        self._pool = pool
        self._engine = engine
        self._settings = settings
        self.watch = AggregateWatch(pool, engine, settings.aggregate_lag_alert_s)
        self._relay = Relay(pool, publisher, SERVICE)
        self._turn = asyncio.Lock()
        self._archived: asyncio.Queue[Delivery] = asyncio.Queue()
        self._consumer = LeanConsumer(
            settings.amqp_url,
            topology.INGEST_ARCHIVED,
            prefetch=1,
            on_message=self._archived.put_nowait,
            service=SERVICE,
        )

    @property
    def listening(self) -> bool:
        """Whether the broker has the consumer of archived days."""
        return self._consumer.alive

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; raises what the relay of events or the consumer died of."""
        scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})
        for name, period_s, job in self._jobs():
            scheduler.add_job(
                self._attempt, "interval", (name, job), seconds=period_s, next_run_time=datetime.now(UTC)
            )
        scheduler.start()
        try:
            await until_first_ends(
                self._relay.run(),
                self._consumer.run(),
                self._settle_archived(),
                self.watch.run(),
                stop.wait(),
            )
        finally:
            scheduler.shutdown(wait=False)
            # Whatever runs is finished, not cut off in the middle.
            await self._turn.acquire()

    def _jobs(self) -> list[tuple[str, float, Job]]:
        both: list[tuple[str, float, Job]] = [
            ("rollups", self._settings.rollup_s, self._roll_up),
            ("quality", self._settings.quality_period_s, self._score),
            ("quarantine", QUARANTINE_S, self._expire),
        ]
        if self._engine == "postgres":
            return [("partitions", PARTITIONS_S, self._partition), *both]
        return [
            *both,
            ("hours", HOURS_S, self._refresh_hours),
            ("days", DAYS_S, self._refresh_days),
            ("columnstore", COLUMNSTORE_S, self._convert),
        ]

    async def _attempt(self, name: str, job: Job) -> None:
        """Run `job` if this process leads; a failure is logged, and made good by the next run."""
        async with self._turn:
            try:
                async with rollups.leading(self._pool) as leads:
                    if leads:
                        await job()
                        _SUCCEEDED.labels(name).set_to_current_time()
            except (asyncpg.PostgresError, *OUTAGES) as error:
                _FAILED.labels(name).inc()
                log.warning("maintenance.failed", job=name, reason=str(error))

    async def _roll_up(self) -> None:
        await roll_up(self._pool, self._engine, datetime.now(UTC).date())

    async def _refresh_hours(self) -> None:
        async with self._pool.acquire() as connection:
            await rollups.refresh_recent(connection, "1hour", datetime.now(UTC) - timedelta(hours=1))

    async def _refresh_days(self) -> None:
        async with self._pool.acquire() as connection:
            await rollups.refresh_recent(connection, "1day", datetime.now(UTC) - timedelta(days=1))

    async def _convert(self) -> None:
        async with self._pool.acquire() as connection:
            if converted := await rollups.convert_to_columnstore(connection):
                log.info("columnstore.converted", chunks=converted)

    async def _score(self) -> None:
        await score_hours(self._pool, datetime.now(UTC), self._settings.quality_degraded_below)

    async def _expire(self) -> None:
        await expire(self._pool, datetime.now(UTC), self._settings)

    async def _partition(self) -> None:
        async with self._pool.acquire() as connection:
            await rollups.ensure_partitions(connection, self._settings.partitions_ahead_days)

    async def _settle_archived(self) -> None:
        """Take one archived day after the other; each is acknowledged once it is dropped or refused."""
        while True:
            delivery = await self._archived.get()
            try:
                archived = _archived_day(delivery)
            except InvalidInput as error:
                log.error("archived.unreadable", reason=error.detail)  # noqa: TRY400 - it is the sender's
                self._consumer.reject(delivery, requeue=False)
                continue
            if archived is None or await self._settle(archived):
                self._consumer.done([delivery])
            else:
                self._consumer.reject(delivery, requeue=True)

    async def _settle(self, archived: ArchivedDay) -> bool:
        """Settle `archived`, however long the database is away; return False when it cannot be."""
        while True:
            try:
                async with self._turn, rollups.leading(self._pool) as leads:
                    if leads:
                        await self._decide(archived)
                        return True
            except OUTAGES as error:
                log.warning("archived.delayed", day=str(archived.day), reason=str(error))
            except asyncpg.PostgresError as error:
                _FAILED.labels("archived").inc()
                log.warning("maintenance.failed", job="archived", day=str(archived.day), reason=str(error))
                await asyncio.sleep(AGAIN_S)
                return False
            await asyncio.sleep(AGAIN_S)

    async def _decide(self, archived: ArchivedDay) -> None:
        refusal = await settle(
            self._pool,
            self._engine,
            archived,
            today=datetime.now(UTC).date(),
            keep_days=self._settings.retention_days,
        )
        _SUCCEEDED.labels("archived").set_to_current_time()
        log.info("archived.settled", day=str(archived.day), refused=refusal)


def _archived_day(delivery: Delivery) -> ArchivedDay | None:
    """Return the archived day a message tells of, None where it is not for us, or not the archiver's."""
    event = decode_event(delivery.headers, delivery.body)
    if delivery.user_id != topology.speaker_of(event.type):
        log.critical("event.forged", type=event.type, subject=event.subject, sender=delivery.user_id)
        return None
    return archived_day(event)
