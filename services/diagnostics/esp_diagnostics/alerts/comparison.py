"""Compare two versions of an alert: transitions to log and announce, and notices to send."""

from esp_diagnostics.alerts.model import Alert, Notice, TransitionKind, rank


def changes(before: Alert | None, after: Alert) -> list[TransitionKind]:
    """Return the transitions between two versions of an alert, in the order of announcement."""
    was_active = before is not None and before.active
    found = []
    if after.active != was_active:
        found.append(TransitionKind.RAISED if after.active else TransitionKind.CLEARED)
    if before is None:
        return found + ([TransitionKind.SUPPRESSED] if after.active and after.suppressed_by else [])
    graded = (before.priority, before.severity) != (after.priority, after.severity)
    if graded and after.active and was_active:
        found.append(TransitionKind.CHANGED)
    if after.acknowledged_at != before.acknowledged_at:
        found.append(TransitionKind.ACKNOWLEDGED if after.acknowledged else TransitionKind.UNACKNOWLEDGED)
    found += _hiding_changes(before, after)
    if after.assignee != before.assignee:
        found.append(TransitionKind.ASSIGNED)
    if after.closed_at is not None and before.closed_at is None:
        found.append(TransitionKind.CLOSED)
    return found


def _hiding_changes(before: Alert, after: Alert) -> list[TransitionKind]:
    found = []
    if after.shelved_until != before.shelved_until:
        found.append(TransitionKind.SHELVED if after.shelved_until else TransitionKind.UNSHELVED)
    if after.suppressed_by != before.suppressed_by and after.active:
        found.append(TransitionKind.SUPPRESSED if after.suppressed_by else TransitionKind.UNSUPPRESSED)
    if after.out_of_service_by != before.out_of_service_by:
        found.append(TransitionKind.OUT_OF_SERVICE if after.out_of_service_by else TransitionKind.IN_SERVICE)
    return found


def notice(before: Alert | None, after: Alert) -> Notice | None:
    """Return the reason to notify people of a change, if any."""
    was = before is not None and before.annunciated
    if after.annunciated and not was and not after.acknowledged:
        return Notice.RAISED
    if before is not None and was and after.annunciated:
        return Notice.ESCALATED if rank(after.priority) > rank(before.priority) else None
    if was and not after.active and after.closed_at is None:
        return Notice.CLEARED
    return None


def in_flood(raised: int, *, was_in_flood: bool, begins_above: int, ends_below: int) -> bool:
    """Return whether a field is in an alert flood (ISA-18.2 §16), given its alerts in the window."""
    return raised >= ends_below if was_in_flood else raised > begins_above


def notified_in_flood(priority: str) -> bool:
    """Return whether an alert of this priority is notified individually during a flood."""
    return priority in ("high", "critical")
