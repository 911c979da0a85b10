"""Liquids: density from water cut and oil gravity, heads and pressures, total dynamic head."""

from typing import Final

import numpy as np

from esp_diagnostics.physics.arrays import Floats, Values

PSI_PER_FT_OF_WATER: Final = 0.433
GPM_PER_BPD: Final = 42.0 / 1440.0
"""US gallons per barrel over minutes per day."""


def oil_gravity(api_degrees: Values) -> Floats:
    """Return the specific gravity of stock-tank oil at 60 °F: 141.5/(131.5 + °API), any shape."""
    return np.asarray(141.5 / (131.5 + np.asarray(api_degrees)))


def liquid_gravity(water_cut_pct: Values, oil: Values, water: Values = 1.0) -> Floats:
    """Return the specific gravity of dead oil and water mixed by volume, any shape."""
    share = np.asarray(water_cut_pct) / 100.0
    return np.asarray(share * water + (1.0 - share) * oil)


def pressure_psi(head_ft: Values, specific_gravity: Values) -> Floats:
    """Return the pressure (psi) of a head (ft): ΔP = 0.433·SG·H, any shape."""
    return np.asarray(PSI_PER_FT_OF_WATER * np.asarray(specific_gravity) * head_ft)


def head_ft(pressure: Values, specific_gravity: Values) -> Floats:
    """Return the head (ft) of a `pressure` (psi), any shape: H = ΔP/(0.433·SG); NaN unless SG is positive."""
    gravity = np.asarray(specific_gravity, dtype=np.float64)
    return np.asarray(pressure / (PSI_PER_FT_OF_WATER * np.where(gravity > 0, gravity, np.nan)))


def friction_ft(rate_bpd: Values, length_ft: Values, bore_in: Values, roughness_c: Values = 120.0) -> Floats:
    """Return the friction head in tubing (ft), any shape; NaN for a negative rate.

    Hazen-Williams in field units: F = 2.083·(100/C)^1.85·gpm^1.85/d^4.8655 ft per 1000 ft, with C 120 for new
    and 94 for old pipe (Takacs, Electrical Submersible Pumps Manual, ch. 2).
    """
    gpm = np.asarray(rate_bpd) * GPM_PER_BPD
    flow = np.where(gpm >= 0, gpm, np.nan) ** 1.85
    per_1000_ft = 2.083 * (100.0 / np.asarray(roughness_c)) ** 1.85 * flow / np.asarray(bore_in) ** 4.8655
    return np.asarray(per_1000_ft * length_ft / 1000.0)


def total_dynamic_head_ft(
    vertical_lift_ft: Values, friction: Values, wellhead_pressure_psi: Values, specific_gravity: Values
) -> Floats:
    """Return the total dynamic head (ft), any shape: TDH = lift + friction (ft) + WHP/(0.433·SG)."""
    return np.asarray(vertical_lift_ft + friction + head_ft(wellhead_pressure_psi, specific_gravity))


def vertical_lift_ft(pump_depth_ft: Values, intake_pressure_psi: Values, specific_gravity: Values) -> Floats:
    """Return the vertical lift (ft), any shape: pump depth less the head at the intake, D − Pi/(0.433·SG)."""
    return np.asarray(pump_depth_ft - head_ft(intake_pressure_psi, specific_gravity))
