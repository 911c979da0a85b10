"""Positions in the write-ahead log, and what of it is in the archive."""

import re
from collections import deque
from datetime import datetime
from typing import Final, NamedTuple

SEGMENT_BYTES: Final = 16 * 1024 * 1024
MOST_BEATS: Final = 10_000
_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")


def position(lsn: str) -> int:
    """Return the byte that an LSN like `0/1600028` stands for."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def segment_end(name: str, segment_bytes: int = SEGMENT_BYTES) -> int | None:
    """Return the byte after the last of the segment `name`; None for the name of something else."""
    found = _SEGMENT.match(name)
    if not found:
        return None
    _, high, low = (int(part, 16) for part in found.groups())
    return (high << 32) + (low + 1) * segment_bytes


class Beat(NamedTuple):
    """A row written at a known time, and where the log stood after it."""

    position: int
    at: datetime


class Coverage:
    """Which of the beats written are in the archive, and so what a loss of everything now would cost."""

    def __init__(self) -> None:
        self._waiting: deque[Beat] = deque(maxlen=MOST_BEATS)
        self.until: datetime | None = None

    def beat(self, beat: Beat) -> None:
        """Note a beat."""
        self._waiting.append(beat)

    def archived(self, end: int) -> datetime | None:
        """Note that the log is archived up to byte `end`; return the time of the newest beat in there."""
        while self._waiting and self._waiting[0].position <= end:
            self.until = self._waiting.popleft().at
        return self.until
