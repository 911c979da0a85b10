"""Parse the report of `pgbackrest verify`, whose exit status is 0 whatever it found."""

import re
from typing import Final

from esp_common.errors import EspError

_STATUS: Final = re.compile(r"^status: (\w+)", re.MULTILINE)
_BACKUP: Final = re.compile(r"^\s*backup: (\S+), status: ([\w ]+)")
_COUNT: Final = re.compile(r"(missing|checksum invalid|size invalid|other): ([1-9]\d*)")
_DAMAGED_SEGMENT: Final = re.compile(r"invalid \w+ \S*?/([0-9A-F]{24})-[0-9a-f]{40}")
MAX_NAMED: Final = 10


class UnknownReport(EspError):
    """pgBackRest's report is not of the form known here."""

    code, status, title = "unknown-report", 500, "Report of pgBackRest not understood"


def problems(report: str, messages: str = "") -> dict[str, str]:
    """Return what a verbose report of `verify` finds wrong: by backup label, or `wal` for the archive.

    `messages`: what it logged, which names the damaged segments that the report only counts.
    Raises UnknownReport when the report has no status.
    """
    status = _STATUS.search(report)
    if not status:
        raise UnknownReport("pgbackrest verify printed no status", fix="see its log in the state folder")
    found: dict[str, str] = {}
    subject = "wal"
    for line in report.splitlines():
        if backup := _BACKUP.match(line):
            subject = backup[1]
            if backup[2].strip() != "valid":
                found[subject] = backup[2].strip()
        elif "archiveId:" in line:
            subject = "wal"
        if counts := _COUNT.findall(line):
            said = ", ".join(f"{number} {what}" for what, number in counts)
            found[subject] = f"{found[subject]}: {said}" if subject in found else said
    if segments := damaged_segments(messages):
        named = ", ".join(segments[:MAX_NAMED])
        more = f" and {len(segments) - MAX_NAMED} more" if len(segments) > MAX_NAMED else ""
        found["wal"] = f"{found.get('wal', 'damaged')}: segment {named}{more}"
    if status[1] != "ok" and not found:
        found["repository"] = report.strip().splitlines()[-1].strip()
    return found


def damaged_segments(messages: str) -> list[str]:
    """Return the names of the WAL segments that the messages of `verify` call invalid, in their order."""
    return sorted(set(_DAMAGED_SEGMENT.findall(messages)))
