"""Alert model after ISA-18.2 (IEC 62682): an alert, its states, and the signals that change it."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal
from uuid import UUID

SEVERITIES: Final = ("info", "low", "medium", "high", "critical")

PRIORITIES: Final = ("low", "medium", "high", "critical")

PUMP_OUT_OF_SERVICE: Final = "pump out of service"
"""`suppressed_by` of the alerts of a pump that is out of service."""

Source = Literal["finding", "limit", "platform"]


class AlertState(StrEnum):
    """State of an alert. Out of service, shelved and suppressed take precedence over active and cleared."""

    PENDING = "pending"
    ACTIVE_UNACKNOWLEDGED = "active_unacknowledged"
    ACTIVE_ACKNOWLEDGED = "active_acknowledged"
    CLEARED_UNACKNOWLEDGED = "cleared_unacknowledged"
    NORMAL = "normal"
    SHELVED = "shelved"
    SUPPRESSED = "suppressed"
    OUT_OF_SERVICE = "out_of_service"
    CLOSED = "closed"


class TransitionKind(StrEnum):
    """Kind of a transition: suffix of the event type and `what` of the log entry."""

    RAISED = "raised"
    CHANGED = "changed"
    CLEARED = "cleared"
    ACKNOWLEDGED = "acknowledged"
    UNACKNOWLEDGED = "unacknowledged"
    SHELVED = "shelved"
    UNSHELVED = "unshelved"
    SUPPRESSED = "suppressed"
    UNSUPPRESSED = "unsuppressed"
    OUT_OF_SERVICE = "out-of-service"
    IN_SERVICE = "in-service"
    COMMENTED = "commented"
    ASSIGNED = "assigned"
    CLOSED = "closed"


class Notice(StrEnum):
    """Reason for a notification."""

    RAISED = "raised"
    ESCALATED = "escalated"
    CLEARED = "cleared"


Key = tuple[str, str, str]
"""Pump id (empty: the platform), condition and subject. At most one alert per key is open."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Report that a condition is active or has cleared.

    `time`: when the condition changed, in data time. `suppressed_by`: reason not to annunciate it now (see
    `esp_diagnostics.alerts.rules.suppression`). `subject` separates alerts of one condition on the same pump
    or on the platform, for example by kind of backup.
    """

    pump_id: str | None
    field_id: str | None
    condition: str
    source: Source
    active: bool
    severity: str
    time: datetime
    title: str
    action: str = ""
    finding_id: UUID | None = None
    suppressed_by: str | None = None
    subject: str = ""

    @property
    def key(self) -> "Key":
        return (self.pump_id or "", self.condition, self.subject)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; the columns of its row.

    `signalled_at`: time of the signal that last changed `active`; older signals are repetitions. `due_at`:
    time at which `active` changes unless the condition changes back first (delays). `acknowledged_at` and
    `acknowledged_by` survive a new occurrence, `acknowledged` does not.
    """

    alert_id: UUID
    pump_id: str | None
    field_id: str | None
    condition: str
    subject: str
    source: str
    title: str
    action: str
    finding_id: UUID | None
    severity: str
    priority: str
    active: bool
    acknowledged: bool
    occurrences: int
    signalled_at: datetime
    raised_at: datetime
    last_raised_at: datetime
    updated_at: datetime
    due_at: datetime | None = None
    cleared_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    shelved_until: datetime | None = None
    shelved_by: str | None = None
    shelve_reason: str | None = None
    suppressed_by: str | None = None
    out_of_service_by: str | None = None
    out_of_service_reason: str | None = None
    assignee: str | None = None
    closed_at: datetime | None = None
    closed_by: str | None = None

    @property
    def key(self) -> Key:
        return (self.pump_id or "", self.condition, self.subject)

    @property
    def hidden(self) -> AlertState | None:
        """Return the state that keeps the alert from being annunciated, if any."""
        if self.out_of_service_by is not None:
            return AlertState.OUT_OF_SERVICE
        if self.shelved_until is not None:
            return AlertState.SHELVED
        return AlertState.SUPPRESSED if self.suppressed_by is not None else None

    @property
    def annunciated(self) -> bool:
        """Return whether operators see the alert as present."""
        return self.active and self.hidden is None and self.closed_at is None

    @property
    def state(self) -> AlertState:
        if self.closed_at is not None:
            return AlertState.CLOSED
        if self.occurrences == 0:
            return AlertState.PENDING
        if self.hidden is not None:
            return self.hidden
        if self.active:
            return AlertState.ACTIVE_ACKNOWLEDGED if self.acknowledged else AlertState.ACTIVE_UNACKNOWLEDGED
        return AlertState.NORMAL if self.acknowledged else AlertState.CLEARED_UNACKNOWLEDGED


ALERT_COLUMNS: Final = tuple(field.name for field in fields(Alert))


@dataclass(frozen=True, slots=True)
class Handling:
    """Priority of a condition, and seconds for which it must be active or clear before the alert changes."""

    priority: str
    on_delay_s: float = 0.0
    off_delay_s: float = 0.0


def rank(priority: str) -> int:
    """Return the position of a priority in ascending order."""
    return PRIORITIES.index(priority)


def highest(priorities: Collection[str]) -> str:
    """Return the highest of `priorities`."""
    return max(priorities, key=rank)
