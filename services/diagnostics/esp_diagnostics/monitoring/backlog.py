"""Separate live readings from backlogs, and schedule the evaluation of backlogs.

A pump with more readings than a round evaluates has a backlog. Its newest readings are evaluated live; the
earlier ones are read from the store and evaluated beside them, slice by slice, in turns with other pumps.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from esp_common.contracts.readings import Readings

from esp_diagnostics.physics.arrays import Bools

MAX_LIVE_READINGS: Final = 30
"""Maximum readings of one pump per round."""

LIVE_INTERVALS: Final = 5
LIVE_LEAST_S: Final = 10.0
LIVE_MOST_S: Final = 1800.0

CHUNK_READINGS: Final = 3
"""Maximum readings of each pump evaluated before live ones have their turn: 20 ms for 60 pumps.

Larger chunks are not faster: the cost is that of one step of the tree, which all pumps share.
"""

EARLIER_LEAST_US: Final = 60_000_000
"""Minimum distance before all evaluated readings of a pump for earlier readings to form a backlog."""

STEP_US: Final = 60_000_000
"""Readings of a backlog evaluated together lie within one minute, the resolution of their effects."""

FIRST_SPAN_US: Final = 600_000_000
MAX_SPAN_US: Final = 30 * 86_400_000_000

Integers = np.ndarray


class Division(NamedTuple):
    """Rows (n,) to evaluate now; and, by pump, the first and last times (µs) of the others."""

    live: Bools
    past: Mapping[str, tuple[int, int]]


def live_span_us(interval_s: float | None, unknown_s: float) -> int:
    """Return the maximum age of a pump's live readings."""
    span_s = LIVE_INTERVALS * (interval_s or unknown_s)
    return int(1e6 * min(max(span_s, LIVE_LEAST_S), LIVE_MOST_S))


def divide(
    readings: Readings,
    behind: Collection[str],
    through_us: Callable[[str], int | None],
    live_since_us: Callable[[str], int],
) -> Division:
    """Divide readings into those to evaluate now and those that join, or start, a backlog.

    `behind`: pumps with a backlog. `through_us`: newest evaluated reading of a pump; None: not monitored.
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
    """Return the chunk number of each reading (n,), in order of time.

    Pumps are evaluated side by side: the first chunk of each, then the second, and so on.
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
    """Pending readings of one pump: those after `judged_us`, up to `until_us`.

    `body`: state to start from, until `begun`. `recorded_us`: effects of readings up to here may be recorded
    already, from before a restart. `noted_at_s`: when a reading last joined; `served_at_s`: last turn (both
    monotonic clock). `since_us`: time after which it is evaluated without an earlier state, None if it
    continues one. `span_us`: span read at a time.
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
        """Return whether readings are left to evaluate."""
        return self.judged_us < self.until_us

    def advance(self, read_until_us: int, last_us: int | None, count: int, limit: int) -> None:
        """Record that the readings read so far are evaluated, and adapt the span of the next read."""
        full = count >= limit and last_us is not None
        self.judged_us = max(self.judged_us, last_us if full and last_us is not None else read_until_us)
        if full:
            self.span_us = max(self.span_us // 2, 1_000_000)
        elif count < limit // 4:
            self.span_us = min(self.span_us * 2, MAX_SPAN_US)

    def meet(self, live_us: int, count: int) -> bool:
        """Set the end of the backlog to the newest live reading, `count` readings later.

        Return whether these fit into one turn; otherwise they are evaluated like the rest.
        """
        self.until_us = live_us
        if count < MAX_LIVE_READINGS:
            self.judged_us = live_us
        return not self.pending


@dataclass(slots=True)
class Backlogs:
    """Backlogs of a worker's pumps. `settle_s`: quiet time after which an evaluated backlog is finished."""

    settle_s: float
    _by_pump: dict[str, Backlog] = field(default_factory=dict)

    def __contains__(self, pump_id: object) -> bool:
        """Return whether a pump has a backlog."""
        return pump_id in self._by_pump

    def __len__(self) -> int:
        return len(self._by_pump)

    @property
    def pump_ids(self) -> Collection[str]:
        return self._by_pump.keys()

    def get(self, pump_id: str) -> Backlog | None:
        return self._by_pump.get(pump_id)

    def longest_us(self) -> int:
        """Return the longest span of pending readings of one pump."""
        return max((each.until_us - each.judged_us for each in self._by_pump.values()), default=0)

    def add(self, backlog: Backlog) -> None:
        """Add a new or stored backlog."""
        self._by_pump[backlog.pump_id] = backlog

    def extend(self, pump_id: str, after_us: int, last_us: int, now_s: float) -> Backlog:
        """Extend a backlog by readings after `after_us` and up to `last_us`."""
        backlog = self._by_pump[pump_id]
        backlog.until_us = max(backlog.until_us, last_us)
        backlog.noted_at_s = now_s
        if backlog.body is None and not backlog.begun:
            backlog.judged_us = min(backlog.judged_us, after_us)
        return backlog

    def forget(self, pump_ids: Iterable[str]) -> None:
        """Remove the backlogs of pumps."""
        for pump_id in pump_ids:
            self._by_pump.pop(pump_id, None)

    def of_partition(self, partition: int) -> list[Backlog]:
        """Return the backlogs of a partition's pumps."""
        return [backlog for backlog in self._by_pump.values() if backlog.partition == partition]

    def due(self, partitions: Collection[int], most: int) -> list[Backlog]:
        """Return the backlogs to serve next, least recently served first."""
        waiting = [each for each in self._by_pump.values() if each.pending and each.partition in partitions]
        return sorted(waiting, key=lambda backlog: backlog.served_at_s)[:most]

    def settled(self, partitions: Collection[int], now_s: float) -> list[Backlog]:
        """Return the evaluated backlogs that no reading has joined for `settle_s`."""
        return [
            each
            for each in self._by_pump.values()
            if not each.pending and each.partition in partitions and now_s - each.noted_at_s >= self.settle_s
        ]
