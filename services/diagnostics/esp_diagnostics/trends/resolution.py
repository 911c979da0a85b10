"""Choose the stored resolution of a trend within a number of points; trend as columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import numpy as np
from esp_common.errors import InvalidInput

from esp_diagnostics.physics.arrays import Floats

ORIGIN: Final = datetime(2001, 1, 1, tzinfo=UTC)
"""Origin of all buckets, a Monday: weeks start on Mondays, shorter buckets at midnight."""

FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Bounds of time stamps; within them every time can be rounded to any bucket."""

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
WIDTHS_S: Final = (
    *(minutes * MINUTE_S for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * HOUR_S for hours in (1, 2, 3, 6, 12)),
    *(days * DAY_S for days in (1, 2, 7, 14, 28, 56, 112, 224, 448, 896)),
)
"""Bucket widths that are easy to read, seconds."""

COARSER_SUFFICES: Final = 4
"""Use a coarser stored resolution if it still yields 1/4 of the points, because it reads much faster."""

UNKNOWN_INTERVAL_S: Final = 1.0
"""Assumed interval of pumps that report by exception: their shortest, for the estimate."""


class Resolution(StrEnum):
    """Requested resolution: a stored one, or the finest that fits."""

    AUTO = "auto"
    RAW = "raw"
    MINUTE = "1min"
    HOUR = "1hour"
    DAY = "1day"


GRAIN_S: Final[Mapping[Resolution, int]] = {
    Resolution.MINUTE: MINUTE_S,
    Resolution.HOUR: HOUR_S,
    Resolution.DAY: DAY_S,
}
"""Stored aggregates and their bucket widths in seconds, finest first."""


class TooManyPoints(InvalidInput):
    """The response would exceed the requested or the maximum number of points."""

    code, title = "too-many-points", "Too many points"


@dataclass(frozen=True, slots=True)
class Span:
    """Time span from `start` (inclusive) to `end` (exclusive)."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    def aligned(self, step_s: float) -> "Span":
        """Return the span widened to whole steps of `step_s` seconds since ORIGIN."""
        step = timedelta(seconds=step_s)
        begin = ORIGIN + (self.start - ORIGIN) // step * step
        return Span(begin, ORIGIN - (ORIGIN - self.end) // step * step)


@dataclass(frozen=True, slots=True)
class Plan:
    """Data to read: buckets of `bucket_s` seconds over `span` from `source`; None: readings."""

    source: Resolution
    span: Span
    bucket_s: int | None = None

    @property
    def merged(self) -> bool:
        """Return whether a bucket merges several stored buckets."""
        return self.bucket_s is not None and self.bucket_s != GRAIN_S[self.source]

    @property
    def resolution(self) -> str:
        """Return the width of a point in readable form: `raw`, `5min`, `1hour`, `7day`."""
        if self.bucket_s is None:
            return Resolution.RAW.value
        name, unit_s = next(
            (name, unit_s)
            for name, unit_s in (("day", DAY_S), ("hour", HOUR_S), ("min", MINUTE_S))
            if self.bucket_s % unit_s == 0
        )
        return f"{self.bucket_s // unit_s}{name}"


def checked_span(start: datetime, end: datetime, max_length: timedelta) -> Span:
    """Return the span; raise InvalidInput if it is empty, reversed, too long or out of bounds."""
    if not FIRST <= start <= LAST or not FIRST <= end <= LAST:
        raise InvalidInput(f"times must be between {FIRST.year} and {LAST.year}", fix="correct the times")
    if end <= start:
        raise InvalidInput(
            f"from {start.isoformat()} is not before to {end.isoformat()}",
            fix="give the earlier time as from",
        )
    if end - start > max_length:
        raise InvalidInput(
            f"a span of {(end - start).days} days exceeds the maximum of {max_length.days}",
            fix="request parts of it",
        )
    return Span(start.astimezone(UTC), end.astimezone(UTC))


def plan(
    span: Span,
    resolution: Resolution,
    max_points: int,
    *,
    interval_s: float | None,
    raw_since: datetime,
) -> Plan:
    """Plan a response of at most `max_points` points; raise TooManyPoints if impossible.

    `auto` uses readings if they fit (`interval_s` apart, None: unknown) and are still stored (`raw_since`).
    Otherwise it uses the narrowest of `WIDTHS_S` that fits, or the next coarser stored resolution if that
    yields at least a quarter of the points. Buckets cover the whole span, so the first and last may extend
    beyond it.
    """
    if resolution is Resolution.RAW:
        return Plan(Resolution.RAW, span)
    if resolution is not Resolution.AUTO:
        return _stored(span, resolution, max_points)
    if span.start >= raw_since and span.seconds / (interval_s or UNKNOWN_INTERVAL_S) <= max_points:
        return Plan(Resolution.RAW, span)
    return bucketed(span, max_points)


def bucketed(span: Span, max_points: int) -> Plan:
    """Plan at most `max_points` buckets over `span`; see `plan`."""
    width_s = next((width for width in WIDTHS_S if _count(span, width) <= max_points), None)
    if width_s is None:
        raise TooManyPoints(
            f"no bucket width covers {span.seconds / DAY_S:.0f} days in {max_points} points",
            fix="allow more points, or request a shorter span",
        )
    for grain_s in (HOUR_S, DAY_S):
        if width_s < grain_s and _count(span, grain_s) * COARSER_SUFFICES >= max_points:
            width_s = grain_s
    source = max((grain for grain in GRAIN_S if width_s % GRAIN_S[grain] == 0), key=GRAIN_S.__getitem__)
    return Plan(source, span.aligned(width_s), width_s)


def _stored(span: Span, grain: Resolution, max_points: int) -> Plan:
    width_s = GRAIN_S[grain]
    if (count := _count(span, width_s)) > max_points:
        raise TooManyPoints(
            f"{count} points of {grain} exceed max_points {max_points}",
            fix="request a shorter span, resolution=auto, or more points",
        )
    return Plan(grain, span.aligned(width_s), width_s)


def _count(span: Span, width_s: int) -> int:
    return round(span.aligned(width_s).seconds / width_s)


@dataclass(frozen=True, slots=True)
class Trend:
    """Trend as columns of n points.

    `channels`: by name and statistic (`value` of readings; `avg`, `min` and `max` of buckets) an (n,) array,
    NaN where nothing was measured. `state`: further columns, such as `running`.
    """

    pump_id: str
    plan: Plan
    times: Sequence[datetime]
    channels: Mapping[str, Mapping[str, Floats]]
    state: Mapping[str, Sequence[float | bool | int | None]]

    def __len__(self) -> int:
        return len(self.times)

    def measured(self) -> "Trend":
        """Return the trend without channels that have no values."""
        kept = {
            name: columns
            for name, columns in self.channels.items()
            if not all(np.isnan(values).all() for values in columns.values())
        }
        return Trend(self.pump_id, self.plan, self.times, kept, self.state)
