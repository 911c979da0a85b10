"""Operating point of pumps on their curves, and thrust of their impellers."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from esp_diagnostics.physics.arrays import Floats, Values
from esp_diagnostics.physics.pumps import WATER, Correction, Pumps, rate_scale


class Thrust(IntEnum):
    """Direction of the impeller thrust."""

    UNKNOWN = 0
    DOWN = 1
    """Below the recommended range: impellers rub on the diffuser below."""
    BALANCED = 2
    UP = 3
    """Above the recommended range: impellers rub on the diffuser above."""


class OperatingPoint(NamedTuple):
    """Operating point on the curve; each (..., n), rates in bpd through the pump at its frequency."""

    fraction_of_best: Floats
    min_bpd: Floats
    best_bpd: Floats
    max_bpd: Floats
    thrust: npt.NDArray[np.int8]
    """Array of `Thrust` members."""


def operating_point(
    pumps: Pumps, frequency_hz: Values, rate_bpd: Values, correction: Correction = WATER
) -> OperatingPoint:
    """Return the operating points of `pumps` at `rate_bpd` (..., n) through the pump.

    Recommended range and best rate scale with frequency (affinity laws). NaN and UNKNOWN where rate or
    frequency is missing or the pump is stopped; NaN alone where the best rate is unpublished.
    """
    scale = rate_scale(pumps, frequency_hz, correction)
    rate = np.asarray(rate_bpd, dtype=np.float64)
    low, best, high = pumps.min_bpd * scale, pumps.best_bpd * scale, pumps.max_bpd * scale
    thrust = np.select(
        [np.isnan(rate + scale), rate < low, rate > high],
        [np.int8(Thrust.UNKNOWN), np.int8(Thrust.DOWN), np.int8(Thrust.UP)],
        np.int8(Thrust.BALANCED),
    )
    return OperatingPoint(rate / best, low, best, high, thrust)
