"""Physical backups: full ones, and what was added to them since."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

FULL: Final = "full"
DIFF: Final = "diff"
INCR: Final = "incr"
TYPES: Final = (FULL, DIFF, INCR)


@dataclass(frozen=True, slots=True)
class Physical:
    """A physical backup: when it began and ended, bytes of the database and of the repository.

    `type`: full; diff (changes since the full one) or incr (since the backup before), which need others of
    their set. `held`: why it is exempt from retention; None: it is not.
    """

    place: str
    label: str
    type: str
    started_at: datetime
    ended_at: datetime
    bytes: int
    stored_bytes: int
    damaged: bool
    first_wal: str
    last_wal: str
    held: str | None = None

    @property
    def set_label(self) -> str:
        """Label of the full backup that this one needs, or is."""
        return self.label.split("_")[0]


def usable(backups: Iterable[Physical]) -> list[Physical]:
    """Return the backups that can be restored: neither they nor the full one they need is damaged."""
    found = list(backups)
    damaged = {(each.place, each.label) for each in found if each.damaged}
    return [each for each in found if not each.damaged and (each.place, each.set_label) not in damaged]


@dataclass(frozen=True, slots=True)
class Expiry:
    """What may go from a repository: the full backups `gone`, with all that needs them, and WAL.

    `fulls_with_wal`: the newest that many full backups that stay keep the WAL after them; older ones, which
    are held, only what makes them consistent.
    """

    gone: tuple[str, ...]
    fulls_with_wal: int


def expiry(
    backups: Iterable[Physical], now: datetime, *, age: timedelta | None = None, count: int = 1
) -> Expiry:
    """Return what the policy lets go of one repository's backups; held ones stay, whatever it says.

    `age`: keep what a restore to any moment of that time needs: the newest full backup that is older, and
    all that are newer. None: keep the newest `count` full backups. A damaged one counts for nothing.
    """
    found = sorted(backups, key=lambda each: each.ended_at, reverse=True)
    held = {each.set_label for each in found if each.held is not None}
    good = {each.label for each in usable(found)}
    gone, with_wal, enough = [], 0, 0
    for full in (each for each in found if each.type == FULL):
        if enough >= max(count, 1):
            if full.label not in held:
                gone.append(full.label)
            continue
        with_wal += 1
        enough += full.label in good and (age is None or now - full.ended_at > age)
    return Expiry(tuple(reversed(gone)), max(with_wal, 1))
