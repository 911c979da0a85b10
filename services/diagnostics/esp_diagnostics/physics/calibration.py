"""Calibrate the curve of an installed pump with a well test."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from esp_common.errors import InvalidInput

from esp_diagnostics.physics import fluids
from esp_diagnostics.physics.pumps import Installed, head_ft, stack
from esp_diagnostics.physics.virtual_flow import virtual_flow
from esp_diagnostics.physics.well import Fluid, Present, Well

PLAUSIBLE: Final = (0.5, 1.5)
"""Range of plausible factors; others indicate a wrong unit, curve or number of stages."""


class Adjusted(StrEnum):
    """Factor to calibrate. One test cannot determine both."""

    HEAD = "head"
    FLOW = "flow"


class UnusableWellTest(InvalidInput):
    """Well test that cannot calibrate the curve."""

    code, title = "test-unusable", "Well test not usable"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibrated factors, and the head residual before the calibration."""

    head_factor: float
    flow_factor: float
    residual_before: float


def calibrate(well: Well, test: Present, fluid: Fluid, adjusted: Adjusted) -> Calibration:
    """Return the factors after a well test with rate, frequency and both pressures; raise UnusableWellTest.

    Head factor: measured head over the curve's head at the measured rate. Flow factor: measured rate over the
    curve's rate at the measured head. The other factor is kept, so that the curve passes through the test.
    """
    lacking = [
        name
        for name in ("flow_rate_bpd", "frequency_hz", "intake_pressure_psi", "discharge_pressure_psi")
        if not getattr(test, name) > 0
    ]
    if lacking:
        raise UnusableWellTest(
            f"{', '.join(lacking)} neither given nor measured during the test",
            fix="give the values with the test",
        )
    rate = test.flow_rate_bpd * fluid.pump_volume
    made = float(fluids.head_ft(test.gain_psi, fluid.gravity))
    before = made / _head(well.installed, test.frequency_hz, rate) - 1.0
    installed = well.installed
    if adjusted is Adjusted.HEAD:
        plain = replace(installed, head_factor=1.0)
        head_factor, flow_factor = made / _head(plain, test.frequency_hz, rate), installed.flow_factor
        factor = head_factor
    else:
        plain = replace(installed, flow_factor=1.0)
        found = virtual_flow(stack([plain]), test.frequency_hz, made)
        head_factor, flow_factor = installed.head_factor, rate / float(found.rate_bpd[0])
        factor = flow_factor
    if not PLAUSIBLE[0] <= factor <= PLAUSIBLE[1]:
        raise UnusableWellTest(
            f"the {adjusted} factor would be {factor:.3g}; plausible factors are "
            f"{PLAUSIBLE[0]:g} to {PLAUSIBLE[1]:g}"
            if np.isfinite(factor)
            else "the test lies beyond the pump's curve",
            fix="check rate, pressures, number of stages and curve",
        )
    return Calibration(head_factor, flow_factor, before)


def _head(installed: Installed, frequency_hz: float, rate_bpd: float) -> float:
    return float(head_ft(stack([installed]), frequency_hz, rate_bpd)[0])
