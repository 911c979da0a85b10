"""Key figures of pumps and fields: uptime, starts, trips, run life, production lost, energy, and health.

Every figure says what it rests on: what is not known is left out, and how much that is, is told.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

DAY_S: Final = 86_400.0
CONFIDENCE: Final = 0.9
FULLY_RUNNING: Final = 0.99
"""Least share of an interval in which a pump ran for its rate to count as that of a running pump."""

MEASURED_THROUGHOUT: Final = 0.9
"""Least share of an interval's readings that have a channel for it to count as measured also at rest."""

_UP: Final = ("running", "starting")
_DOWN: Final = "off"

Floats = npt.NDArray[np.float64]


# --- spells -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spell:
    """Time a pump spent in one state; `ended_at` None: it still does. `trip_code` of a stop by the drive."""

    state: str
    started_at: datetime
    ended_at: datetime | None
    trip_code: int | None = None

    def seconds(self, since: datetime, until: datetime) -> float:
        """Return how much of the spell lies in a span."""
        begin, end = max(self.started_at, since), min(self.ended_at or until, until)
        return max((end - begin).total_seconds(), 0.0)


@dataclass(frozen=True, slots=True)
class Running:
    """How a pump ran in a span of `span_s`: time up, down, and (the rest) unknown; starts and trips."""

    up_s: float
    down_s: float
    span_s: float
    starts: int
    trips: int

    @property
    def uptime(self) -> float | None:
        """Share of the known time in which it ran; None: nothing is known."""
        known_s = self.up_s + self.down_s
        return self.up_s / known_s if known_s else None

    @property
    def known(self) -> float:
        """Share of the span of which it is known whether the pump ran."""
        return min((self.up_s + self.down_s) / self.span_s, 1.0)

    @property
    def mean_time_between_trips_days(self) -> float | None:
        """Days of running for each trip; None without a trip."""
        return self.up_s / DAY_S / self.trips if self.trips else None


def running(spells: Sequence[Spell], since: datetime, until: datetime) -> Running:
    """Return how a pump ran from `since` to `until`, given its spells in their order.

    A start is a spell of starting, or of running, that follows one of rest; one that follows the unknown is
    none, since the pump may have run all along. A trip is a stop with a trip code other than 0.
    """
    up_s = sum(spell.seconds(since, until) for spell in spells if spell.state in _UP)
    down_s = sum(spell.seconds(since, until) for spell in spells if spell.state == _DOWN)
    begun = [since <= spell.started_at < until for spell in spells]
    starts = sum(
        inside and spell.state in _UP and before.state == _DOWN
        for before, spell, inside in zip(spells, spells[1:], begun[1:], strict=False)
    )
    trips = sum(
        inside and spell.state == _DOWN and bool(spell.trip_code)
        for spell, inside in zip(spells, begun, strict=True)
    )
    return Running(up_s, down_s, (until - since).total_seconds(), starts, trips)


def together(parts: Iterable[Running]) -> Running:
    """Return how the pumps of a field ran, taken together: their spans add up."""
    found = list(parts)
    return Running(
        sum(part.up_s for part in found),
        sum(part.down_s for part in found),
        sum(part.span_s for part in found),
        sum(part.starts for part in found),
        sum(part.trips for part in found),
    )


# --- run life ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Life:
    """Days a pump has been in its well since it was first seen running; `ended`: it was pulled."""

    days: float
    ended: bool


@dataclass(frozen=True, slots=True)
class MeanLife:
    """Mean time to failure of pumps, in days, with the bounds of its 90 % confidence interval.

    Pumps still in their wells are censored: their days count, without a failure. Without any failure there is
    no mean, and `low_days` is its one-sided 95 % bound.
    """

    days: float | None
    low_days: float | None
    high_days: float | None
    failures: int
    censored: int
    exposure_days: float


def mean_life(lives: Iterable[Life]) -> MeanLife:
    """Return the mean time to failure of an exponential life with censoring: days over failures.

    Bounds by chi-square for a test that ends at a time (MIL-HDBK-338B §8.3.2.5.2): 2T/χ²(0.95; 2r+2) and
    2T/χ²(0.05; 2r) for r failures in T days.
    """
    found = list(lives)
    days = sum(life.days for life in found)
    failures = sum(life.ended for life in found)
    tail = (1 - CONFIDENCE) / 2
    low = 2 * days / float(stats.chi2.ppf(1 - tail, 2 * failures + 2)) if days else None
    high = 2 * days / float(stats.chi2.ppf(tail, 2 * failures)) if days and failures else None
    mean = days / failures if failures else None
    return MeanLife(mean, low, high, failures, len(found) - failures, days)


# --- production and energy --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Intervals:
    """n intervals of one pump: hours or days; each (n,), NaN where nothing was measured.

    `inside_s`: seconds of it that lie in the span asked for, 0 for those that only tell what is usual.
    `measured`: share of the interval's readings that have the rate, and the power.
    """

    inside_s: Floats
    running_share: Floats
    rate_bpd: Floats
    rate_measured: Floats
    power_kw: Floats
    power_measured: Floats


@dataclass(frozen=True, slots=True)
class Output:
    """What a pump, or a field, produced and used in a span.

    `usual_bpd`: median rate while it ran throughout. `deferred_bbl`: what it would have produced at that rate
    while it stood still. `energy_of_rate_kwh`, `barrels_of_energy_bbl`: of intervals in which both are known.
    """

    produced_bbl: float
    deferred_bbl: float
    usual_bpd: float | None
    energy_kwh: float
    energy_of_rate_kwh: float
    barrels_of_energy_bbl: float

    @property
    def kwh_per_bbl(self) -> float | None:
        """Energy for each barrel of liquid lifted; None where rate and power are not known together."""
        barrels = self.barrels_of_energy_bbl
        return self.energy_of_rate_kwh / barrels if barrels > 0 else None

    def co2e_kg(self, kg_per_kwh: float) -> float:
        """Return the carbon dioxide equivalent of the energy used."""
        return self.energy_kwh * kg_per_kwh


def output(intervals: Intervals) -> Output:
    """Return what a pump produced and used.

    A rate or power that is measured only while the pump runs counts for the share of the interval in which it
    ran; one measured throughout is the interval's mean already.
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


def sum_of(parts: Iterable[Output]) -> Output:
    """Return what the pumps of a field produced and used together."""
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


# --- health -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HealthTerm:
    """Points that something costs; `value` None: it is not known, and costs nothing."""

    term: str
    points: float
    value: float | None
    unit: str
    why: str


@dataclass(frozen=True, slots=True)
class Health:
    """How well a pump is: 100 less the points of its terms, dearest first; None: too little is known."""

    score: float | None
    terms: tuple[HealthTerm, ...]


_FINDING_COST: Final[Mapping[str, float]] = {
    "info": 0.02,
    "low": 0.10,
    "medium": 0.25,
    "high": 0.50,
    "critical": 0.75,
}
"""Share of what is left of the score that a certain finding of a severity takes."""

_RANGES: Final = (
    # name, source's key, unit, where it begins to cost, where it costs in full, that share, why
    (
        "below range",
        "fraction_of_min",
        "",
        1.0,
        0.7,
        0.10,
        "rate over the least recommended at this frequency",
    ),
    (
        "above range",
        "fraction_of_max",
        "",
        1.0,
        1.3,
        0.10,
        "rate over the greatest recommended at this frequency",
    ),
    ("cooling", "cooling_ft_s", "ft/s", 1.0, 0.3, 0.08, "velocity of the fluid past the motor"),
    ("motor load", "load", "", 1.0, 1.2, 0.10, "load over the motor's rating at this frequency"),
)


def health_score(
    state: str,
    findings: Iterable[tuple[str, str, float]],
    operating_point: Mapping[str, float],
    *,
    gauge_fault: bool,
    anomaly: float | None,
) -> Health:
    """Return how well a pump is, 0 to 100, with what that is made of.

    `findings`: condition, severity and confidence (0 to 1) of each that is open. `operating_point`: what the
    worker knows of it, without what is missing. `anomaly`: score over threshold; None: still learning. With
    none of these there is no score. Each term takes its share of what the dearer ones left, so that the
    points add up to what is missing from 100. A heuristic to rank pumps by, not a probability of failure.
    """
    if state == "unknown":
        return Health(None, ())
    costs = [
        (_FINDING_COST[severity] * confidence, f"finding {condition}", confidence, "", f"{severity} finding")
        for condition, severity, confidence in findings
    ]
    if gauge_fault:
        costs.append((0.10, "gauge", 1.0, "", "the downhole gauge cannot be relied on"))
    if anomaly is not None:
        costs.append((_ramp(anomaly, 1.0, 3.0, 0.15), "anomaly", anomaly, "", "score over its threshold"))
    if state == "running":
        costs += [
            (_ramp(operating_point[key], begins, ends, share), name, operating_point[key], unit, why)
            for name, key, unit, begins, ends, share, why in _RANGES
            if key in operating_point
        ]
    if not costs and anomaly is None:
        return Health(None, ())
    left, terms = 100.0, []
    for cost, name, value, unit, why in sorted(costs, reverse=True):
        if cost > 0:
            terms.append(HealthTerm(name, round(left * cost, 2), round(value, 4), unit, why))
            left -= left * cost
    missing = [name for name, key, *_ in _RANGES if key not in operating_point and state == "running"]
    missing += ["anomaly"] if anomaly is None else []
    terms += [HealthTerm(name, 0.0, None, "", "not known") for name in missing]
    return Health(round(left, 1), tuple(terms))


def _ramp(value: float, begins: float, ends: float, share: float) -> float:
    """Return the share that a value costs: none up to `begins`, all of it from `ends` on."""
    return share * min(max((value - begins) / (ends - begins), 0.0), 1.0)


def as_row(health: Health) -> list[dict[str, Any]]:
    """Return the terms as they are stored and answered."""
    return [
        {"term": term.term, "points": term.points, "value": term.value, "unit": term.unit, "why": term.why}
        for term in health.terms
    ]
