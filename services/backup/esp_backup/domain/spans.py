"""The spans of time that the database can be put back to, and the holes between them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from esp_backup.domain.physical import Physical, usable
from esp_backup.domain.wal import SEGMENT_BYTES, segment_end


@dataclass(frozen=True, slots=True)
class Hole:
    """A time that the database cannot be put back to: `segments` of the log are missing from `first` on.

    `begin`: when the last segment before it was archived; `end`: when the next backup ended.
    """

    begin: datetime
    end: datetime
    first_segment: str
    segments: int


def segment_number(name: str) -> int | None:
    """Return the number of a segment, which its timelines share; None for the name of something else."""
    end = segment_end(name)
    return None if end is None else end // SEGMENT_BYTES - 1


def holes(backups: Iterable[Physical], archived: Mapping[str, datetime]) -> list[Hole]:
    """Return the holes between the first backup and the newest segment, oldest first.

    `archived`: the segments in any repository, with the time of each; a restore takes each from wherever it
    is. A hole before which there is no backup, or that a later backup bridges without a moment lost, is
    none.
    """
    times = _by_number(archived)
    starts = _starts(backups)
    if not times or not starts:
        return []
    found = []
    for first, last in _missing(times, min(start for start, _ in starts)):
        following = [ended_at for start, ended_at in starts if start > last]
        before = times.get(first - 1)
        if before is None:
            continue
        end = min(following, default=None)
        if end is None:
            end = max(times.values())
        if end > before:
            found.append(Hole(before, end, _name(archived, first), last - first + 1))
    return _merged(found)


def hole_at(moment: datetime, found: Iterable[Hole]) -> Hole | None:
    """Return the hole that a moment lies in."""
    return next((hole for hole in found if hole.begin < moment < hole.end), None)


def _by_number(archived: Mapping[str, datetime]) -> dict[int, datetime]:
    """Return the time of each number, the newest where several timelines have it."""
    times: dict[int, datetime] = {}
    for name, at in archived.items():
        number = segment_number(name)
        if number is not None:
            times[number] = max(at, times.get(number, at))
    return times


def _starts(backups: Iterable[Physical]) -> list[tuple[int, datetime]]:
    starts = [(segment_number(each.first_wal), each.ended_at) for each in usable(backups)]
    return [(number, ended_at) for number, ended_at in starts if number is not None]


def _missing(times: Mapping[int, datetime], first: int) -> list[tuple[int, int]]:
    """Return the first and last number of each run of missing segments after `first`."""
    present = sorted(number for number in times if number >= first)
    runs = [(first, present[0] - 1)] if present and present[0] > first else []
    return runs + [(low + 1, high - 1) for low, high in pairwise(present) if high > low + 1]


def _merged(found: Iterable[Hole]) -> list[Hole]:
    """Join holes that overlap: between them no backup was taken."""
    merged: list[Hole] = []
    for hole in sorted(found, key=lambda each: each.begin):
        if merged and hole.begin < merged[-1].end:
            last = merged.pop()
            hole = Hole(
                last.begin, max(last.end, hole.end), last.first_segment, last.segments + hole.segments
            )
        merged.append(hole)
    return merged


def _name(archived: Mapping[str, datetime], number: int) -> str:
    """Return the name that segment `number` would have on the newest timeline there is."""
    timeline = max(name[:8] for name in archived)
    segments_a_log = (1 << 32) // SEGMENT_BYTES
    return f"{timeline}{number // segments_a_log:08X}{number % segments_a_log:08X}"
