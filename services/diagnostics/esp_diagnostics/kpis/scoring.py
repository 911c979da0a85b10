"""Health score of a pump."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class HealthTerm:
    """Points deducted for one cause; `value` None: unknown, no deduction."""

    term: str
    points: float
    value: float | None
    unit: str
    why: str


@dataclass(frozen=True, slots=True)
class Health:
    """Health of a pump: 100 less the points of its terms, largest first; None: too little is known."""

    score: float | None
    terms: tuple[HealthTerm, ...]


_FINDING_COST: Final[Mapping[str, float]] = {
    "info": 0.02,
    "low": 0.10,
    "medium": 0.25,
    "high": 0.50,
    "critical": 0.75,
}
"""Share of the remaining score deducted for a certain finding, by severity."""

_RANGES: Final = (
    # name, key of the source, unit, start of deduction, full deduction, share deducted, reason
    (
        "below range",
        "fraction_of_min",
        "",
        1.0,
        0.7,
        0.10,
        "rate over the recommended minimum at this frequency",
    ),
    (
        "above range",
        "fraction_of_max",
        "",
        1.0,
        1.3,
        0.10,
        "rate over the recommended maximum at this frequency",
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
    """Return the health of a pump, 0 to 100, with its terms.

    `findings`: condition, severity and confidence (0 to 1) of each open finding. `operating_point`: known
    values only. `anomaly`: score over threshold; None: still learning. Without any of these the score is
    None. Each term deducts its share of what the larger ones leave, so that the points add up to the
    deduction from 100. The score is a heuristic to rank pumps, not a probability of failure.
    """
    if state == "unknown":
        return Health(None, ())
    costs = [
        (_FINDING_COST[severity] * confidence, f"finding {condition}", confidence, "", f"{severity} finding")
        for condition, severity, confidence in findings
    ]
    if gauge_fault:
        costs.append((0.10, "gauge", 1.0, "", "the downhole gauge is unreliable"))
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
    """Return the share deducted for a value: none up to `begins`, all of it from `ends` on."""
    return share * min(max((value - begins) / (ends - begins), 0.0), 1.0)


def as_row(health: Health) -> list[dict[str, Any]]:
    """Return the terms as stored and published."""
    return [
        {"term": term.term, "points": term.points, "value": term.value, "unit": term.unit, "why": term.why}
        for term in health.terms
    ]
