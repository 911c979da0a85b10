"""Alarms of the platform itself, from what its other services say of backups and the archive."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from esp_common.contracts.events import Event

from esp_diagnostics.alerts.lifecycle import Signal


class _Meaning(NamedTuple):
    condition: str
    active: bool
    title: str
    action: str


_BACKUP_ACTION: Final = (
    "See the backup worker's log and its storage; run one by hand when the cause is mended."
)
_MEANINGS: Final[Mapping[str, _Meaning]] = {
    "backup.failed": _Meaning("backup_failed", True, "A backup failed", _BACKUP_ACTION),
    "backup.completed": _Meaning("backup_failed", False, "Backups work", ""),
    "backup.drill-failed": _Meaning(
        "backup_drill_failed",
        True,
        "A restore drill failed",
        "Do not rely on this backup: find out why before an older one expires.",
    ),
    "backup.drill-passed": _Meaning("backup_drill_failed", False, "Restore drills pass", ""),
    "archive.failed": _Meaning(
        "archive_failed",
        True,
        "The archive could not be written",
        "See the archiver's log and its storage; nothing is dropped from the database meanwhile.",
    ),
    "archive.completed": _Meaning("archive_failed", False, "The archive is written", ""),
    "archive.damaged": _Meaning(
        "archive_damaged",
        True,
        "An archive object is damaged",
        "Restore an older version or a copy of the object, then run esp-archiver verify.",
    ),
    "archive.repaired": _Meaning("archive_damaged", False, "The archive object was read well", ""),
    "maintenance.behind": _Meaning(
        "aggregates_behind",
        True,
        "Aggregates are behind: trends lack late readings",
        "See the log of ingest-maintenance and its database.",
    ),
    "maintenance.current": _Meaning("aggregates_behind", False, "Aggregates are current", ""),
    "maintenance.jobs-failing": _Meaning(
        "timescaledb_jobs_failing",
        True,
        "TimescaleDB background jobs fail",
        "Maintenance refreshes and converts by itself; see timescaledb_information.job_errors.",
    ),
    "maintenance.jobs-working": _Meaning("timescaledb_jobs_failing", False, "TimescaleDB jobs work", ""),
}
_SUBJECTS: Final[Mapping[str, str]] = {
    "backup.failed": "kind",
    "backup.completed": "kind",
    "archive.damaged": "object",
    "archive.repaired": "object",
}
"""What tells apart alerts of one condition: where there is none, there is one alert."""

MAX_SUBJECT: Final = 256
MAX_NAME: Final = 120
_REASONS: Final = ("reason", "problem", "error", "detail")
_LONGEST_REASON: Final = 200


def signal_of(event: Event) -> Signal | None:
    """Return what an event of the platform signals; None when it is nothing to raise an alarm for.

    A success ends only the alert of the same kind of backup, or of the same object of the archive.
    """
    meaning = _MEANINGS.get(event.type)
    if meaning is None:
        return None
    data = event.data if isinstance(event.data, Mapping) else {}
    return Signal(
        pump_id=None,
        field_id=None,
        condition=meaning.condition,
        source="platform",
        active=meaning.active,
        severity="high",
        time=event.time,
        title=_title(meaning, data),
        action=meaning.action,
        subject=_subject(event.type, data),
    )


def _subject(type_: str, data: Mapping[str, Any]) -> str:
    name = _SUBJECTS.get(type_)
    subject = data.get(name) if name else None
    return subject[:MAX_SUBJECT] if isinstance(subject, str) else ""


def _title(meaning: _Meaning, data: Mapping[str, Any]) -> str:
    kind = data.get("kind") or data.get("object")
    reason = next((data[name] for name in _REASONS if isinstance(data.get(name), str)), "")
    kind_word = f" ({kind})"[:MAX_NAME] if isinstance(kind, str) else ""
    return f"{meaning.title}{kind_word}{f': {reason[:_LONGEST_REASON]}' if reason else ''}"
