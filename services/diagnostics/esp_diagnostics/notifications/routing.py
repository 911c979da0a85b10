"""Select destinations of a message: routes by field, priority, kind of notice and shift."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from esp_diagnostics.alerts.model import rank

NOTICES: Final = ("raised", "escalated", "cleared", "flood")
TEST: Final = "test"
"""Notice of a test message to one destination."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Shift from `begins` to `ends`, local time of `time_zone`, on `days` (Monday is 0).

    A shift that ends before it begins spans midnight and belongs to the day it begins on; one with equal ends
    lasts the whole day.
    """

    time_zone: str
    days: frozenset[int]
    begins: time
    ends: time

    def on_duty(self, now: datetime) -> bool:
        """Return whether `now` is within the shift."""
        local = now.astimezone(ZoneInfo(self.time_zone))
        clock, today = local.time(), local.weekday()
        yesterday = (local - timedelta(days=1)).weekday()
        if self.begins < self.ends:
            return today in self.days and self.begins <= clock < self.ends
        return (today in self.days and clock >= self.begins) or (yesterday in self.days and clock < self.ends)


@dataclass(frozen=True, slots=True)
class Route:
    """Route of messages of `field_ids` (None: all, including platform messages) to destinations."""

    route_id: str
    field_ids: frozenset[str] | None
    least_priority: str
    notices: frozenset[str]
    shift: Shift | None
    destination_ids: tuple[str, ...]
    enabled: bool = True

    def matches(self, message: "Message", now: datetime) -> bool:
        """Return whether the route applies to `message` at `now`."""
        return (
            self.enabled
            and message.notice in self.notices
            and rank(message.priority) >= rank(self.least_priority)
            and (self.field_ids is None or message.field_id in self.field_ids)
            and (self.shift is None or self.shift.on_duty(now))
        )


@dataclass(frozen=True, slots=True)
class Message:
    """Message to people. `destination_id`: the only destination, for a test message."""

    event_id: str
    notice: str
    priority: str
    title: str
    time: datetime
    action: str = ""
    alert_id: str | None = None
    pump_id: str | None = None
    field_id: str | None = None
    condition: str | None = None
    occurrences: int = 1
    destination_id: str | None = None

    @property
    def subject(self) -> str:
        """Return the subject line."""
        where = self.pump_id or self.field_id or "platform"
        return f"[{self.priority.upper()}] {self.notice}: {self.title} ({where})"

    @property
    def text(self) -> str:
        """Return the body text."""
        lines = [
            self.title,
            "",
            f"{self.notice} {self.time:%Y-%m-%d %H:%M:%S} UTC, priority {self.priority}",
            *([f"pump {self.pump_id}"] if self.pump_id else []),
            *([f"field {self.field_id}"] if self.field_id else []),
            *([f"condition {self.condition}, occurrence {self.occurrences}"] if self.condition else []),
            *(["", f"What to do: {self.action}"] if self.action else []),
            *(["", f"alert {self.alert_id}"] if self.alert_id else []),
        ]
        return "\n".join(lines)


def destinations(message: Message, routes: Iterable[Route], now: datetime) -> list[str]:
    """Return the destinations of `message` at `now`, each once, in the order of the routes."""
    if message.destination_id is not None:
        return [message.destination_id]
    wanted = [route.destination_ids for route in routes if route.matches(message, now)]
    return list(dict.fromkeys(destination for ids in wanted for destination in ids))


def is_repetition(message: Message, last_notice: str, last_priority: str) -> bool:
    """Return whether `message` repeats the last one about the alert.

    An alert that toggles notifies destinations without cleared notices once. Destinations that received the
    cleared notice are notified of the recurrence.
    """
    return message.notice == last_notice and rank(message.priority) <= rank(last_priority)
