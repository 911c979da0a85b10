"""Result types of the decision tree."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from esp_diagnostics.physics.arrays import Bools, Floats


class State(IntEnum):
    """State of a pump; values are stored codes."""

    UNKNOWN = 0
    OFF = 1
    STARTING = 2
    RUNNING = 3
    CHANGING = 4

    @property
    def label(self) -> str:
        """Return the name used by the API."""
        return self.name.lower()


SEVERITIES: Final = ("info", "low", "medium", "high", "critical")
"""In ascending order."""

INSUFFICIENT_DATA: Final = "insufficient_data"
GAUGE_FAILURE: Final = "gauge_failure"
ANOMALY: Final = "anomaly"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence for or against a condition, or missing evidence.

    `value` is None if the signal is missing; `threshold` in `unit` is where the evidence counts in full.
    """

    signal: str
    what: str
    value: float | None
    unit: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Possible condition of a pump; `confidence` 0 to 1, `since_us`: since when it is likely."""

    condition: str
    confidence: float
    severity: str
    action: str
    evidence_for: tuple[Evidence, ...]
    against: tuple[Evidence, ...]
    missing: tuple[Evidence, ...]
    since_us: int


class Transition(NamedTuple):
    """Change of the pump's state to `state` at `time_us`; `trip_code` as reported by the drive."""

    time_us: int
    state: str
    trip_code: int | None


@dataclass(frozen=True, slots=True)
class Assessment:
    """State and hypotheses of a pump at its newest reading.

    `hypotheses` are ranked, most likely first. `raised` and `cleared`: conditions that became findings, or
    ceased to be, since the last assessment, after delay and hysteresis; `open`: all present findings.
    `features`: indicators of the rules by name, without missing ones.
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
    """Share of the required healthy history of the baseline in this regime."""
    channels: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """Newest good value of each channel and its time (µs)."""


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Training data of the anomaly detector: one row per reading, oldest first for each pump.

    `reading` (n,): index in the observed batch; `matrix` (n, k): columns `FEATURES`, NaN where missing;
    `steady`: running, settled after starts and changes, with a good gauge; `regime` (n,): number of the band
    of frequency and choke, -1 if unknown.
    """

    pump_ids: npt.NDArray[np.object_]
    reading: npt.NDArray[np.intp]
    times_us: npt.NDArray[np.int64]
    matrix: Floats
    steady: Bools
    regime: npt.NDArray[np.int64]
