"""The way up: friction and heat along the tubing."""

from typing import Final

import numpy as np

from esp_gateway.simulator.pump import Floats

ROUGHNESS_IN: Final = 0.0018
"""Commercial steel."""

RELAXATION_FT_PER_BPD: Final = 10.0
"""Distance over which the rising liquid loses 63 % of its excess heat, per bpd (Ramey's A, lumped)."""


def friction_psi_per_bpd2(
    rate_bpd: Floats, length_ft: Floats, bore_in: Floats, specific_gravity: Floats, viscosity_cst: Floats
) -> Floats:
    """Return k in Δp = k·Q² (psi, bpd) with the friction factor taken at `rate_bpd`.

    Darcy-Weisbach in field units, Δp = 1.146e-5·f·SG·L·Q²/d⁵ (psi, ft, bpd, in); Re = 92.1·SG·Q/(d·μ) with
    μ = ν·SG; f = max(64/Re, Haaland). Taking f at a known rate keeps the pressure balance a
    polynomial in the rate; f changes by the rate's sixth root in turbulent flow.
    """
    reynolds = 92.1 * np.maximum(rate_bpd, 1.0) / (bore_in * viscosity_cst)
    root = -1.8 * np.log10((ROUGHNESS_IN / bore_in / 3.7) ** 1.11 + 6.9 / reynolds)
    turbulent = np.where(reynolds > 2300.0, 1.0 / root**2, 0.0)
    factor = np.maximum(64.0 / reynolds, turbulent)
    return np.asarray(1.146e-5 * factor * specific_gravity * length_ft / bore_in**5)


def wellhead_temp_c(bottom_c: Floats, surface_c: Floats, depth_ft: Floats, rate_bpd: Floats) -> Floats:
    """Return the temperature at the wellhead (°C).

    The liquid cools towards the rock as it rises (Ramey with one relaxation length).
    """
    reach = RELAXATION_FT_PER_BPD * np.maximum(rate_bpd, 1.0)
    return surface_c + (bottom_c - surface_c) * (reach / depth_ft) * (1.0 - np.exp(-depth_ft / reach))
