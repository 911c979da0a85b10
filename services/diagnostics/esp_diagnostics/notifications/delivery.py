"""Deliver messages to the destinations of their routes."""

import asyncio
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

import stamina
import structlog
from esp_common.contracts.events import Event
from esp_common.database import Pool
from esp_common.errors import EspError, InvalidInput
from esp_common.times import parse_time
from prometheus_client import Counter

from esp_diagnostics.alerts.model import PRIORITIES
from esp_diagnostics.notifications.routing import NOTICES, TEST, Message, destinations, is_repetition
from esp_diagnostics.notifications.sender import NotSent, Sealer, Sender
from esp_diagnostics.notifications.store import Routing
from esp_diagnostics.settings import DiagnosticsSettings

log = structlog.get_logger()

_SENT: Final = Counter(
    "esp_diagnostics_notifications_total", "Messages to destinations by outcome.", ["scheme", "outcome"]
)


class NotDelivered(EspError):
    """A message did not reach all of its destinations."""

    code, status, title = "not-delivered", 503, "Message not delivered"


class NotificationDelivery:
    """Deliver messages once to every destination of their routes, and log the outcome."""

    def __init__(self, pool: Pool, settings: DiagnosticsSettings) -> None:
        self._routing = Routing(pool)
        self._sender = Sender(settings)
        self._seal = Sealer(settings.master_key)
        self._attempts = settings.notify_attempts
        self._retry_s = settings.notify_retry_s
        self._repeat = timedelta(seconds=settings.notify_repeat_s)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def deliver(self, message: Message, now: datetime) -> None:
        """Deliver `message` to the destinations of its routes at `now` that do not have it.

        Raise NotDelivered if a destination did not accept it after all attempts; a redelivery tries only
        those. Messages about one alert are delivered one after another.
        """
        lock = self._locks.setdefault(message.alert_id or message.event_id, asyncio.Lock())
        async with lock:
            await self._deliver(message, now)

    async def _deliver(self, message: Message, now: datetime) -> None:
        wanted = destinations(message, await self._routing.routes(), now)
        if not wanted:
            if message.notice != "cleared":  # few routes include cleared notices
                log.info("notification.unrouted", title=message.title, priority=message.priority)
                await self._note(message, "", "unrouted", 0)
            return
        settled = await self._routing.settled(message.event_id)
        outcomes = await asyncio.gather(
            *(self._deliver_to(message, id_, now) for id_ in wanted if id_ not in settled)
        )
        if failed := [reason for reason in outcomes if reason]:
            raise NotDelivered("; ".join(failed), fix="fix the destination, then replay the dead letter")

    async def _deliver_to(self, message: Message, id_: str, now: datetime) -> str | None:
        """Deliver to one destination; return the reason of a failure."""
        row = await self._routing.destination(id_)
        if row is None or not row["enabled"]:
            return None
        if await self._repeats(message, id_, now):
            await self._note(message, id_, "repeated", 0, scheme=row["scheme"])
            return None
        attempts = 0
        try:
            url = self._seal.open(row["sealed_url"], id_)
            async for attempt in stamina.retry_context(
                on=NotSent, attempts=self._attempts, timeout=None, wait_initial=self._retry_s, wait_max=60.0
            ):
                attempts = attempt.num
                with attempt:
                    await self._sender.send(url, message)
        except EspError as error:
            log.warning("notification.failed", destination=id_, attempts=attempts, reason=error.detail)
            await self._note(message, id_, "failed", attempts, error.detail, scheme=row["scheme"])
            return f"{id_}: {error.detail}"
        await self._note(message, id_, "sent", attempts, scheme=row["scheme"])
        return None

    async def _repeats(self, message: Message, id_: str, now: datetime) -> bool:
        if message.alert_id is None or message.notice == TEST:
            return False
        last = await self._routing.last_sent(message.alert_id, id_, now - self._repeat)
        return last is not None and is_repetition(message, *last)

    async def _note(
        self,
        message: Message,
        id_: str,
        outcome: str,
        attempts: int,
        reason: str | None = None,
        *,
        scheme: str = "",
    ) -> None:
        _SENT.labels(scheme, outcome).inc()
        await self._routing.note(message, id_, outcome, attempts, reason)


def parse_message(event: Event) -> Message:
    """Parse an event of esp.alerts; raise InvalidInput if it is not a message."""
    data = event.data
    try:
        notice, priority = data["notice"], data["priority"]
        if notice not in (*NOTICES, TEST) or priority not in PRIORITIES:
            raise ValueError(f"{notice} {priority}")  # noqa: TRY301
        alert_id = data.get("alert_id")
        return Message(
            event_id=event.id,
            notice=notice,
            priority=priority,
            title=str(data["title"]),
            time=parse_time(data["time"]),
            action=data.get("action") or "",
            alert_id=str(UUID(alert_id)) if alert_id else None,
            pump_id=data.get("pump_id"),
            field_id=data.get("field_id"),
            condition=data.get("condition"),
            occurrences=data.get("occurrences", 1),
            destination_id=data.get("destination_id"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"not a notification message: {error!r}") from None
