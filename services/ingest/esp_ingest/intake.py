"""The worker's pipeline: messages in, readings stored and announced, messages acknowledged.

A flush takes what has come in, stores it in one transaction, publishes what was accepted and only then
acknowledges its messages. Whatever dies in between, the broker delivers the messages again: the store
knows its rows, and a redelivered message is announced again, since nobody can tell whether it was.
The unacknowledged message thus does the work of an outbox, without a second copy of the data.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol
from uuid import uuid4

import stamina
import structlog
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.events import event_headers
from esp_common.contracts.readings import JUDGED_HEADER
from esp_common.database import OUTAGES, is_outage
from esp_common.errors import BrokerUnavailable, EspError, Nacked
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from prometheus_client import Counter as Metric
from prometheus_client import Gauge, Histogram

from esp_ingest.domain.decode import ARROW_TYPE, Body, decode
from esp_ingest.domain.frozen import FrozenTracker
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.screen import Screened, screen
from esp_ingest.flush import Announcement, Flush, assemble
from esp_ingest.seen import SeenMessages, seen_key
from esp_ingest.settings import MIB, IngestSettings
from esp_ingest.store.batch import FlushCounts, StoreResult
from esp_ingest.store.telemetry import TelemetryStore
from esp_ingest.suspects import SUSPICIOUS, groups, risk_limit

log = structlog.get_logger()

READINGS = Metric("esp_ingest_readings_total", "Readings by what became of them.", ["outcome"])
REFUSED = Metric("esp_ingest_readings_refused_total", "Readings put in quarantine, by reason.", ["reason"])
REFUSED_CHANNELS = Metric(
    "esp_ingest_channels_refused_total", "Channels of kept readings put in quarantine, by reason.", ["reason"]
)
UNKEPT = Metric(
    "esp_ingest_refusals_unkept_total",
    "Refused readings and channels without a row in quarantine: their gateway passed its limit of the day.",
)
MESSAGES = Metric("esp_ingest_messages_total", "Messages by what became of them.", ["outcome"])
FLUSH_S = Histogram(
    "esp_ingest_flush_seconds",
    "From taking a flush up to its acknowledgement.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
FLUSH_READINGS = Histogram(
    "esp_ingest_flush_readings",
    "Readings of a flush.",
    buckets=(1, 10, 50, 100, 500, 1000, 2500, 5000, 10000),
)
LAG_S = Gauge("esp_ingest_lag_seconds", "Age of the newest reading of the last flush.")
BUFFERED = Gauge("esp_ingest_buffered_bytes", "Bodies held by the worker.")
DATABASE_UP = Gauge("esp_ingest_database_up", "0 while flushes wait for the database.")

FIRST_PREFETCH: Final = 1
"""Messages sent ahead to a worker that has yet to see what they are like."""

POISON_PAUSE_S: Final = 1.0
"""Pause before a message that failed goes back, in case its trouble passes."""

_ARROW_BYTES: Final = 200
_JSON_BYTES: Final = 650
"""What a reading of all channels takes: how large a flush is to be is no exact science."""

_LOG_EVERY_S: Final = 10.0


class Assets(Protocol):
    """The registry that readings are screened against."""

    @property
    def current(self) -> Registry:
        """The registry as last loaded."""
        ...

    async def refresh(self) -> None:
        """Load it again, unless that was done a moment ago."""
        ...


class GivenBack(Exception):
    """The database has been away for so long that the messages went back to the queue."""


def gateway_of(routing_key: str) -> str:
    """Return the gateway that published under `telemetry.<gateway_id>[.<pump_id>]`.

    MQTT topics come with slashes turned to dots, so this holds for them too.
    """
    parts = routing_key.split(".", 2)
    return parts[1] if len(parts) > 1 else ""


class Intake:
    """Batches deliveries over messages, by size or time, whichever comes first.

    `offer` takes deliveries from the consumer; `run` works until cancelled; `drain` ends in good order.
    One task prepares flushes in their order, and up to `flushes_in_flight` are stored at a time.
    """

    def __init__(
        self,
        store: TelemetryStore,
        publisher: Publisher,
        assets: Assets,
        seen: SeenMessages,
        settings: IngestSettings,
        *,
        worker: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._assets = assets
        self._seen = seen
        self._settings = settings
        self._worker = worker
        self._now = now
        self._frozen = FrozenTracker()
        self._era = ""
        self._preparing = asyncio.Lock()
        self._waiting: list[Delivery] = []
        self._suspects: list[Delivery] = []
        self._readings = 0
        self._bytes = 0
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._slots = asyncio.Semaphore(settings.flushes_in_flight)
        self._flushing: set[asyncio.Task[None]] = set()
        self._prefetch = FIRST_PREFETCH
        self._paused_for_memory = False
        self._draining = False
        self._outage_since: float | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._refusals = _Refusals()
        self.queue: LeanConsumer

    def offer(self, delivery: Delivery) -> None:
        """Take a delivery; called for each message, so it does next to nothing."""
        if delivery.redelivered and delivery.delivery_count >= SUSPICIOUS:
            self._suspects.append(delivery)
        else:
            self._waiting.append(delivery)
        size = len(delivery.body)
        self._bytes += size
        self._readings += _about(delivery)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.flush_ms / 1000, self._due.set)
        held = len(self._waiting) + len(self._suspects)
        if self._readings >= self._settings.flush_readings or held * 3 >= self._prefetch:
            self._due.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not (self._waiting or self._suspects or self._flushing)

    @property
    def stalled(self) -> bool:
        """Whether what is held, or was given back, waits for the database."""
        return self._outage_since is not None or self._recovering is not None

    async def run(self) -> None:
        """Flush whenever due, until cancelled."""
        try:
            while True:
                await self._due.wait()
                await self._mind_memory()
                await self._suit_prefetch()
                await self._flush_waiting()
                await self._flush_suspects()
        finally:
            for task in self._flushing:
                task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Take no more, and give what is held until `timeout_s` to be stored and acknowledged."""
        self._draining = True
        await self.queue.pause()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while not self.idle and clock() < deadline:
            self._due.set()
            await asyncio.sleep(0.01)

    async def _mind_memory(self) -> None:
        """Pause consuming above the limit of held bodies, resume below half of it."""
        BUFFERED.set(self._bytes)
        limit = self._settings.max_buffered_mib * MIB
        if not self._paused_for_memory and self._bytes > limit:
            self._paused_for_memory = True
            log.warning("intake.paused", held_mib=round(self._bytes / MIB), reason="memory")
            await self.queue.pause()
        elif self._paused_for_memory and self._bytes < limit / 2 and self._recovering is None:
            self._paused_for_memory = False
            await self._resume()

    async def _resume(self) -> None:
        if not self._draining:
            await self.queue.resume()

    async def _suit_prefetch(self) -> None:
        """Have as much sent ahead as fits into half the memory limit, and as may be at risk together.

        The broker sends all it may at once, and cancelling does not call that back; so a limit on messages
        alone would let large ones past any limit on bytes. Starting with one message means that what the
        next ones may be is known before they are held: a message that kills workers takes no others to their
        delivery limit with it.
        """
        held = [*self._waiting, *self._suspects]
        if not held:
            return
        largest = max(len(delivery.body) for delivery in held)
        room = int(self._settings.max_buffered_mib * MIB / 2 / max(1, largest))
        fitting = max(2, min(room, self._settings.prefetch))
        if self._suspects:
            fitting = min(fitting, risk_limit(self._suspects))
        too_many = fitting < self._prefetch and bool(self._suspects)
        if too_many or fitting < self._prefetch / 2 or fitting > self._prefetch * 1.5:
            self._prefetch = fitting
            await self.queue.limit(fitting)

    def _take(self) -> list[Delivery]:
        deliveries, self._waiting = self._waiting, []
        self._readings = 0
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return deliveries

    async def _flush_waiting(self) -> None:
        for part in _parts(self._take(), self._settings.flush_readings):
            await self._start(part)

    async def _flush_suspects(self) -> None:
        """Take what may be killing workers while nothing else is in a flush, a group at a time."""
        suspects, self._suspects = self._suspects, []
        for group in groups(suspects):
            for part in _parts(group, self._settings.flush_readings):
                if self._flushing:
                    await asyncio.wait(self._flushing)
                await self._start(part)

    async def _start(self, deliveries: Sequence[Delivery]) -> None:
        await self._slots.acquire()
        task = asyncio.create_task(self._flush(deliveries))
        self._flushing.add(task)
        task.add_done_callback(self._flushed)

    def _flushed(self, task: "asyncio.Task[None]") -> None:
        self._flushing.discard(task)
        self._slots.release()
        if self._paused_for_memory:
            self._due.set()

    async def _flush(self, deliveries: Sequence[Delivery], *, again: bool = False) -> None:
        """Carry a flush through; one that cannot be is halved until the messages at fault are alone.

        `again`: it was tried with others before, and may have been stored and not announced then.
        """
        try:
            with FLUSH_S.time():
                # In order, so that what the frozen-value tracker sees is; locks are fair.
                async with self._preparing:
                    prepared = await self._prepare(deliveries)
                await self._finish(prepared, again or any(delivery.redelivered for delivery in deliveries))
        except GivenBack:
            self._release(deliveries)
        except Exception as error:
            if len(deliveries) == 1:
                await self._refuse_poison(deliveries[0], error)
                return
            log.warning("flush.split", messages=len(deliveries), error=repr(error)[:300])
            middle = len(deliveries) // 2
            for half in (deliveries[:middle], deliveries[middle:]):
                await self._flush(half, again=True)
        else:
            self._release(deliveries)

    def _release(self, deliveries: Sequence[Delivery]) -> None:
        self._bytes -= sum(len(delivery.body) for delivery in deliveries)

    async def _prepare(self, deliveries: Sequence[Delivery]) -> "_Prepared":
        """Find the messages that are stored already, and screen the readings of the others."""
        bodies = [body_of_delivery(delivery, self._publisher.user) for delivery in deliveries]
        keys, counts = await self._recall(bodies)
        known = [
            count is not None and not delivery.redelivered
            for count, delivery in zip(counts, deliveries, strict=True)
        ]
        repeated = sum(count or 0 for count, is_known in zip(counts, known, strict=True) if is_known)
        before = FlushCounts(self._worker, sum(known), repeated, duplicates=repeated)
        fresh = [body for body, is_known in zip(bodies, known, strict=True) if not is_known]
        fresh_keys = [key for key, is_known in zip(keys, known, strict=True) if not is_known]
        registry = self._assets.current
        screened = await asyncio.to_thread(_screen, fresh, registry, self._now_us())
        if screened.has_unknown:
            await self._assets.refresh()
            if self._assets.current is not registry:
                registry = self._assets.current
                screened = await asyncio.to_thread(screen, screened.decoded, registry, self._now_us())
        flush = await asyncio.to_thread(assemble, screened, registry, self._frozen, before, self._now_us())
        remembered = dict(zip(fresh_keys, screened.counts.tolist(), strict=True))
        return _Prepared(deliveries, flush, remembered)

    async def _recall(self, bodies: Sequence[Body]) -> tuple[list[str], Sequence[int | None]]:
        """Return the keys of messages, and how many readings each held that is stored (None: it is not).

        Before a message is skipped the database is asked whether it is still the one that stored it.
        """
        while True:
            era = self._era
            keys = [seen_key(era, body.gateway_id, body.message_id, body.content) for body in bodies]
            counts = await self._seen.readings_of(keys)
            if era and all(count is None for count in counts):
                return keys, counts
            try:
                self._era = await self._store.era()
            except OUTAGES:
                return keys, [None] * len(bodies)
            if self._era == era:
                return keys, counts

    def _now_us(self) -> int:
        return int(self._now() * 1e6)

    async def _finish(self, prepared: "_Prepared", again: bool) -> None:
        flush = prepared.flush
        result = await self._write(flush)
        new = result.stored + result.merged > 0
        if len(flush.batch) and (new or again):
            await self._announce(flush, result, trace_of(prepared.deliveries))
        await self._seen.remember(prepared.remembered)
        self.queue.done(prepared.deliveries)
        self._account(prepared, result)

    async def _write(self, flush: Flush) -> StoreResult:
        """Store a flush, for as long as the database is away; raise GivenBack when that takes too long."""
        async for attempt in stamina.retry_context(
            on=is_outage, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0
        ):
            with attempt, self._noting_outage(flush):
                result = await self._store_once(flush)
        if self._outage_since is not None:
            log.info("database.back", away_s=round(self._now() - self._outage_since, 1))
            self._outage_since = None
            DATABASE_UP.set(1)
        return result

    async def _store_once(self, flush: Flush) -> StoreResult:
        return await self._store.write(
            flush.batch, flush.quarantined, flush.tallies, flush.counts, flush.contrary
        )

    @contextmanager
    def _noting_outage(self, flush: Flush) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_outage(error):
                self._note_outage(error, flush)
            raise

    def _note_outage(self, error: Exception, flush: Flush) -> None:
        if self._outage_since is None:
            self._outage_since = self._now()
            DATABASE_UP.set(0)
            log.warning("database.lost", error=repr(error)[:300], effect="flushes wait, the queue grows")
        elif self._now() - self._outage_since > self._settings.outage_pause_s:
            if self._recovering is None:
                self._recovering = asyncio.create_task(self._sit_out(flush))
            raise GivenBack from error

    async def _sit_out(self, flush: Flush) -> None:
        """Give the messages back, and take them again once the database takes the flush that it did not.

        That it answers is not enough, since it may be read-only or out of room, and each giving back
        counts towards a message's delivery limit. The flush's messages come again and are announced then.
        """
        log.warning("intake.paused", reason="database", effect="messages went back to the queue")
        await self.queue.pause(give_back=True)
        self._release([*self._take(), *self._suspects])
        self._suspects.clear()
        try:
            async for attempt in stamina.retry_context(
                on=is_outage, attempts=None, timeout=None, wait_initial=1.0, wait_max=5.0
            ):
                with attempt:
                    await self._store_once(flush)
        except Exception as error:  # the flush's own trouble: its messages meet it again, one by one
            log.warning("flush.failed", error=repr(error)[:300])
        self._outage_since = None
        DATABASE_UP.set(1)
        self._recovering = None
        log.info("intake.resumed")
        await self._resume()

    async def _announce(self, flush: Flush, result: StoreResult, trace: Mapping[str, str]) -> None:
        """Publish what was stored, and come back when the broker has confirmed all of it.

        Rows that proved to be there already are published too: consumers deduplicate by pump and time,
        and the store does not tell which of a mixed flush they are.
        """
        parts = await asyncio.to_thread(flush.announcements, result.conflicts)
        async for attempt in stamina.retry_context(
            on=(BrokerUnavailable, Nacked), attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0
        ):
            with attempt:
                await asyncio.gather(*(self._publish(part, trace) for part in parts))

    async def _publish(self, part: Announcement, trace: Mapping[str, str]) -> None:
        await self._publisher.publish(
            topology.TELEMETRY,
            part.routing_key,
            part.body,
            headers={
                topology.PARTITION_HEADER: str(part.partition),
                **event_headers("telemetry.accepted", "ingest", part.routing_key),
                **trace,
            },
            content_type=arrow.MEDIA_TYPE,
            mandatory=False,
        )

    async def _refuse_poison(self, delivery: Delivery, error: Exception) -> None:
        """Give a message that cannot be processed back, and on its last delivery bury it with the reason."""
        error_id = uuid4().hex
        self._release([delivery])
        MESSAGES.labels("poison").inc()
        if delivery.delivery_count < topology.DELIVERY_LIMIT:
            log.error("message.failed", error_id=error_id, key=delivery.routing_key, error=repr(error)[:300])
            await asyncio.sleep(POISON_PAUSE_S)
            self.queue.reject(delivery, requeue=True)
            return
        log.error("message.buried", error_id=error_id, key=delivery.routing_key, exc_info=error)
        try:
            await self._bury(delivery, error_id, repr(error)[:500])
        except EspError as trouble:
            # The broker buries it as well, with less of a reason.
            log.warning("message.rejected", error_id=error_id, reason=trouble.detail)
            self.queue.reject(delivery, requeue=False)
        else:
            self.queue.done([delivery])

    async def _bury(self, delivery: Delivery, error_id: str, reason: str) -> None:
        # None of the sender's own headers: by these a replay knows whose the message is.
        await self._publisher.publish(
            topology.DLX,
            topology.INGEST_TELEMETRY,
            delivery.body,
            headers={
                "esp-reason": reason,
                "esp-error-id": error_id,
                "esp-routing-key": delivery.routing_key,
            },
            content_type=delivery.content_type or "",
            message_id=delivery.message_id,
        )

    def _account(self, prepared: "_Prepared", result: StoreResult) -> None:
        flush = prepared.flush
        MESSAGES.labels("done").inc(len(prepared.deliveries))
        for outcome in ("stored", "merged", "duplicates", "quarantined"):
            READINGS.labels(outcome).inc(max(0, getattr(result, outcome)))
        UNKEPT.inc(result.unkept)
        for gateway_id in result.filled:
            log.warning(
                "quarantine.full",
                gateway_id=gateway_id,
                max_rows_per_day=self._settings.quarantine_rows_per_day,
                effect="refusals of this gateway are only counted until the UTC day ends",
            )
        FLUSH_READINGS.observe(flush.counts.readings)
        if len(flush.batch):
            LAG_S.set(self._now() - int(flush.batch.time_us.max()) / 1e6)
        readings = flush.reasons()
        for reason, count in readings.items():
            REFUSED.labels(reason).inc(count)
        channels = flush.channel_reasons()
        channels[Reason.CONFLICT] += result.conflicts.channels
        for reason, count in (+channels).items():
            REFUSED_CHANNELS.labels(reason).inc(count)
        self._refusals.note(readings + channels, flush, self._now())


class _Prepared(NamedTuple):
    """A flush with the messages it settles."""

    deliveries: Sequence[Delivery]
    flush: Flush
    remembered: dict[str, int]


class _Refusals:
    """Counts refused readings, and logs one line per reason at most every few seconds."""

    def __init__(self) -> None:
        self._unsaid: Counter[Reason] = Counter()
        self._said: dict[Reason, float] = {}

    def note(self, reasons: Mapping[Reason, int], flush: Flush, now: float) -> None:
        for reason, count in reasons.items():
            self._unsaid[reason] += count
            if now - self._said.get(reason, 0.0) < _LOG_EVERY_S:
                continue
            self._said[reason] = now
            example = next((row for row in flush.quarantined if row.reason == reason), None)
            log.warning(
                "readings.quarantined",
                reason=reason,
                count=self._unsaid.pop(reason),
                gateway_id=example and example.gateway_id,
                pump_id=example and example.pump_id,
                example=example and example.detail,
            )


def body_of_delivery(delivery: Delivery, own_user: str | None = None) -> Body:
    """Return a delivery as the decoder takes it; `own_user`: the broker user of this service."""
    gateway_id = gateway_of(delivery.routing_key)
    judged_us = _judged_us(delivery) if own_user and delivery.user_id == own_user else None
    return Body(
        delivery.body,
        delivery.content_type,
        gateway_id,
        delivery.message_id,
        judged_us,
        delivery.content_encoding,
    )


def _judged_us(delivery: Delivery) -> int | None:
    """Return when the ingest API judged the readings. The broker lets nobody else name the API's user."""
    stamp = delivery.headers.get(JUDGED_HEADER)
    if isinstance(stamp, str) and stamp.isascii() and stamp.isdecimal() and len(stamp) <= 17:
        return int(stamp)
    return None


def trace_of(deliveries: Sequence[Delivery]) -> dict[str, str]:
    """Return the W3C trace context of a flush's only message; of several none is the parent."""
    headers = deliveries[0].headers if len(deliveries) == 1 else {}
    return {name: str(headers[name])[:512] for name in ("traceparent", "tracestate") if name in headers}


def _screen(bodies: Sequence[Body], registry: Registry, now_us: int) -> Screened:
    return screen(decode(bodies), registry, now_us)


def _about(delivery: Delivery) -> int:
    """Return about how many readings a message holds, without reading it."""
    return 1 + len(delivery.body) // (_ARROW_BYTES if delivery.content_type == ARROW_TYPE else _JSON_BYTES)


def _parts(deliveries: Sequence[Delivery], readings: int) -> Iterator[Sequence[Delivery]]:
    """Split what waited while all slots were taken into flushes of about `readings`."""
    part: list[Delivery] = []
    size = 0
    for delivery in deliveries:
        part.append(delivery)
        size += _about(delivery)
        if size >= readings:
            yield part
            part, size = [], 0
    if part:
        yield part
