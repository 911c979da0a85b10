"""The life of an alarm after ISA-18.2 (IEC 62682): what signals, people and time do to it.

An alarm is of one pump (or, for platform alarms, of none) and one condition, and lives until it is closed.
While it lives the condition may come and go: those are its occurrences. It is annunciated while the condition
is active and nothing hides it: shelving (by a person, until a time), suppression by design (a state of the
pump, or another alarm that explains this one) and being out of service. Each act returns the alarm as it is
afterwards; `changes` says what came of that, and `notice` whether somebody should be told.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal
from uuid import UUID

from esp_common.errors import Conflict, InvalidInput

SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
PRIORITIES: Final = ("low", "medium", "high", "critical")
PUMP_OUT_OF_SERVICE: Final = "pump out of service"
"""What suppresses the alarms of a pump that was taken out of service as a whole."""

Source = Literal["finding", "limit", "platform"]


class State(StrEnum):
    """Where an alarm is in its life; what hides it wins over the rest."""

    PENDING = "pending"
    ACTIVE_UNACKNOWLEDGED = "active_unacknowledged"
    ACTIVE_ACKNOWLEDGED = "active_acknowledged"
    CLEARED_UNACKNOWLEDGED = "cleared_unacknowledged"
    NORMAL = "normal"
    SHELVED = "shelved"
    SUPPRESSED = "suppressed"
    OUT_OF_SERVICE = "out_of_service"
    CLOSED = "closed"


class What(StrEnum):
    """What happened to an alarm: the name of the event and of the entry in its log."""

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
    """Why people are told of an alarm."""

    RAISED = "raised"
    ESCALATED = "escalated"
    CLEARED = "cleared"


@dataclass(frozen=True, slots=True)
class Signal:
    """What the worker, a limit or another service says of a condition: that it is there, or not (any more).

    `time`: when it began or ended, in the data's time. `suppressed_by`: why it should not be annunciated now
    (see `esp_diagnostics.alerts.rules.suppression`). `subject` tells apart what has the same condition
    on the same pump, or on the platform: a kind of backup.
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
        """What the alarm is of."""
        return (self.pump_id or "", self.condition, self.subject)


Key = tuple[str, str, str]
"""Pump id (empty: the platform), condition and subject: one alarm lives of each at a time."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm as it stands; the columns of its row.

    `signalled_at`: time of the signal that changed `active` last; older signals are repetitions. `due_at`:
    when `active` changes unless the condition changes back before (delays). The acknowledgement's time and
    name stay when the condition comes back, though `acknowledged` does not.
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
        """What the alarm is of."""
        return (self.pump_id or "", self.condition, self.subject)

    @property
    def hidden(self) -> State | None:
        """What keeps it from being annunciated; None: nothing does."""
        if self.out_of_service_by is not None:
            return State.OUT_OF_SERVICE
        if self.shelved_until is not None:
            return State.SHELVED
        return State.SUPPRESSED if self.suppressed_by is not None else None

    @property
    def annunciated(self) -> bool:
        """Whether an operator should see it as present."""
        return self.active and self.hidden is None and self.closed_at is None

    @property
    def state(self) -> State:
        """Where it is in its life."""
        if self.closed_at is not None:
            return State.CLOSED
        if self.occurrences == 0:
            return State.PENDING
        if self.hidden is not None:
            return self.hidden
        if self.active:
            return State.ACTIVE_ACKNOWLEDGED if self.acknowledged else State.ACTIVE_UNACKNOWLEDGED
        return State.NORMAL if self.acknowledged else State.CLEARED_UNACKNOWLEDGED


ALARM_COLUMNS: Final = tuple(field.name for field in fields(Alarm))


@dataclass(frozen=True, slots=True)
class Handling:
    """How rules want an alarm treated: its priority, and seconds until a change of its condition counts."""

    priority: str
    on_delay_s: float = 0.0
    off_delay_s: float = 0.0


# --- what signals do --------------------------------------------------------------------------------------


def signalled(
    alarm: Alarm | None, signal: Signal, handling: Handling, *, alert_id: UUID, now: datetime
) -> Alarm | None:
    """Return the alarm after `signal`; None when there is none, or it ended before it was one.

    `alarm`: the last of its key, maybe closed. `alert_id` names a new one. The same signal again, or an older
    one, changes nothing.
    """
    if alarm is not None and signal.time < alarm.signalled_at:
        return alarm
    if alarm is None or alarm.closed_at is not None:
        repeated = alarm is not None and signal.time == alarm.signalled_at
        if repeated or not signal.active:
            return alarm
        alarm = _begin(signal, handling, alert_id, now)
    if signal.active == alarm.active:
        # Back to what it was before a delay was over.
        alarm = replace(alarm, due_at=None)
        if alarm.occurrences == 0:
            return None
    else:
        alarm = _awaiting(alarm, signal, handling, now)
    if signal.active:
        alarm = _told(alarm, signal, handling)
    return alarm


def _begin(signal: Signal, handling: Handling, alert_id: UUID, now: datetime) -> Alarm:
    return Alarm(
        alert_id=alert_id,
        pump_id=signal.pump_id,
        field_id=signal.field_id,
        condition=signal.condition,
        subject=signal.subject,
        source=signal.source,
        title=signal.title,
        action=signal.action,
        finding_id=signal.finding_id,
        severity=signal.severity,
        priority=handling.priority,
        active=False,
        acknowledged=False,
        occurrences=0,
        signalled_at=signal.time,
        raised_at=signal.time,
        last_raised_at=signal.time,
        updated_at=now,
        suppressed_by=signal.suppressed_by,
    )


def _awaiting(alarm: Alarm, signal: Signal, handling: Handling, now: datetime) -> Alarm:
    """Return the alarm with its condition changed, at once or when its delay is over."""
    if alarm.due_at is not None:
        return _elapsed(alarm, now)  # said already: the delay goes on from the first time
    delay_s = handling.on_delay_s if signal.active else handling.off_delay_s
    due_at = signal.time + timedelta(seconds=delay_s)
    return _elapsed(replace(alarm, due_at=due_at, signalled_at=signal.time), now if delay_s else due_at)


def _elapsed(alarm: Alarm, now: datetime) -> Alarm:
    """Return the alarm with its condition changed if the delay is over."""
    if alarm.due_at is None or alarm.due_at > now:
        return alarm
    since = alarm.signalled_at
    if alarm.active:
        # What was kept from them nobody has to acknowledge.
        seen = alarm.acknowledged or alarm.suppressed_by is not None
        return replace(
            alarm, active=False, acknowledged=seen, due_at=None, cleared_at=since, suppressed_by=None
        )
    return replace(
        alarm,
        active=True,
        acknowledged=False,
        occurrences=alarm.occurrences + 1,
        due_at=None,
        last_raised_at=since,
    )


def _told(alarm: Alarm, signal: Signal, handling: Handling) -> Alarm:
    """Return the alarm with what the signal says of a condition that is there."""
    return replace(
        alarm,
        severity=signal.severity,
        priority=handling.priority,
        title=signal.title,
        action=signal.action,
        field_id=signal.field_id,
        finding_id=signal.finding_id,
        suppressed_by=signal.suppressed_by,
    )


# --- what time does ---------------------------------------------------------------------------------------


def after_time(alarm: Alarm, now: datetime, *, rest_s: float) -> Alarm:
    """Return the alarm as time leaves it: delays over, shelving expired, closed after `rest_s` at rest."""
    alarm = _elapsed(alarm, now)
    if alarm.shelved_until is not None and alarm.shelved_until <= now:
        alarm = _unshelved(alarm)
    rests_since = max(filter(None, (alarm.cleared_at, alarm.acknowledged_at)), default=now)
    if alarm.state is State.NORMAL and (now - rests_since).total_seconds() >= rest_s:
        alarm = replace(alarm, closed_at=now)
    return alarm


# --- what people do ---------------------------------------------------------------------------------------


def acknowledge(alarm: Alarm, actor: str, now: datetime) -> Alarm:
    """Return the alarm as seen by `actor`; one that is acknowledged already stays as it is."""
    _living(alarm)
    if alarm.acknowledged:
        return alarm
    return replace(alarm, acknowledged=True, acknowledged_at=now, acknowledged_by=actor)


def unacknowledge(alarm: Alarm) -> Alarm:
    """Return the alarm as nobody has seen it: an acknowledgement was a mistake."""
    _living(alarm)
    return replace(alarm, acknowledged=False, acknowledged_at=None, acknowledged_by=None)


def shelve(
    alarm: Alarm, actor: str, until: datetime, reason: str, now: datetime, *, longest_s: float
) -> Alarm:
    """Return the alarm hidden until `until`; raise InvalidInput when that is past or further than allowed."""
    _living(alarm)
    if alarm.out_of_service_by is not None:
        raise Conflict(
            f"alert {alarm.alert_id} is out of service", fix="return it to service before shelving it"
        )
    if until <= now:
        raise InvalidInput("the time until which to shelve is past", fix="give a later one")
    if (until - now).total_seconds() > longest_s:
        raise InvalidInput(
            f"shelving for more than {longest_s / 3600:g} h is not allowed",
            fix="shelve it for less, or take the alarm out of service",
        )
    return replace(alarm, shelved_until=until, shelved_by=actor, shelve_reason=reason)


def unshelve(alarm: Alarm) -> Alarm:
    """Return the alarm without its shelving; raise Conflict when it is not shelved."""
    _living(alarm)
    if alarm.shelved_until is None:
        raise Conflict(f"alert {alarm.alert_id} is not shelved", fix="see its state")
    return _unshelved(alarm)


def _unshelved(alarm: Alarm) -> Alarm:
    return replace(alarm, shelved_until=None, shelved_by=None, shelve_reason=None)


def take_out_of_service(alarm: Alarm, actor: str, reason: str) -> Alarm:
    """Return the alarm out of service until it is returned; a shelving ends with it."""
    _living(alarm)
    if alarm.out_of_service_by is not None:
        return alarm
    return replace(_unshelved(alarm), out_of_service_by=actor, out_of_service_reason=reason)


def return_to_service(alarm: Alarm) -> Alarm:
    """Return the alarm in service; raise Conflict when it is."""
    _living(alarm)
    if alarm.out_of_service_by is None:
        raise Conflict(f"alert {alarm.alert_id} is in service", fix="see its state")
    return replace(alarm, out_of_service_by=None, out_of_service_reason=None)


def assign(alarm: Alarm, assignee: str | None) -> Alarm:
    """Return the alarm as somebody's, or nobody's, to see to."""
    _living(alarm)
    return replace(alarm, assignee=assignee)


def close(alarm: Alarm, actor: str, now: datetime) -> Alarm:
    """Return the alarm closed, and acknowledged by `actor` if it was not.

    Raises Conflict while a pump's condition is active: it would come back with the next signal. A platform
    alarm may be closed at any time, since what clears it may never come.
    """
    _living(alarm)
    if alarm.active and alarm.source != "platform":
        raise Conflict(
            f"alert {alarm.alert_id} is active: {alarm.condition}",
            fix="shelve it, take it out of service, or close it when it has cleared",
        )
    alarm = acknowledge(_unshelved(alarm), actor, now)
    if alarm.active:
        alarm = replace(alarm, active=False, cleared_at=now)
    return replace(alarm, due_at=None, closed_at=now, closed_by=actor)


def _living(alarm: Alarm) -> None:
    if alarm.closed_at is not None:
        raise Conflict(f"alert {alarm.alert_id} is closed", fix="act on the pump's present alert")


# --- what came of it --------------------------------------------------------------------------------------


def changes(before: Alarm | None, after: Alarm) -> list[What]:
    """Return what happened between two states of an alarm, in the order in which it is told."""
    was_active = before is not None and before.active
    found = []
    if after.active != was_active:
        found.append(What.RAISED if after.active else What.CLEARED)
    if before is None:
        return found + ([What.SUPPRESSED] if after.active and after.suppressed_by else [])
    told = (before.priority, before.severity) != (after.priority, after.severity)
    if told and after.active and was_active:
        found.append(What.CHANGED)
    if after.acknowledged_at != before.acknowledged_at:
        found.append(What.ACKNOWLEDGED if after.acknowledged else What.UNACKNOWLEDGED)
    found += _hiding_changes(before, after)
    if after.assignee != before.assignee:
        found.append(What.ASSIGNED)
    if after.closed_at is not None and before.closed_at is None:
        found.append(What.CLOSED)
    return found


def _hiding_changes(before: Alarm, after: Alarm) -> list[What]:
    found = []
    if after.shelved_until != before.shelved_until:
        found.append(What.SHELVED if after.shelved_until else What.UNSHELVED)
    if after.suppressed_by != before.suppressed_by and after.active:
        found.append(What.SUPPRESSED if after.suppressed_by else What.UNSUPPRESSED)
    if after.out_of_service_by != before.out_of_service_by:
        found.append(What.OUT_OF_SERVICE if after.out_of_service_by else What.IN_SERVICE)
    return found


def notice(before: Alarm | None, after: Alarm) -> Notice | None:
    """Return why people should be told of a change; None when they should not."""
    was = before is not None and before.annunciated
    if after.annunciated and not was and not after.acknowledged:
        return Notice.RAISED
    if before is not None and was and after.annunciated:
        return Notice.ESCALATED if rank(after.priority) > rank(before.priority) else None
    if was and not after.active and after.closed_at is None:
        return Notice.CLEARED
    return None


def rank(priority: str) -> int:
    """Return the position of a priority, the least first."""
    return PRIORITIES.index(priority)


# --- floods -----------------------------------------------------------------------------------------------


def in_flood(raised: int, *, was_in_flood: bool, begins_above: int, ends_below: int) -> bool:
    """Whether a field with `raised` annunciated alarms in the window is in an alarm flood (ISA-18.2 §16)."""
    return raised >= ends_below if was_in_flood else raised > begins_above


def told_in_flood(priority: str) -> bool:
    """Whether an alarm is worth a message of its own while its field is in a flood."""
    return priority in ("high", "critical")


def highest(priorities: Collection[str]) -> str:
    """Return the highest of some priorities."""
    return max(priorities, key=rank)
