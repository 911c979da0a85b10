"""Alert system performance figures after ISA-18.2 §16, with the recommended values."""

from collections.abc import Mapping
from typing import Final

ACCEPTABLE_PER_OPERATOR_HOUR: Final = 6.0
MANAGEABLE_PER_OPERATOR_HOUR: Final = 12.0
RECOMMENDED_SHARES: Final[Mapping[str, float]] = {"low": 0.80, "medium": 0.15, "high": 0.05, "critical": 0.0}
"""About 80 % low, 15 % medium and 5 % high; critical alerts count as high and should be rare."""


def per_operator_hour(annunciated: int, span_s: float, operators: int) -> float:
    """Return alerts per operator and hour over a span of seconds."""
    return annunciated / (span_s / 3600) / operators


def load(rate: float) -> str:
    """Classify an alert rate: `acceptable`, `manageable` or `overload`."""
    if rate <= ACCEPTABLE_PER_OPERATOR_HOUR:
        return "acceptable"
    return "manageable" if rate <= MANAGEABLE_PER_OPERATOR_HOUR else "overload"


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return the share of each priority; all 0 without alerts."""
    total = sum(counts.values())
    return {name: counts.get(name, 0) / total if total else 0.0 for name in RECOMMENDED_SHARES}
