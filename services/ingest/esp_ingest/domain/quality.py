"""Data quality of one pump in one hour: five shares and the score they make."""

from dataclasses import dataclass
from typing import Final

WEIGHTS: Final = {
    "completeness": 0.35,
    "validity": 0.35,
    "uniqueness": 0.10,
    "timeliness": 0.10,
    "consistency": 0.10,
}
"""What each share counts for. A gauge that lies or is silent for an hour alone takes a pump below 80."""

QUIET_S: Final = 1200.0
"""Longest silence of a healthy pump that reports by exception: field data's median gap is up to 20 min."""

HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class HourCounts:
    """What was seen of a pump in an hour.

    `readings`: stored; `flagged` of them carry a gauge's error code or a frozen value, or have a refused
    channel; `contradictory` of the `checked` running ones deny themselves (discharge below intake pressure,
    phases unlike the motor current). `rejected`: readings refused whole. `refused_channels`,
    `clamped_channels`: values of stored readings that were refused, or stored as the limit.
    `windows`: 20-minute windows of the hour with any reading. `observed_s`: seconds of the hour in which the
    pump should have reported. `expected_interval_s`: None if it reports by exception.
    """

    readings: int
    flagged: int
    checked: int
    contradictory: int
    windows: int
    duplicates: int
    late: int
    rejected: int
    conflicts: int
    observed_s: float = HOUR_S
    expected_interval_s: float | None = None
    refused_channels: int = 0
    clamped_channels: int = 0


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares from 0 (bad) to 1 (good), None where nothing came to judge by; `score` from 0 to 100."""

    completeness: float
    validity: float | None
    uniqueness: float | None
    timeliness: float | None
    consistency: float | None
    score: float


def assess(counts: HourCounts) -> Quality:
    """Return the quality of an hour; one without a single reading scores 0."""
    sent = counts.readings + counts.rejected
    arrived = counts.readings + counts.duplicates + counts.conflicts
    shares = {
        "completeness": _completeness(counts),
        "validity": _share(counts.readings - counts.flagged, sent),
        "uniqueness": _share(counts.readings, arrived),
        "timeliness": _share(counts.readings - counts.late, counts.readings),
        "consistency": _share(counts.checked - counts.contradictory, counts.checked)
        if counts.checked
        else 1.0,
    }
    judged = counts.readings > 0
    total = sum(weight * (shares[name] or 0.0) for name, weight in WEIGHTS.items())
    return Quality(
        completeness=shares["completeness"] or 0.0,
        validity=shares["validity"],
        uniqueness=shares["uniqueness"],
        timeliness=shares["timeliness"],
        consistency=shares["consistency"] if judged else None,
        score=round(100 * total, 1) if judged else 0.0,
    )


def _completeness(counts: HourCounts) -> float:
    """Return the share of what was due: readings of a regular pump, else windows with a sign of life."""
    due_s = counts.expected_interval_s or QUIET_S
    seen = counts.readings if counts.expected_interval_s else counts.windows
    return min(1.0, seen / max(1.0, counts.observed_s // due_s))


def _share(part: int, whole: int) -> float | None:
    return max(0.0, min(1.0, part / whole)) if whole else None
