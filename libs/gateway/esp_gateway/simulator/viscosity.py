"""What a viscous liquid does to a pump: the Hydraulic Institute's chart as Turzo's equations."""

from typing import Final, NamedTuple

import numpy as np

from esp_gateway.simulator.pump import Floats

THIN_CST: Final = 1.0
CHART_STARTS_CST: Final = 10.0
CHART_ENDS: Final = 40.0
"""Largest corrected rate q* of the chart; the efficiency parabola turns up again beyond it."""


class Correction(NamedTuple):
    """Factors on a water curve's rate, head and efficiency."""

    rate: Floats
    head: Floats
    efficiency: Floats


def correction(viscosity_cst: Floats, best_head_ft: Floats, best_rate_bpd: Floats) -> Correction:
    """Return the factors at a kinematic viscosity, given one stage's head and rate at best efficiency.

    y = −7.5946 + 6.6504·ln H(ft) + 12.8429·ln Q(100 gpm);
    q* = exp[(39.5276 + 26.5606·ln ν − y)/51.6565];
    CQ = 1 − 4.0327e-3·q* − 1.724e-4·q*²; CH = 1 − 7.00763e-3·q* − 1.41e-5·q*²;
    Cη = 1 − 3.3075e-2·q* + 2.8875e-4·q*².

    The chart applies from about 5 cSt; between 1 and 10 cSt its effect is faded in, or a pump's power
    would jump by a fifth at the chart's edge.
    """
    hundred_gpm = best_rate_bpd / 34.2857 / 100.0
    y = -7.5946 + 6.6504 * np.log(best_head_ft) + 12.8429 * np.log(hundred_gpm)
    chart_cst = np.maximum(viscosity_cst, CHART_STARTS_CST)
    q = np.minimum(np.exp((39.5276 + 26.5606 * np.log(chart_cst) - y) / 51.6565), CHART_ENDS)
    faded = np.clip((viscosity_cst - THIN_CST) / (CHART_STARTS_CST - THIN_CST), 0.0, 1.0)
    return Correction(
        rate=1.0 - faded * q * (4.0327e-3 + 1.724e-4 * q),
        head=1.0 - faded * q * (7.00763e-3 + 1.41e-5 * q),
        efficiency=1.0 - faded * q * (3.3075e-2 - 2.8875e-4 * q),
    )
