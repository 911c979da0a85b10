"""Key figures of pumps and fields: uptime, starts, trips, run life, deferred production, energy.

Unknown data are left out of a figure, and their share is reported.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

DAY_S: Final = 86_400.0
CONFIDENCE: Final = 0.9
FULLY_RUNNING: Final = 0.99
"""Minimum share of running time in an interval for its rate to count as that of a running pump."""

MEASURED_THROUGHOUT: Final = 0.9
"""Minimum share of readings with a channel for the channel to count as measured also while stopped."""

_UP: Final = ("running", "starting")
_DOWN: Final = "off"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StateInterval:
    """Interval in one state; `ended_at` None: current state. `trip_code`: of a stop by the drive."""

    state: str
    started_at: datetime
    ended_at: datetime | None
    trip_code: int | None = None

    def seconds(self, since: datetime, until: datetime) -> float:
        """Return the seconds of the interval within a span."""
        begin, end = max(self.started_at, since), min(self.ended_at or until, until)
        return max((end - begin).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class RunningTime:
    """Running time of a pump in a span of `span_s` seconds, and its starts and trips; the rest is unknown."""

    up_s: float
    down_s: float
    span_s: float
    starts: int
    trips: int

    @property
    def uptime(self) -> float | None:
        """Return the share of known time in which the pump ran; None if nothing is known."""
        known_s = self.up_s + self.down_s
        return self.up_s / known_s if known_s else None

    @property
    def known(self) -> float:
        """Return the share of the span in which it is known whether the pump ran."""
        return min((self.up_s + self.down_s) / self.span_s, 1.0)

    @property
    def mean_time_between_trips_days(self) -> float | None:
        """Return running days per trip; None without a trip."""
        return self.up_s / DAY_S / self.trips if self.trips else None


def running(intervals: Sequence[StateInterval], since: datetime, until: datetime) -> RunningTime:
    """Return how a pump ran from `since` to `until`, given its state intervals in order.

    A start is a starting or running interval that follows one of standstill; one that follows unknown time is
    not counted, because the pump may have run throughout. A trip is a stop with a trip code other than 0.
    """
    up_s = sum(interval.seconds(since, until) for interval in intervals if interval.state in _UP)
    down_s = sum(interval.seconds(since, until) for interval in intervals if interval.state == _DOWN)
    begun = [since <= interval.started_at < until for interval in intervals]
    starts = sum(
        inside and interval.state in _UP and before.state == _DOWN
        for before, interval, inside in zip(intervals, intervals[1:], begun[1:], strict=False)
    )
    trips = sum(
        inside and interval.state == _DOWN and bool(interval.trip_code)
        for interval, inside in zip(intervals, begun, strict=True)
    )
    return RunningTime(up_s, down_s, (until - since).total_seconds(), starts, trips)


def total_running(parts: Iterable[RunningTime]) -> RunningTime:
    """Return the sum over the pumps of a field; their spans add up."""
    found = list(parts)
    return RunningTime(
        sum(part.up_s for part in found),
        sum(part.down_s for part in found),
        sum(part.span_s for part in found),
        sum(part.starts for part in found),
        sum(part.trips for part in found),
    )


@dataclass(frozen=True, slots=True)
class Life:
    """Days since a pump was first seen running in its well; `ended`: it was pulled."""

    days: float
    ended: bool


@dataclass(frozen=True, slots=True)
class MeanLife:
    """Mean time to failure in days, with the bounds of its 90 % confidence interval.

    Pumps still installed are censored: their days count, without a failure. Without any failure the mean is
    None, and `low_days` is a one-sided 95 % bound.
    """

    days: float | None
    low_days: float | None
    high_days: float | None
    failures: int
    censored: int
    exposure_days: float


def mean_life(lives: Iterable[Life]) -> MeanLife:
    """Return the mean time to failure of an exponential life with censoring: days per failure.

    Chi-square bounds of a time-terminated test (MIL-HDBK-338B §8.3.2.5.2): 2T/χ²(0.95; 2r+2) and 2T/χ²(0.05;
    2r) for r failures in T days.
    """
    found = list(lives)
    days = sum(life.days for life in found)
    failures = sum(life.ended for life in found)
    tail = (1 - CONFIDENCE) / 2
    low = 2 * days / float(stats.chi2.ppf(1 - tail, 2 * failures + 2)) if days else None
    high = 2 * days / float(stats.chi2.ppf(tail, 2 * failures)) if days and failures else None
    mean = days / failures if failures else None
    return MeanLife(mean, low, high, failures, len(found) - failures, days)


@dataclass(frozen=True, slots=True)
class Intervals:
    """n intervals (hours or days) of one pump; each (n,), NaN where nothing was measured.

    `inside_s`: seconds of the interval within the requested span, 0 for earlier intervals that only determine
    the usual rate. `measured`: share of the interval's readings with the rate, and with the power.
    """

    inside_s: Floats
    running_share: Floats
    rate_bpd: Floats
    rate_measured: Floats
    power_kw: Floats
    power_measured: Floats


@dataclass(frozen=True, slots=True)
class Output:
    """Production and energy of a pump, or a field, in a span.

    `usual_bpd`: median rate of intervals with uninterrupted running. `deferred_bbl`: production lost while
    stopped, at that rate. `energy_of_rate_kwh`, `barrels_of_energy_bbl`: of intervals in which both are
    known.
    """

    produced_bbl: float
    deferred_bbl: float
    usual_bpd: float | None
    energy_kwh: float
    energy_of_rate_kwh: float
    barrels_of_energy_bbl: float

    @property
    def kwh_per_bbl(self) -> float | None:
        """Return energy per barrel of liquid; None where rate and power are never known together."""
        barrels = self.barrels_of_energy_bbl
        return self.energy_of_rate_kwh / barrels if barrels > 0 else None

    def co2e_kg(self, kg_per_kwh: float) -> float:
        """Return the carbon dioxide equivalent of the energy."""
        return self.energy_kwh * kg_per_kwh


def output(intervals: Intervals) -> Output:
    """Return production and energy of a pump.

    A rate or power measured only while the pump runs is weighted with the running share; one measured
    throughout is the mean of the interval already.
    """
    days = intervals.inside_s / DAY_S
    share = intervals.running_share
    barrels = _mean_rate(intervals.rate_bpd, intervals.rate_measured, share) * days
    kwh = _mean_rate(intervals.power_kw, intervals.power_measured, share) * days * 24
    full = (share >= FULLY_RUNNING) & ~np.isnan(intervals.rate_bpd)
    usual = float(np.median(intervals.rate_bpd[full])) if full.any() else None
    still_days = float(np.nansum((1 - share) * days))
    both = ~np.isnan(barrels) & ~np.isnan(kwh)
    return Output(
        produced_bbl=float(np.nansum(barrels)),
        deferred_bbl=(usual or 0.0) * still_days,
        usual_bpd=usual,
        energy_kwh=float(np.nansum(kwh)),
        energy_of_rate_kwh=float(kwh[both].sum()),
        barrels_of_energy_bbl=float(barrels[both].sum()),
    )


def _mean_rate(rate: Floats, measured: Floats, running_share: Floats) -> Floats:
    ran = np.where(np.isnan(running_share), 1.0, running_share)
    return np.where(measured >= MEASURED_THROUGHOUT, rate, rate * ran)


def total_output(parts: Iterable[Output]) -> Output:
    """Return production and energy of the pumps of a field together."""
    found = list(parts)
    usual = [part.usual_bpd for part in found if part.usual_bpd is not None]
    return Output(
        sum(part.produced_bbl for part in found),
        sum(part.deferred_bbl for part in found),
        sum(usual) if usual else None,
        sum(part.energy_kwh for part in found),
        sum(part.energy_of_rate_kwh for part in found),
        sum(part.barrels_of_energy_bbl for part in found),
    )
