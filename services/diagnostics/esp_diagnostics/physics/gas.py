"""Free gas: fraction at the pump intake, stability criteria, and loss of head."""

from typing import Final, NamedTuple

import numpy as np

from esp_diagnostics.physics.arrays import Bools, Floats, Values

ATMOSPHERE_PSI: Final = 14.696
GAS_TO_WATER_MASS: Final = 0.0764 / (5.6146 * 62.37)
"""Mass of 1 scf of air over that of 1 bbl of water: contribution of γg scf to a barrel's specific gravity."""


class Produced(NamedTuple):
    """Produced fluids after a well test; every member broadcasts to (..., n).

    Water cut in % of stock-tank liquid, gas-oil ratio in scf/stb, gravities relative to air and water,
    separator efficiency as the fraction of free gas removed by natural and rotary separation.
    """

    water_cut_pct: Values
    oil_api: Values
    gas_oil_ratio_scf: Values
    gas_gravity: Values = 0.75
    water_gravity: Values = 1.02
    separator_efficiency: Values = 0.0


class Intake(NamedTuple):
    """Fluid entering the pump, in situ at the intake; each (..., n).

    `gas_liquid_ratio` q'g/q'l and `gas_void_fraction` are after separation. `liquid_volume` is in-situ
    liquid, and `pump_volume` liquid and gas through the pump, per volume of stock-tank liquid. Gravities are
    relative to water.
    """

    gas_liquid_ratio: Floats
    gas_void_fraction: Floats
    liquid_volume: Floats
    pump_volume: Floats
    liquid_gravity: Floats
    mixture_gravity: Floats


def at_intake(produced: Produced, intake_pressure_psi: Values, intake_temp_c: Values) -> Intake:
    """Return the fluid entering the pump at a gauge pressure and temperature (..., n).

    GVF = q'g/(q'g + q'l) with q'g the free gas that passes the separator. Solution gas follows Standing, the
    gas volume that of a real gas (Sutton, Papay); gravities balance the masses of oil, dissolved gas, water
    (taken as incompressible) and free gas.
    """
    oil_share = 1.0 - np.asarray(produced.water_cut_pct) / 100.0
    psia = absolute_psi(intake_pressure_psi)
    fahrenheit = np.asarray(intake_temp_c) * 1.8 + 32.0
    oil = 141.5 / (131.5 + np.asarray(produced.oil_api))
    gas = np.asarray(produced.gas_gravity)
    soluble = solution_gas_scf(psia, fahrenheit, produced.oil_api, gas)
    dissolved = np.minimum(soluble, produced.gas_oil_ratio_scf)
    liquid = 1.0 - oil_share + oil_share * oil_volume_factor(dissolved, fahrenheit, oil, gas)
    passing_scf = (produced.gas_oil_ratio_scf - dissolved) * (1.0 - np.asarray(produced.separator_efficiency))
    gas_volume = gas_volume_factor_bbl(psia, fahrenheit, gas)
    ratio = oil_share * passing_scf * gas_volume / liquid
    void = void_fraction(ratio)
    mass = (1.0 - oil_share) * produced.water_gravity + oil_share * (
        oil + GAS_TO_WATER_MASS * gas * dissolved
    )
    gravity = mass / liquid
    return Intake(
        gas_liquid_ratio=ratio,
        gas_void_fraction=void,
        liquid_volume=liquid,
        pump_volume=liquid * (1.0 + ratio),
        liquid_gravity=gravity,
        mixture_gravity=(1.0 - void) * gravity + void * GAS_TO_WATER_MASS * gas / gas_volume,
    )


def absolute_psi(gauge_psi: Values) -> Floats:
    """Return the absolute pressure (psia) of a gauge pressure (psi), any shape; NaN below vacuum."""
    psia = np.asarray(gauge_psi) + ATMOSPHERE_PSI
    return np.where(psia > 0, psia, np.nan)


def solution_gas_scf(psia: Values, fahrenheit: Values, oil_api: Values, gas_gravity: Values) -> Floats:
    """Return the solution gas-oil ratio Rs (scf/stb), any shape.

    Standing (1947): Rs = γg·[(p/18.2 + 1.4)·10^(0.0125·API − 0.00091·T)]^1.2048, p in psia, T in °F.
    """
    exponent = 0.0125 * np.asarray(oil_api) - 0.00091 * np.asarray(fahrenheit)
    return np.asarray(gas_gravity * ((np.asarray(psia) / 18.2 + 1.4) * 10.0**exponent) ** 1.2048)


def oil_volume_factor(
    dissolved_scf: Values, fahrenheit: Values, oil_gravity: Values, gas_gravity: Values
) -> Floats:
    """Return the oil volume factor Bo (bbl/stb) with `dissolved_scf` (scf/stb) of gas, any shape.

    Standing (1947): Bo = 0.9759 + 0.00012·[Rs·√(γg/γo) + 1.25·T]^1.2, T in °F.
    """
    group = dissolved_scf * np.sqrt(gas_gravity / np.asarray(oil_gravity)) + 1.25 * np.asarray(fahrenheit)
    return np.asarray(0.9759 + 0.00012 * group**1.2)


def gas_volume_factor_bbl(psia: Values, fahrenheit: Values, gas_gravity: Values) -> Floats:
    """Return the gas volume factor Bg (bbl/scf), any shape: 0.00504·z·T/p with T in °R, p in psia."""
    rankine = np.asarray(fahrenheit) + 459.67
    return np.asarray(0.00504 * compressibility(psia, fahrenheit, gas_gravity) * rankine / psia)


def compressibility(psia: Values, fahrenheit: Values, gas_gravity: Values) -> Floats:
    """Return the compressibility factor z of natural gas, any shape.

    Papay (1968) with the pseudo-critical properties of Sutton (1985): z = 1 − 3.53·ppr/10^(0.9813·Tpr) +
    0.274·ppr²/10^(0.8157·Tpr).

    Accuracy up to 3000 psia against the Standing-Katz chart: 2 % above 120 °F, 3 % above 80 °F.
    """
    gravity = np.asarray(gas_gravity)
    reduced_p = psia / (756.8 - 131.0 * gravity - 3.6 * gravity**2)
    reduced_t = (np.asarray(fahrenheit) + 459.67) / (169.2 + 349.5 * gravity - 74.0 * gravity**2)
    return np.asarray(
        1.0
        - 3.53 * reduced_p / 10.0 ** (0.9813 * reduced_t)
        + 0.274 * reduced_p**2 / 10.0 ** (0.8157 * reduced_t)
    )


def void_fraction(gas_liquid_ratio: Values) -> Floats:
    """Return the gas void fraction GVF = q'g/(q'g + q'l) of an in-situ ratio q'g/q'l, any shape."""
    return np.asarray(gas_liquid_ratio / (1.0 + np.asarray(gas_liquid_ratio)))


def turpin(gas_liquid_ratio: Values, intake_pressure_psi: Values) -> Floats:
    """Return Turpin's Φ = 2000·(q'g/q'l)/(3·Pi), any shape; Pi given as gauge pressure.

    Head is stable below 1 (Turpin, Lea and Bearden, 1986).
    """
    return np.asarray(2000.0 * np.asarray(gas_liquid_ratio) / (3.0 * absolute_psi(intake_pressure_psi)))


def dunbar_minimum_psi(gas_liquid_ratio: Values) -> Floats:
    """Return the minimum intake pressure (psi gauge) for stable operation with this gas, any shape.

    Dunbar's curve: Pi ≥ 935·(q'g/q'l)^1.724 psia (Takacs, Electrical Submersible Pumps Manual, ch. 4).
    """
    return np.asarray(935.0 * np.asarray(gas_liquid_ratio) ** 1.724 - ATMOSPHERE_PSI)


def head_factor(gas_void_fraction: Values, gas_handler: Bools | bool = False) -> Floats:
    """Return the fraction of its head that a pump keeps at gas void fraction b, any shape; 0 if gas locked.

    1 + 0.6·b − 9·b² for standard stages, 1 + 0.05·b − 2·b² for gas handlers: fits of stage tests, zero at 37
    % and 72 %.
    """
    void = np.asarray(gas_void_fraction)
    linear, quadratic = np.where(gas_handler, 0.05, 0.6), np.where(gas_handler, 2.0, 9.0)
    return np.asarray(np.maximum(1.0 + linear * void - quadratic * void**2, 0.0))
