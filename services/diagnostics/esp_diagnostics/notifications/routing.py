"""Who is told of what, and when: routes by field, priority, kind of notice and shift."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from esp_diagnostics.alerts.model import rank

NOTICES: Final = ("raised", "escalated", "cleared", "flood")
TEST: Final = "test"
"""A message that somebody sends to one destination to see whether it arrives."""


@dataclass(frozen=True, slots=True)
class Shift:
    """When somebody is on duty: from `begins` to `ends` by the clock of `time_zone`, on `days` (Monday is 0).

    One that ends before it begins goes over midnight, and is of the day it begins on; one that ends when it
    begins goes round the clock.
    """

    time_zone: str
    days: frozenset[int]
    begins: time
    ends: time

    def on_duty(self, now: datetime) -> bool:
        """Whether `now` is in the shift."""
        local = now.astimezone(ZoneInfo(self.time_zone))
        clock, today = local.time(), local.weekday()
        yesterday = (local - timedelta(days=1)).weekday()
        if self.begins < self.ends:
            return today in self.days and self.begins <= clock < self.ends
        return (today in self.days and clock >= self.begins) or (yesterday in self.days and clock < self.ends)


@dataclass(frozen=True, slots=True)
class Route:
    """Messages of `field_ids` (None: of any, and of the platform) and the rest that fits go to these."""

    route_id: str
    field_ids: frozenset[str] | None
    least_priority: str
    notices: frozenset[str]
    shift: Shift | None
    destination_ids: tuple[str, ...]
    enabled: bool = True

    def wants(self, message: "Message", now: datetime) -> bool:
        """Whether this route is for `message`, sent at `now`."""
        return (
            self.enabled
            and message.notice in self.notices
            and rank(message.priority) >= rank(self.least_priority)
            and (self.field_ids is None or message.field_id in self.field_ids)
            and (self.shift is None or self.shift.on_duty(now))
        )


@dataclass(frozen=True, slots=True)
class Message:
    """What people are told. `destination_id`: the only one it is for, where somebody tries that out."""

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
        """The line by which people decide whether to read on."""
        where = self.pump_id or self.field_id or "platform"
        return f"[{self.priority.upper()}] {self.notice}: {self.title} ({where})"

    @property
    def text(self) -> str:
        """What people read."""
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
    """Return where `message` goes at `now`, each destination once, in the order of the routes."""
    if message.destination_id is not None:
        return [message.destination_id]
    wanted = [route.destination_ids for route in routes if route.wants(message, now)]
    return list(dict.fromkeys(destination for ids in wanted for destination in ids))


def says_the_same(message: Message, last_notice: str, last_priority: str) -> bool:
    """Whether `message` tells a destination nothing that the last one about the alert did not.

    An alert that comes and goes tells those once who hear only of its coming. Whoever is told that it went
    is told that it is back.
    """
    return message.notice == last_notice and rank(message.priority) <= rank(last_priority)
