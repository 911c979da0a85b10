"""Platform alerts, derived from events of the backup, archive and maintenance services."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from esp_common.contracts.events import Event

from esp_diagnostics.alerts.model import Signal


class _Condition(NamedTuple):
    name: str
    active: bool
    title: str
    action: str


_BACKUP_ACTION: Final = (
    "See the log of the backup worker and its storage; start a backup by hand once the cause is fixed."
)
_CONDITIONS: Final[Mapping[str, _Condition]] = {
    "backup.failed": _Condition("backup_failed", True, "A backup failed", _BACKUP_ACTION),
    "backup.completed": _Condition("backup_failed", False, "Backups work", ""),
    "backup.drill-failed": _Condition(
        "backup_drill_failed",
        True,
        "A restore drill failed",
        "Do not rely on this backup: find the cause before an older one expires.",
    ),
    "backup.drill-passed": _Condition("backup_drill_failed", False, "Restore drills pass", ""),
    "archive.failed": _Condition(
        "archive_failed",
        True,
        "The archive could not be written",
        "See the archiver's log and its storage; nothing is dropped from the database meanwhile.",
    ),
    "archive.completed": _Condition("archive_failed", False, "The archive is written", ""),
    "archive.damaged": _Condition(
        "archive_damaged",
        True,
        "An archive object is damaged",
        "Restore an older version or a copy of the object, then run esp-archiver verify.",
    ),
    "archive.repaired": _Condition("archive_damaged", False, "The archive object is readable again", ""),
    "maintenance.behind": _Condition(
        "aggregates_behind",
        True,
        "Aggregates are behind: trends lack late readings",
        "See the log of ingest-maintenance and its database.",
    ),
    "maintenance.current": _Condition("aggregates_behind", False, "Aggregates are current", ""),
    "maintenance.jobs-failing": _Condition(
        "timescaledb_jobs_failing",
        True,
        "TimescaleDB background jobs fail",
        "Maintenance refreshes and converts without the jobs; see timescaledb_information.job_errors.",
    ),
    "maintenance.jobs-working": _Condition("timescaledb_jobs_failing", False, "TimescaleDB jobs succeed", ""),
}
_SUBJECTS: Final[Mapping[str, str]] = {
    "backup.failed": "kind",
    "backup.completed": "kind",
    "archive.damaged": "object",
    "archive.repaired": "object",
}
"""Field of the event that separates alerts of one condition; without it, one alert covers all."""

MAX_SUBJECT_LENGTH: Final = 256
MAX_NAME_LENGTH: Final = 120
_REASONS: Final = ("reason", "problem", "error", "detail")
MAX_REASON_LENGTH: Final = 200


def platform_signal(event: Event) -> Signal | None:
    """Return the signal of a platform event, or None for events that concern no alert.

    A success clears only the alert of the same kind of backup, or of the same archive object.
    """
    condition = _CONDITIONS.get(event.type)
    if condition is None:
        return None
    data = event.data if isinstance(event.data, Mapping) else {}
    return Signal(
        pump_id=None,
        field_id=None,
        condition=condition.name,
        source="platform",
        active=condition.active,
        severity="high",
        time=event.time,
        title=_title(condition, data),
        action=condition.action,
        subject=_subject(event.type, data),
    )


def _subject(type_: str, data: Mapping[str, Any]) -> str:
    name = _SUBJECTS.get(type_)
    subject = data.get(name) if name else None
    return subject[:MAX_SUBJECT_LENGTH] if isinstance(subject, str) else ""


def _title(condition: _Condition, data: Mapping[str, Any]) -> str:
    kind = data.get("kind") or data.get("object")
    reason = next((data[name] for name in _REASONS if isinstance(data.get(name), str)), "")
    kind_word = f" ({kind})"[:MAX_NAME_LENGTH] if isinstance(kind, str) else ""
    return f"{condition.title}{kind_word}{f': {reason[:MAX_REASON_LENGTH]}' if reason else ''}"
