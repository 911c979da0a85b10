"""What the tree says of a pump."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from esp_diagnostics.physics.arrays import Bools, Floats


class State(IntEnum):
    """What a pump does; the order is that of the stored code."""

    UNKNOWN = 0
    OFF = 1
    STARTING = 2
    RUNNING = 3
    CHANGING = 4

    @property
    def label(self) -> str:
        """Return the name that the API uses."""
        return self.name.lower()


SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
"""Least first."""

INSUFFICIENT_DATA: Final = "insufficient_data"
GAUGE_FAILURE: Final = "gauge_failure"
ANOMALY: Final = "anomaly"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that speaks for or against a condition, or that would if it were known.

    `value` is None where the signal is missing; `threshold` is where it counts in full, in `unit`.
    """

    signal: str
    what: str
    value: float | None
    unit: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A condition that a pump may suffer from; `confidence` 0 to 1, `since_us` since when it is likely."""

    condition: str
    confidence: float
    severity: str
    action: str
    evidence_for: tuple[Evidence, ...]
    against: tuple[Evidence, ...]
    missing: tuple[Evidence, ...]
    since_us: int


class Transition(NamedTuple):
    """A pump began `state` at `time_us`; `trip_code` as the drive gave it."""

    time_us: int
    state: str
    trip_code: int | None


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a pump does and suffers from at its newest reading.

    `hypotheses` are ranked, likeliest first. `raised` and `cleared` are the conditions that, after their
    delay and hysteresis, became findings or ceased to be since the last assessment; `open` all that are
    findings now. `features` are what the rules looked at, by name, without those missing.
    """

    pump_id: str
    time_us: int
    state: str
    state_since_us: int
    gauge_fault: bool
    hypotheses: tuple[Hypothesis, ...]
    raised: tuple[str, ...]
    cleared: tuple[str, ...]
    path: tuple[str, ...]
    features: Mapping[str, float]
    operating_point: Mapping[str, float]
    residuals: Mapping[str, float]
    transitions: tuple[Transition, ...] = ()
    open: tuple[str, ...] = ()
    running: bool | None = None
    trip_code: int | None = None
    learning: float = 1.0
    """Share of the healthy history that the pump's baseline wants in this regime; 1: it has it."""
    channels: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """Newest good value of each channel and when it was measured (µs)."""


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """What the detector of anomalies learns from: a row for each reading, oldest first for each pump.

    `reading` (n,) is the row's place in the batch observed; `matrix` (n, k) has the columns `FEATURES`, NaN
    where missing; `steady` marks rows of a pump that runs, is past its start and changes, and whose gauge is
    good; `regime` (n,) is the band of frequency and choke, the same number for the same band, -1 unknown.
    """

    pump_ids: npt.NDArray[np.object_]
    reading: npt.NDArray[np.intp]
    times_us: npt.NDArray[np.int64]
    matrix: Floats
    steady: Bools
    regime: npt.NDArray[np.int64]
