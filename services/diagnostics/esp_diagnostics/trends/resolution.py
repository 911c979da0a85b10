"""Trends: which stored grain answers a question within a number of points, and the answer as columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import numpy as np
from esp_common.errors import InvalidInput

from esp_diagnostics.physics.arrays import Floats

ORIGIN: Final = datetime(2001, 1, 1, tzinfo=UTC)
"""Buckets of every width are counted from here, a Monday: weeks begin on one, shorter ones at midnight."""

FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Between them every time can be rounded to any bucket."""

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
WIDTHS_S: Final = (
    *(minutes * MINUTE_S for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * HOUR_S for hours in (1, 2, 3, 6, 12)),
    *(days * DAY_S for days in (1, 2, 7, 14, 28, 56, 112, 224, 448, 896)),
)
"""Widths of buckets that people read easily, seconds."""

COARSER_SUFFICES: Final = 4
"""A coarser grain is taken when it still gives this fraction (1/4) of the points: it is read far faster."""

UNKNOWN_INTERVAL_S: Final = 1.0
"""Between readings of a pump that reports by exception: as often as that, at worst, for the estimate."""


class Resolution(StrEnum):
    """What a caller may ask for: a stored grain, or whatever fits."""

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
"""Stored aggregates and the width of their buckets, seconds, finest first."""


class TooManyPoints(InvalidInput):
    """The answer would have more points than were asked for, or than one answer may have."""

    code, title = "too-many-points", "Too many points"


@dataclass(frozen=True, slots=True)
class Span:
    """From `start`, included, to `end`, not."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Its length, seconds."""
        return (self.end - self.start).total_seconds()

    def aligned(self, step_s: float) -> "Span":
        """Return the span widened to whole steps of `step_s` seconds since ORIGIN."""
        step = timedelta(seconds=step_s)
        begin = ORIGIN + (self.start - ORIGIN) // step * step
        return Span(begin, ORIGIN - (ORIGIN - self.end) // step * step)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read: buckets of `bucket_s` seconds over `span`, made from `source`; no width: readings."""

    source: Resolution
    span: Span
    bucket_s: int | None = None

    @property
    def merged(self) -> bool:
        """Whether several stored buckets make one."""
        return self.bucket_s is not None and self.bucket_s != GRAIN_S[self.source]

    @property
    def resolution(self) -> str:
        """The width of a point as people write it: `raw`, `5min`, `1hour`, `7day`."""
        if self.bucket_s is None:
            return Resolution.RAW.value
        name, unit_s = next(
            (name, unit_s)
            for name, unit_s in (("day", DAY_S), ("hour", HOUR_S), ("min", MINUTE_S))
            if self.bucket_s % unit_s == 0
        )
        return f"{self.bucket_s // unit_s}{name}"


def checked_span(start: datetime, end: datetime, longest: timedelta) -> Span:
    """Return the span; raise InvalidInput where it is empty, reversed, too long or out of this world."""
    if not FIRST <= start <= LAST or not FIRST <= end <= LAST:
        raise InvalidInput(
            f"no reading is from before {FIRST.year} or after {LAST.year}", fix="correct the times"
        )
    if end <= start:
        raise InvalidInput(
            f"from {start.isoformat()} is not before to {end.isoformat()}",
            fix="give the earlier time as from",
        )
    if end - start > longest:
        raise InvalidInput(
            f"a span of {(end - start).days} days is longer than {longest.days}", fix="ask for parts of it"
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
    """Return what answers with at most `max_points` points; raise TooManyPoints where nothing does.

    `auto` takes readings where they are few enough (`interval_s` between them, None: unknown) and still kept
    (`raw_since`), else the narrowest of `WIDTHS_S` that fits, or the next coarser stored grain if that gives
    a quarter of the points as well. Buckets cover the whole span, so the first and last may reach beyond it.
    """
    if resolution is Resolution.RAW:
        return Plan(Resolution.RAW, span)
    if resolution is not Resolution.AUTO:
        return _stored(span, resolution, max_points)
    if span.start >= raw_since and span.seconds / (interval_s or UNKNOWN_INTERVAL_S) <= max_points:
        return Plan(Resolution.RAW, span)
    return bucketed(span, max_points)


def bucketed(span: Span, max_points: int) -> Plan:
    """Return buckets over `span`, at most `max_points` of them, as `plan` chooses them."""
    width_s = next((width for width in WIDTHS_S if _count(span, width) <= max_points), None)
    if width_s is None:
        raise TooManyPoints(
            f"no bucket is so wide that {max_points} of them cover {span.seconds / DAY_S:.0f} days",
            fix="allow more points, or ask for a shorter span",
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
            f"{count} points of {grain} are more than max_points {max_points}",
            fix="ask for a shorter span, resolution=auto, or more points",
        )
    return Plan(grain, span.aligned(width_s), width_s)


def _count(span: Span, width_s: int) -> int:
    return round(span.aligned(width_s).seconds / width_s)


@dataclass(frozen=True, slots=True)
class Trend:
    """The answer, as columns of n points.

    `channels`: by name, by statistic (`value` of readings; `avg`, `min` and `max` of buckets) an (n,) array,
    NaN where nothing was measured. `state`: columns besides, such as `running`.
    """

    pump_id: str
    plan: Plan
    times: Sequence[datetime]
    channels: Mapping[str, Mapping[str, Floats]]
    state: Mapping[str, Sequence[float | bool | int | None]]

    def __len__(self) -> int:
        """Return n."""
        return len(self.times)

    def measured(self) -> "Trend":
        """Return the trend without the channels of which nothing was measured."""
        kept = {
            name: columns
            for name, columns in self.channels.items()
            if not all(np.isnan(values).all() for values in columns.values())
        }
        return Trend(self.pump_id, self.plan, self.times, kept, self.state)
