"""What pgBackRest says of its repository: its exit status is 0 whatever it found, so its words are read."""

import re
from typing import Final

from esp_common.errors import EspError

_STATUS: Final = re.compile(r"^status: (\w+)", re.MULTILINE)
_BACKUP: Final = re.compile(r"^\s*backup: (\S+), status: ([\w ]+)")
_COUNT: Final = re.compile(r"(missing|checksum invalid|size invalid|other): ([1-9]\d*)")


class UnknownReport(EspError):
    """pgBackRest's report is not of the form known here."""

    code, status, title = "unknown-report", 500, "Report of pgBackRest not understood"


def problems(report: str) -> dict[str, str]:
    """Return what a verbose report of `verify` finds wrong: by backup label, or `wal` for the archive.

    Raises UnknownReport when it says nothing of its status.
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
    if status[1] != "ok" and not found:
        found["repository"] = report.strip().splitlines()[-1].strip()
    return found
