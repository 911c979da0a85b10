"""The span of time that the database can be put back to."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from esp_common.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Window:
    """From the end of the oldest full backup to what the archive covers; None where there is nothing."""

    begin: datetime | None
    end: datetime | None

    def require(self, moment: datetime) -> None:
        """Raise InvalidInput unless the database can be put back to `moment`."""
        if self.begin is None:
            raise InvalidInput("there is no full backup", fix="take one: esp-backup now full")
        if moment < self.begin or (self.end is not None and moment > self.end):
            span = f"{self.begin.isoformat()} to {self.end.isoformat() if self.end else 'latest'}"
            raise InvalidInput(
                f"{moment.isoformat()} is outside the recovery window", fix=f"name a time from {span}"
            )


def recovery_window(full_ends: Iterable[datetime], covered_until: datetime | None) -> Window:
    """Return the window of full backups that ended at these times, with the log up to `covered_until`."""
    begin = min(full_ends, default=None)
    if begin is None:
        return Window(None, None)
    return Window(begin, max(begin, covered_until) if covered_until else None)
