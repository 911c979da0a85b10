"""When a kind of work is due."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Instants each `period` apart, the first of a week `offset` after Monday 00:00 UTC."""

    period: timedelta
    offset: timedelta = timedelta()

    def latest(self, now: datetime) -> datetime:
        """Return the newest instant that is not after `now`."""
        since = now - _MONDAY - self.offset
        return _MONDAY + self.offset + (since // self.period) * self.period


def is_due(
    schedule: Schedule,
    now: datetime,
    *,
    last_good: datetime | None,
    last_try: datetime | None,
    retry: timedelta,
) -> bool:
    """Return whether the work has to be begun now.

    `last_good`, `last_try`: when the last run that succeeded, and the last of any outcome, began. What was
    missed while nobody was there is due at once; what failed is tried again `retry` after it began.
    """
    missing = last_good is None or last_good < schedule.latest(now)
    return missing and (last_try is None or now - last_try >= retry)
