"""Turn batches of messages into stored and announced readings.

A flush stores a batch in one transaction and publishes what was accepted; its messages are acknowledged
only then. If the worker dies before that, the broker delivers them again: the store finds the rows it has,
and a redelivered message is announced again, since its announcement may be missing. The unacknowledged
message does the work of an outbox, without a second copy of the data.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import stamina
import structlog
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.events import event_headers
from esp_common.contracts.readings import JUDGED_HEADER
from esp_common.database import OUTAGES
from esp_common.errors import BrokerUnavailable, Nacked
from esp_common.messaging import Delivery, Publisher
from esp_common.messaging.batch import Batch, BatchLimits, BatchMetrics, Refused
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
BATCH_METRICS: Final = BatchMetrics(FLUSH_S, DATABASE_UP, MESSAGES.labels("poison"), BUFFERED)

_ARROW_BYTES: Final = 200
_JSON_BYTES: Final = 650
"""Typical size of a reading with all channels, to estimate the readings of a message."""

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


def batch_limits(settings: IngestSettings) -> BatchLimits:
    """Return when a flush is due, and how much the worker holds."""
    return BatchLimits(
        max_items=settings.flush_readings,
        max_age_ms=settings.flush_ms,
        max_bytes=int(settings.max_buffered_mib * MIB),
        max_prefetch=settings.prefetch,
        in_flight=settings.flushes_in_flight,
        outage_pause_s=settings.outage_pause_s,
    )


def gateway_of(routing_key: str) -> str:
    """Return the gateway that published under `telemetry.<gateway_id>[.<pump_id>]`.

    MQTT topics come with slashes turned to dots, so this holds for them too.
    """
    parts = routing_key.split(".", 2)
    return parts[1] if len(parts) > 1 else ""


class Intake:
    """Handles batches of messages: decodes, screens, stores and announces their readings.

    Batches are prepared in their order, and stored several at a time.
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
        self._refusals = _Refusals()

    def weigh(self, delivery: Delivery) -> int:
        """Return about how many readings a message holds, without reading it."""
        size = _ARROW_BYTES if delivery.content_type == ARROW_TYPE else _JSON_BYTES
        return 1 + len(delivery.body) // size

    def source_of(self, delivery: Delivery) -> str:
        """Return the gateway, so that the backlog of one does not delay the live readings of others."""
        return gateway_of(delivery.routing_key)

    async def handle(self, batch: Batch) -> Sequence[Refused]:
        """Store the readings of a batch and announce them; refused readings go to quarantine."""
        # In order, so that the frozen-value tracker sees it; locks are fair.
        async with self._preparing:
            prepared = await self._prepare(batch.deliveries)
        flush = prepared.flush
        result = await batch.retry(lambda: self._store_once(flush))
        new = result.stored + result.merged > 0
        if len(flush.batch) and (new or batch.repeated):
            await self._announce(flush, result, trace_of(batch.deliveries))
        await self._seen.remember(prepared.remembered)
        self._account(prepared, result)
        return ()

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

    async def _store_once(self, flush: Flush) -> StoreResult:
        return await self._store.write(
            flush.batch, flush.quarantined, flush.tallies, flush.counts, flush.contrary
        )

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
