"""Viscosity correction: the Hydraulic Institute's charts as fitted by Turzo."""

from typing import Final

import numpy as np

from esp_diagnostics.physics.arrays import Floats, Values
from esp_diagnostics.physics.fluids import GPM_PER_BPD
from esp_diagnostics.physics.pumps import Correction, Pumps, speed_ratio

WATER_CST: Final = 1.0
CHART_FROM_CST: Final = 5.0
CHART_TO_Q_STAR: Final = 57.0
"""Minimum of the efficiency parabola; beyond it the fit would favour thicker liquid."""


def corrected_rate(viscosity_cst: Values, best_head_ft: Values, best_rate_bpd: Values) -> Floats:
    """Return q*, the argument of the correction factors, any shape.

    y = −7.5946 + 6.6504·ln H + 12.8429·ln Q with H the head of one stage (ft) and Q the rate in hundreds of
    US gallons per minute, both in water at best efficiency; q* = exp[(39.5276 + 26.5606·ln ν − y)/51.6565].
    Source: Turzo, Takacs and Zsuga, Oil & Gas Journal, 2000, a fit of the Hydraulic Institute's charts
    (Takacs, Electrical Submersible Pumps Manual, ch. 4).
    """
    # With plain gpm y would be off by 59 and q* by a factor of 3, which hides the effect of viscosity.
    hundred_gpm = np.asarray(best_rate_bpd) * GPM_PER_BPD / 100.0
    y = -7.5946 + 6.6504 * np.log(best_head_ft) + 12.8429 * np.log(hundred_gpm)
    return np.asarray(np.exp((39.5276 + 26.5606 * np.log(viscosity_cst) - y) / 51.6565))


def factors(q_star: Values) -> tuple[Floats, Floats, Floats]:
    """Return the factors on rate, head and efficiency at q*, any shape; NaN beyond the charts.

    CQ = 1 − 4.0327e-3·q* − 1.724e-4·q*²; CH = 1 − 7.00763e-3·q* − 1.41e-5·q*² (at best efficiency); Cη = 1 −
    3.3075e-2·q* + 2.8875e-4·q*². Source: as `corrected_rate`.
    """
    q = np.where(np.asarray(q_star) <= CHART_TO_Q_STAR, q_star, np.nan)
    return (
        1.0 - 4.0327e-3 * q - 1.724e-4 * q**2,
        1.0 - 7.00763e-3 * q - 1.41e-5 * q**2,
        1.0 - 3.3075e-2 * q + 2.8875e-4 * q**2,
    )


def correction(pumps: Pumps, frequency_hz: Values, viscosity_cst: Values) -> Correction:
    """Return the correction of `pumps` at `frequency_hz` for a liquid of `viscosity_cst`, all (..., n).

    NaN where the best-efficiency rate is unknown, the pump is stopped or the viscosity is beyond the charts.
    Head and rate at best efficiency are taken at the pump's frequency, since slower pumps lose more. The
    charts start at 5 cSt; from water to there the correction is blended in with ln ν, so that it is
    continuous. Power follows from the other three: BHP ∝ Q·H/η. Source: Hydraulic Institute, see `factors`.
    """
    viscosity = np.asarray(viscosity_cst, dtype=np.float64)
    speed = speed_ratio(pumps, frequency_hz)
    best_head = pumps.head.value(pumps.best_bpd) * speed**2
    q_star = corrected_rate(np.maximum(viscosity, CHART_FROM_CST), best_head, pumps.best_bpd * speed)
    share = np.clip(np.log(np.maximum(viscosity, WATER_CST)) / np.log(CHART_FROM_CST), 0.0, 1.0)
    rate, head, efficiency = (1.0 - share * (1.0 - factor) for factor in factors(q_star))
    return Correction(head=head, rate=rate, power=rate * head / efficiency)
