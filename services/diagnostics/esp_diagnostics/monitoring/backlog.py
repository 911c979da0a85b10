"""Live readings and those of the past, told apart: which pumps have a backlog, and whose turn it is.

A pump whose readings are more than a round judges has a backlog. Its newest readings are judged live all the
same; what came before is judged from the store beside them, slice by slice, in turns with other pumps.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from esp_common.contracts.readings import Readings

from esp_diagnostics.physics.arrays import Bools

MAX_LIVE_READINGS: Final = 30
"""Most readings of one pump that a round judges."""

LIVE_INTERVALS: Final = 5
LIVE_LEAST_S: Final = 10.0
LIVE_MOST_S: Final = 1800.0

CHUNK_READINGS: Final = 3
"""Most readings of each pump that are judged before the live ones get their turn again: 20 ms for 60 pumps.
More at a time is no faster: the cost is that of a step of the tree, which all pumps take side by side."""

EARLIER_LEAST_US: Final = 60_000_000
"""By how much readings must come before all that was judged of their pump to be judged after it."""

STEP_US: Final = 60_000_000
"""Past readings that are judged together lie within one minute: what follows is dated to the minute."""

FIRST_SPAN_US: Final = 600_000_000
MAX_SPAN_US: Final = 30 * 86_400_000_000

Integers = np.ndarray


class Division(NamedTuple):
    """Which rows (n,) are judged now; and, by pump, the first and last times (µs) of those that are not."""

    live: Bools
    past: Mapping[str, tuple[int, int]]


def live_span_us(interval_s: float | None, unknown_s: float) -> int:
    """Return how old a pump's reading may be to count as live."""
    span_s = LIVE_INTERVALS * (interval_s or unknown_s)
    return int(1e6 * min(max(span_s, LIVE_LEAST_S), LIVE_MOST_S))


def divide(
    readings: Readings,
    behind: Collection[str],
    through_us: Callable[[str], int | None],
    live_since_us: Callable[[str], int],
) -> Division:
    """Divide readings into those to be judged now and those that join, or make, a backlog.

    `behind`: pumps with a backlog. `through_us`: a pump's newest judged reading; None: it is not watched.
    """
    live = np.ones(len(readings), dtype=np.bool_)
    past: dict[str, tuple[int, int]] = {}
    pumps, places = np.unique(readings.pump_id.astype(str), return_inverse=True)
    order = np.argsort(places, kind="stable")
    for pump_id, rows in zip(
        pumps.tolist(),
        np.split(order, np.cumsum(np.bincount(places))[:-1]) if len(order) else (),
        strict=True,
    ):
        judged_us = through_us(pump_id)
        if judged_us is None:
            continue
        times = readings.time_us[rows]
        if pump_id not in behind and int((times > judged_us).sum()) <= MAX_LIVE_READINGS:
            continue
        newest = rows[np.argsort(times, kind="stable")][-MAX_LIVE_READINGS:]
        kept = newest[readings.time_us[newest] >= live_since_us(pump_id)]
        live[rows] = False
        live[kept] = True
        waiting = readings.time_us[rows[~live[rows]]]
        if len(waiting):
            past[pump_id] = (int(waiting.min()), int(waiting.max()))
    return Division(live, past)


def first_times(readings: Readings) -> dict[str, int]:
    """Return the time (µs) of the first reading of each pump."""
    order = np.argsort(readings.time_us, kind="stable")[::-1]
    return dict(zip(readings.pump_id[order].tolist(), readings.time_us[order].tolist(), strict=True))


def chunks(pump_ids: Integers, times_us: Integers) -> Integers:
    """Return the number of the chunk that each reading (n,), in order of time, is judged in.

    Pumps side by side: the first chunk of each, the second of each, and so on.
    """
    _, places = np.unique(pump_ids.astype(str), return_inverse=True)
    order = np.lexsort((times_us, places))
    place, minute = places[order], times_us[order] // STEP_US
    n = len(order)
    first = np.flatnonzero(np.diff(place, prepend=-1))
    begin = np.repeat(first, np.diff(first, append=n))
    position = (np.arange(n) - begin) // CHUNK_READINGS
    breaks = (np.diff(minute, prepend=0) != 0) | (np.diff(position, prepend=0) != 0)
    breaks[first] = False
    total = np.cumsum(breaks)
    numbers = np.empty(n, dtype=np.int64)
    numbers[order] = total - total[begin] if n else total
    return numbers


@dataclass(slots=True)
class Backlog:
    """Readings of one pump that wait: those after `judged_us`, up to `until_us`.

    `body`: the state to go on from, until `begun`. What followed from readings up to `recorded_us` may be on
    record already, from before a restart. `noted_at_s`: when a reading joined it last;
    `served_at_s`: when it had its turn last (both by a clock that never goes back). `since_us`: after which
    time it is judged without an earlier state, None where it goes on from one. `span_us`: how much of the
    past is read at a time.
    """

    pump_id: str
    partition: int
    judged_us: int
    until_us: int
    body: bytes | None = None
    recorded_us: int = 0
    noted_at_s: float = 0.0
    served_at_s: float = float("-inf")
    since_us: int | None = None
    begun: bool = False
    span_us: int = FIRST_SPAN_US

    @property
    def pending(self) -> bool:
        """Whether there is something left to judge."""
        return self.judged_us < self.until_us

    def advance(self, read_until_us: int, last_us: int | None, count: int, limit: int) -> None:
        """Note that what was read, up to `limit` readings, is judged, and read more or less the next time."""
        full = count >= limit and last_us is not None
        self.judged_us = max(self.judged_us, last_us if full and last_us is not None else read_until_us)
        if full:
            self.span_us = max(self.span_us // 2, 1_000_000)
        elif count < limit // 4:
            self.span_us = min(self.span_us * 2, MAX_SPAN_US)

    def meet(self, live_us: int, count: int) -> bool:
        """Let the backlog end at the newest live reading, which is `count` readings further.

        Return whether they are few enough for one turn; otherwise they are judged like the rest of it.
        """
        self.until_us = live_us
        if count < MAX_LIVE_READINGS:
            self.judged_us = live_us
        return not self.pending


@dataclass(slots=True)
class Backlogs:
    """The backlogs of a worker's pumps. `settle_s`: quiet time after which one that is judged is over."""

    settle_s: float
    _by_pump: dict[str, Backlog] = field(default_factory=dict)

    def __contains__(self, pump_id: object) -> bool:
        """Whether a pump has a backlog."""
        return pump_id in self._by_pump

    def __len__(self) -> int:
        """Return how many pumps have one."""
        return len(self._by_pump)

    @property
    def pump_ids(self) -> Collection[str]:
        """The pumps with a backlog."""
        return self._by_pump.keys()

    def get(self, pump_id: str) -> Backlog | None:
        """Return the backlog of a pump, if it has one."""
        return self._by_pump.get(pump_id)

    def longest_us(self) -> int:
        """Return the longest span of readings of one pump that wait."""
        return max((each.until_us - each.judged_us for each in self._by_pump.values()), default=0)

    def add(self, backlog: Backlog) -> None:
        """Take one that begins, or is found stored."""
        self._by_pump[backlog.pump_id] = backlog

    def extend(self, pump_id: str, after_us: int, last_us: int, now_s: float) -> Backlog:
        """Have more readings wait, after `after_us` and up to `last_us`."""
        backlog = self._by_pump[pump_id]
        backlog.until_us = max(backlog.until_us, last_us)
        backlog.noted_at_s = now_s
        if backlog.body is None and not backlog.begun:
            backlog.judged_us = min(backlog.judged_us, after_us)
        return backlog

    def forget(self, pump_ids: Iterable[str]) -> None:
        """Drop the backlogs of pumps."""
        for pump_id in pump_ids:
            self._by_pump.pop(pump_id, None)

    def of_partition(self, partition: int) -> list[Backlog]:
        """Return those of a partition's pumps."""
        return [backlog for backlog in self._by_pump.values() if backlog.partition == partition]

    def due(self, partitions: Collection[int], most: int) -> list[Backlog]:
        """Return the backlogs whose turn it is, those served longest ago first."""
        waiting = [each for each in self._by_pump.values() if each.pending and each.partition in partitions]
        return sorted(waiting, key=lambda backlog: backlog.served_at_s)[:most]

    def settled(self, partitions: Collection[int], now_s: float) -> list[Backlog]:
        """Return those that are judged, and that no reading has joined for a while."""
        return [
            each
            for each in self._by_pump.values()
            if not each.pending and each.partition in partitions and now_s - each.noted_at_s >= self.settle_s
        ]
