"""Parts of the notifier: notifications, platform events, and the passage of time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import asyncpg
import stamina
import structlog
from esp_common import topology
from esp_common.contracts.events import Event, decode_event
from esp_common.database import OUTAGES, Pool, is_outage
from esp_common.errors import EspError, InvalidInput
from esp_common.messaging import Delivery as Received
from esp_common.messaging import LeanConsumer
from prometheus_client import Counter

from esp_diagnostics.alerts.platform import platform_signal
from esp_diagnostics.alerts.rule_sets import load_rules
from esp_diagnostics.alerts.transitions import pass_time, report
from esp_diagnostics.live.broadcast import LivePublisher
from esp_diagnostics.notifications.delivery import NotificationDelivery, parse_message
from esp_diagnostics.settings import SERVICE, DiagnosticsSettings

log = structlog.get_logger()

PREFETCH: Final = 20
STOP_S: Final = 10.0
"""Time to finish pending messages when the role stops; unfinished ones are redelivered."""

_TAKEN: Final = Counter(
    "esp_diagnostics_notifier_messages_total", "Processed messages by outcome.", ["queue", "outcome"]
)


class EventConsumer:
    """Process the events of one work queue, each on its own.

    `on_event` is retried during a database outage. An event that it rejects with an EspError, and a message
    that is invalid or was sent by another service than its own, becomes a dead letter. `at_once`: number of
    events processed concurrently; one keeps the order of the queue.
    """

    def __init__(
        self, url: str, queue: str, on_event: Callable[[Event], Awaitable[None]], at_once: int = PREFETCH
    ) -> None:
        self._queue = queue
        self._on_event = on_event
        self._working: set[asyncio.Task[None]] = set()
        self._consumer = LeanConsumer(url, queue, prefetch=at_once, on_message=self._take, service=SERVICE)

    @property
    def alive(self) -> bool:
        """Return whether the broker has registered this consumer."""
        return self._consumer.alive

    async def run(self, stop: asyncio.Event) -> None:
        """Process events until `stop` is set, then finish pending ones."""
        running = asyncio.create_task(self._consumer.run())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            await self._consumer.pause()
            if self._working:
                await asyncio.wait(self._working, timeout=STOP_S)
            await self._consumer.stop()
            await running
        finally:
            for task in (stopping, running, *self._working):
                task.cancel()
            await asyncio.gather(stopping, running, *self._working, return_exceptions=True)

    def _take(self, received: Received) -> None:
        task = asyncio.create_task(self._work(received))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _work(self, received: Received) -> None:
        try:
            await self._effect(received)
        except EspError as error:
            log.warning("event.refused", queue=self._queue, reason=error.detail, error_id=error.error_id)
            self._dead_letter(received)
        except Exception as error:
            log.exception("event.failed", queue=self._queue, error=repr(error))
            self._dead_letter(received)
        else:
            _TAKEN.labels(self._queue, "done").inc()
            self._consumer.done([received])

    def _dead_letter(self, received: Received) -> None:
        _TAKEN.labels(self._queue, "dead").inc()
        self._consumer.reject(received, requeue=False)

    async def _effect(self, received: Received) -> None:
        event = decode_event(received.headers, received.body)
        if received.user_id != topology.speaker_of(event.type):
            log.critical("event.forged", type=event.type, subject=event.subject, sender=received.user_id)
            raise InvalidInput(f"{received.user_id or 'an unknown sender'} may not publish {event.type}")
        async for attempt in stamina.retry_context(
            on=is_outage, attempts=None, timeout=None, wait_initial=0.2, wait_max=10.0
        ):
            with attempt:
                await self._on_event(event)


async def consume(consumers: Sequence[EventConsumer], stop: asyncio.Event) -> None:
    """Run consumers until `stop` is set and each has finished its pending events."""
    async with asyncio.TaskGroup() as group:
        for consumer in consumers:
            group.create_task(consumer.run(stop))


def notification_consumer(settings: DiagnosticsSettings, delivery: NotificationDelivery) -> EventConsumer:
    """Return the consumer of notifications."""

    async def deliver(event: Event) -> None:
        await delivery.deliver(parse_message(event), datetime.now(UTC))

    return EventConsumer(settings.amqp_url, topology.DIAGNOSTICS_NOTIFICATIONS, deliver)


def platform_consumer(settings: DiagnosticsSettings, pool: Pool, live: LivePublisher) -> EventConsumer:
    """Return the consumer of platform events of backups, the archive and maintenance."""

    async def take(event: Event) -> None:
        signal = platform_signal(event)
        if signal is None:
            return
        async with pool.acquire() as connection, connection.transaction():
            changes = await report(connection, [signal], await load_rules(connection))
        await live.publish([change.live() for change in changes])

    # In order: a success processed before the preceding failure would leave its alert open.
    return EventConsumer(settings.amqp_url, topology.DIAGNOSTICS_PLATFORM, take, at_once=1)


async def keep_time(pool: Pool, live: LivePublisher, period_s: float) -> None:
    """End delays, shelving and floods every `period_s` seconds until cancelled; skip during outages."""
    while True:
        with suppress(*OUTAGES):
            try:
                async with pool.acquire() as connection, connection.transaction():
                    rules = await load_rules(connection)
                    changes = await pass_time(connection, rules, datetime.now(UTC))
                await live.publish([change.live() for change in changes])
            except asyncpg.PostgresError as error:
                log.warning("alerts.delayed", reason=str(error))
        await asyncio.sleep(period_s)
