"""Free gas: how much of it there is at a pressure and temperature, and what it does to a pump."""

from typing import Final

import numpy as np
import numpy.typing as npt

from esp_gateway.simulator.pump import Floats

GAS_GRAVITY: Final = 0.75
OIL_GRAVITY_API: Final = 32.0
ATMOSPHERE_PSI: Final = 14.7
COMPRESSIBILITY: Final = 0.92
"""z of the gas; close enough from 100 to 3000 psi at well temperatures."""


def solution_ratio_scf(pressure_psi: Floats, temperature_c: Floats) -> Floats:
    """Return the gas dissolved in oil, Rs (scf/stb).

    Standing: Rs = γg·[(p/18.2 + 1.4)·10^(0.0125·API − 0.00091·T)]^1.2048, p in psia, T in °F.
    """
    fahrenheit = 1.8 * temperature_c + 32.0
    absolute = np.maximum(pressure_psi, 0.0) + ATMOSPHERE_PSI
    exponent = np.log(10.0) * (0.0125 * OIL_GRAVITY_API - 0.00091 * fahrenheit)
    return np.asarray(GAS_GRAVITY * np.exp(1.2048 * (np.log(absolute / 18.2 + 1.4) + exponent)))


def gas_volume_bbl(pressure_psi: Floats, temperature_c: Floats) -> Floats:
    """Return the gas formation volume factor (bbl/scf): Bg = 0.00504·z·T/p, T in °R, p in psia."""
    rankine = 1.8 * temperature_c + 491.67
    return np.asarray(0.00504 * COMPRESSIBILITY * rankine / (np.maximum(pressure_psi, 0.0) + ATMOSPHERE_PSI))


def oil_volume(dissolved_scf: Floats, temperature_c: Floats) -> Floats:
    """Return the oil formation volume factor (bbl/stb), linear in Rs and temperature (Vazquez-Beggs form)."""
    fahrenheit = 1.8 * temperature_c + 32.0
    return np.asarray(
        1.0 + 4.67e-4 * dissolved_scf + 1.1e-5 * (fahrenheit - 60.0) * OIL_GRAVITY_API / GAS_GRAVITY
    )


def void_fraction(gas_liquid_ratio: Floats) -> Floats:
    """Return GVF = q'g/(q'g + q'l) from the in-situ ratio q'g/q'l."""
    return gas_liquid_ratio / (1.0 + gas_liquid_ratio)


def head_factor(void: Floats, handler: npt.NDArray[np.bool_] | bool) -> Floats:
    """Return the share of head left at GVF `void`: 1 + 0.6b − 9b², or 1 + 0.05b − 2b² for gas handlers.

    Both are fits of measured stages; beyond where they reach zero the pump is gas locked and makes
    next to nothing.
    """
    linear, quadratic = np.where(handler, 0.05, 0.6), np.where(handler, 2.0, 9.0)
    return np.maximum(1.0 + void * (linear - quadratic * void), 0.02)
