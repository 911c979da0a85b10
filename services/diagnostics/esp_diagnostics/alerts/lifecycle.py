"""State transitions of an alert after ISA-18.2 (IEC 62682); pure.

Each function returns the alert after one signal, one operator action or the passage of time. The condition
may become active and clear several times while the alert is open; each activation is an occurrence.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from esp_common.errors import Conflict, InvalidInput

from esp_diagnostics.alerts.model import Alert, AlertState, Handling, Signal


def signalled(
    alert: Alert | None, signal: Signal, handling: Handling, *, alert_id: UUID, now: datetime
) -> Alert | None:
    """Return the alert after `signal`; None if no alert exists or it cleared within its on-delay.

    `alert`: latest alert of the key, open or closed. `alert_id`: id for a new alert. Repeated and older
    signals change nothing.
    """
    if alert is not None and signal.time < alert.signalled_at:
        return alert
    if alert is None or alert.closed_at is not None:
        repeated = alert is not None and signal.time == alert.signalled_at
        if repeated or not signal.active:
            return alert
        alert = _begin(signal, handling, alert_id, now)
    if signal.active == alert.active:
        # The condition changed back within its delay.
        alert = replace(alert, due_at=None)
        if alert.occurrences == 0:
            return None
    else:
        alert = _schedule(alert, signal, handling, now)
    if signal.active:
        alert = _updated(alert, signal, handling)
    return alert


def _begin(signal: Signal, handling: Handling, alert_id: UUID, now: datetime) -> Alert:
    return Alert(
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


def _schedule(alert: Alert, signal: Signal, handling: Handling, now: datetime) -> Alert:
    """Apply a change of the condition at once, or schedule it if the condition has a delay."""
    if alert.due_at is not None:
        return _end_delay(alert, now)  # a repetition: the delay runs from the first signal
    delay_s = handling.on_delay_s if signal.active else handling.off_delay_s
    due_at = signal.time + timedelta(seconds=delay_s)
    return _end_delay(replace(alert, due_at=due_at, signalled_at=signal.time), now if delay_s else due_at)


def _end_delay(alert: Alert, now: datetime) -> Alert:
    """Apply the pending change of the condition if its delay is over."""
    if alert.due_at is None or alert.due_at > now:
        return alert
    since = alert.signalled_at
    if alert.active:
        # Operators never saw a suppressed alert, so there is nothing to acknowledge.
        seen = alert.acknowledged or alert.suppressed_by is not None
        return replace(
            alert, active=False, acknowledged=seen, due_at=None, cleared_at=since, suppressed_by=None
        )
    return replace(
        alert,
        active=True,
        acknowledged=False,
        occurrences=alert.occurrences + 1,
        due_at=None,
        last_raised_at=since,
    )


def _updated(alert: Alert, signal: Signal, handling: Handling) -> Alert:
    """Update the alert with the details of an active condition."""
    return replace(
        alert,
        severity=signal.severity,
        priority=handling.priority,
        title=signal.title,
        action=signal.action,
        field_id=signal.field_id,
        finding_id=signal.finding_id,
        suppressed_by=signal.suppressed_by,
    )


def after_time(alert: Alert, now: datetime, *, rest_s: float) -> Alert:
    """Apply the passage of time: end delays and shelving, close after `rest_s` in the normal state."""
    alert = _end_delay(alert, now)
    if alert.shelved_until is not None and alert.shelved_until <= now:
        alert = _unshelved(alert)
    rests_since = max(filter(None, (alert.cleared_at, alert.acknowledged_at)), default=now)
    if alert.state is AlertState.NORMAL and (now - rests_since).total_seconds() >= rest_s:
        alert = replace(alert, closed_at=now)
    return alert


def acknowledge(alert: Alert, actor: str, now: datetime) -> Alert:
    """Acknowledge the alert; return it unchanged if it is acknowledged already."""
    _require_open(alert)
    if alert.acknowledged:
        return alert
    return replace(alert, acknowledged=True, acknowledged_at=now, acknowledged_by=actor)


def unacknowledge(alert: Alert) -> Alert:
    """Withdraw an acknowledgement."""
    _require_open(alert)
    return replace(alert, acknowledged=False, acknowledged_at=None, acknowledged_by=None)


def shelve(alert: Alert, actor: str, until: datetime, reason: str, now: datetime, *, max_s: float) -> Alert:
    """Hide the alert until `until`; raise InvalidInput if `until` is past or too far ahead."""
    _require_open(alert)
    if alert.out_of_service_by is not None:
        raise Conflict(
            f"alert {alert.alert_id} is out of service", fix="return it to service before shelving it"
        )
    if until <= now:
        raise InvalidInput("the time until which to shelve is in the past", fix="give a later time")
    if (until - now).total_seconds() > max_s:
        raise InvalidInput(
            f"shelving for more than {max_s / 3600:g} h is not allowed",
            fix="shelve it for less, or take the alert out of service",
        )
    return replace(alert, shelved_until=until, shelved_by=actor, shelve_reason=reason)


def unshelve(alert: Alert) -> Alert:
    """End the shelving; raise Conflict if the alert is not shelved."""
    _require_open(alert)
    if alert.shelved_until is None:
        raise Conflict(f"alert {alert.alert_id} is not shelved", fix="get its current state first")
    return _unshelved(alert)


def _unshelved(alert: Alert) -> Alert:
    return replace(alert, shelved_until=None, shelved_by=None, shelve_reason=None)


def take_out_of_service(alert: Alert, actor: str, reason: str) -> Alert:
    """Hide the alert until it is returned to service; this ends a shelving."""
    _require_open(alert)
    if alert.out_of_service_by is not None:
        return alert
    return replace(_unshelved(alert), out_of_service_by=actor, out_of_service_reason=reason)


def return_to_service(alert: Alert) -> Alert:
    """Return the alert to service; raise Conflict if it is in service."""
    _require_open(alert)
    if alert.out_of_service_by is None:
        raise Conflict(f"alert {alert.alert_id} is in service", fix="get its current state first")
    return replace(alert, out_of_service_by=None, out_of_service_reason=None)


def assign(alert: Alert, assignee: str | None) -> Alert:
    """Assign the alert to a person, or to nobody (None)."""
    _require_open(alert)
    return replace(alert, assignee=assignee)


def close(alert: Alert, actor: str, now: datetime) -> Alert:
    """Close the alert, and acknowledge it for `actor` if necessary.

    Raise Conflict while the condition of a pump is active, because the next signal would open it again.
    Platform alerts can be closed at any time: the event that clears them may never arrive.
    """
    _require_open(alert)
    if alert.active and alert.source != "platform":
        raise Conflict(
            f"alert {alert.alert_id} is active: {alert.condition}",
            fix="shelve it, take it out of service, or close it when it has cleared",
        )
    alert = acknowledge(_unshelved(alert), actor, now)
    if alert.active:
        alert = replace(alert, active=False, cleared_at=now)
    return replace(alert, due_at=None, closed_at=now, closed_by=actor)


def _require_open(alert: Alert) -> None:
    if alert.closed_at is not None:
        raise Conflict(f"alert {alert.alert_id} is closed", fix="use the open alert of this condition")
