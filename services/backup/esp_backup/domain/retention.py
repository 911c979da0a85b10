"""Which backups may go: never the last good one, whatever the policy says."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup there is; `good`: nothing is known to be wrong with it."""

    name: str
    taken_at: datetime
    good: bool = True


def beyond_count(backups: Iterable[Kept], count: int) -> list[str]:
    """Return the names of those with at least `count` (1 or more) good ones that are newer, oldest first.

    A damaged one does not count: it does not push out one that can be restored.
    """
    gone, good = [], 0
    for backup in _newest_first(backups):
        if good >= max(count, 1):
            gone.append(backup.name)
        good += backup.good
    return gone[::-1]


def beyond_age(backups: Iterable[Kept], age: timedelta, now: datetime) -> list[str]:
    """Return the names of those older than `age` that have a good one that is newer, oldest first."""
    gone, good = [], 0
    for backup in _newest_first(backups):
        if good and now - backup.taken_at > age:
            gone.append(backup.name)
        good += backup.good
    return gone[::-1]


def _newest_first(backups: Iterable[Kept]) -> list[Kept]:
    return sorted(backups, key=lambda backup: backup.taken_at, reverse=True)
