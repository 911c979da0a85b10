"""Convert vendor units to linear factors when a tag map is registered."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from esp_common.contracts.channels import CHANNEL_INDEX, CHANNELS, RUNNING, TRIP_CODE
from esp_common.errors import InvalidInput

_SPELLINGS: Final = {
    "%": "percent",
    "fraction": "dimensionless",
    "C": "degC",
    "°C": "degC",
    "F": "degF",
    "°F": "degF",
    "g": "g_0",
    "psig": "psi",
    "barg": "bar",
    "kPag": "kPa",
    "bpd": "oil_bbl/day",
    "BPD": "oil_bbl/day",
    "bbl/d": "bbl/day",
    "stb/d": "stb/day",
    "kbbl/d": "kbbl/day",
    "m3/d": "m**3/day",
    "m3/day": "m**3/day",
    "m3/h": "m**3/hour",
    "gpm": "gallon/minute",
    "l/min": "liter/minute",
    "HP": "horsepower",
    "hp": "horsepower",
    "MOhm": "Mohm",
    "MΩ": "Mohm",
    "kΩ": "kohm",
    "mΩ": "mohm",
    "Ω": "ohm",
    "kg/cm2": "kgf/cm**2",
    "kgf/cm2": "kgf/cm**2",
    "psia": "psi",
    "Amps": "A",
    "Amp": "A",
    "Volts": "V",
    "Volt": "V",
    "MOhms": "Mohm",
    "deg C": "degC",
    "deg F": "degF",
    "Deg C": "degC",
    "Deg F": "degF",
    "bfpd": "oil_bbl/day",
    "blpd": "oil_bbl/day",
    "Sm3/d": "m**3/day",
    "m³/d": "m**3/day",
    "m³/h": "m**3/hour",
}
"""Vendor spellings of units that `pint` lacks or misreads (its g is a gram, its bbl is not an oil barrel)."""

_SHOUTED: Final = {
    name.casefold(): name
    for name in (
        *("psi", "psig", "psia", "bar", "barg", "kPa", "degC", "degF", "deg C", "deg F", "A", "Amps", "Amp"),
        *("V", "Volts", "Volt", "Hz", "kW", "kV", "HP", "bpd", "bbl/d", "bbl/day", "stb/d", "bfpd", "blpd"),
        *("m3/d", "m3/h", "m3/day", "gpm", "kg/cm2"),
    )
}
"""Units whose case carries no meaning, for systems that write in capitals. Never mW, mohm or mPa."""

TYPICAL: Final[Mapping[str, tuple[float, float]]] = {
    "intake_pressure_psi": (50, 6_000),
    "discharge_pressure_psi": (50, 6_000),
    "intake_temp_c": (40, 160),
    "motor_temp_c": (40, 210),
    "vibration_x_g": (0.02, 2),
    "vibration_y_g": (0.02, 2),
    "leakage_current_ma": (0.1, 50),
    "insulation_resistance_mohm": (0.3, 5_000),
    "frequency_hz": (30, 200),
    "motor_current_a": (10, 200),
    "current_a_a": (10, 200),
    "current_b_a": (10, 200),
    "current_c_a": (10, 200),
    "motor_voltage_v": (400, 5_000),
    "power_factor": (0.3, 1),
    "active_power_kw": (10, 1_000),
    "motor_load_pct": (20, 120),
    "drive_temp_c": (10, 90),
    "wellhead_pressure_psi": (50, 3_000),
    "casing_pressure_psi": (50, 3_000),
    "wellhead_temp_c": (10, 120),
    "flow_rate_bpd": (50, 10_000),
    "water_cut_pct": (1, 99),
    "choke_pct": (5, 100),
}
"""Typical readings of a healthy running pump in catalogue units, used to detect implausible units."""

_SHOWN_LOW: Final = 0.02
_SHOWN_HIGH: Final = 400_000.0
"""Numbers that instruments display: 0.05 A, 345,000 Pa. A unit that shows no typical reading so is wrong."""

_OFFERED: Final = (
    *("psi", "bar", "kPa", "MPa", "atm", "kgf/cm**2"),
    *("degC", "degF", "K"),
    *("g_0", "m/s**2"),
    *("A", "mA", "uA", "V", "kV", "Mohm", "kohm", "Hz", "kHz", "W", "kW", "hp"),
    *("percent", "fraction", "bbl/day", "kbbl/day", "m3/day", "m3/h", "gpm", "l/min"),
)

_SYMBOLS: Final = {"Mohm": "MΩ", "oil_bbl/day": "bbl/day", "g_0": "g", "degC": "°C"}
_UNIT: Final = re.compile(r"[A-Za-zµΩ°]\w*(\*\*[1-3])?([/*][A-Za-zµΩ]\w*(\*\*[1-3])?)*")
_MAX_LENGTH: Final = 40
_BARREL: Final = re.compile(r"\b(k?)(bbls?|barrels?|stb)\b")
"""An oil barrel has 42 gallons; pint's bbl has 31.5."""
_THOUSAND_BARRELS: Final = re.compile(r"\b[mM]+(bbl|barrel|stb|bpd|scf)")
"""M means a thousand in the oilfield, and a million or a thousandth to pint: refused."""


class ImplausibleUnit(InvalidInput):
    """The unit has the channel's dimension, but no typical reading could be written in it."""

    code, title = "implausible-unit", "Implausible unit"


def make_tag(channel: str, unit: str | None) -> tuple[float, float]:
    """Return (factor, offset) such that `value · factor + offset` is `channel` in its catalogue unit.

    `unit` None: the tag is in that unit already; `running` and `trip_code` have none. Raises InvalidInput for
    an unknown channel, and for a unit that is unknown or of another dimension; ImplausibleUnit for one so
    large or small that no typical reading could be written in it.
    """
    if channel in (RUNNING, TRIP_CODE):
        if unit:
            raise InvalidInput(f"channel {channel} takes no unit, and {unit!r} was given", fix="leave it out")
        return 1.0, 0.0
    if channel not in CHANNEL_INDEX:
        raise InvalidInput(
            f"no channel {channel!r} in the catalogue", fix=f"one of {', '.join(CHANNEL_INDEX)}"
        )
    target = CHANNELS[CHANNEL_INDEX[channel]].unit
    if unit is None or unit == target:
        return 1.0, 0.0
    found = _conversion(unit, target)
    if found is None:
        offered = [each for each in _OFFERED if _plausible(channel, _conversion(each, target))]
        raise InvalidInput(
            f"unit {unit!r} of channel {channel} is unknown or cannot become {target}",
            fix=f"use one of {', '.join(offered)}",
        )
    if not _plausible(channel, found):
        low, high = TYPICAL[channel]
        raise ImplausibleUnit(
            f"unit {unit!r} of channel {channel} is implausible: {low:g} to {high:g} {target} would be"
            f" {(low - found[1]) / found[0]:g} to {(high - found[1]) / found[0]:g} in it",
            fix=f"did you mean {_likely(channel, unit, target)}?",
        )
    return found


def _plausible(channel: str, conversion: tuple[float, float] | None) -> bool:
    """Return whether typical readings of `channel` in that unit are numbers that instruments show."""
    if conversion is None:
        return False
    factor, offset = conversion
    low, high = TYPICAL[channel]
    return (low - offset) / factor < _SHOWN_HIGH and (high - offset) / factor > _SHOWN_LOW


def _likely(channel: str, unit: str, target: str) -> str:
    """Return likely alternatives: the other case of the first letter, and the channel's own unit."""
    swapped = unit[:1].swapcase() + unit[1:]
    names = [target] if not _plausible(channel, _conversion(swapped, target)) else [swapped, target]
    shown = [_SYMBOLS.get(_SPELLINGS.get(name, name), name) for name in names]
    return " or ".join(dict.fromkeys(shown))


@cache
def _units() -> Any:
    import pint

    return pint.UnitRegistry()


def _conversion(unit: str, target: str) -> tuple[float, float] | None:
    """Return the linear conversion from `unit` to `target`, or None if there is none."""
    import pint

    text = unit.strip()
    text = text if text in _SPELLINGS else _SHOUTED.get(text.casefold(), text)
    name = _SPELLINGS.get(text, text)
    # An expression is not a unit: pint would evaluate 9**9**9.
    if len(name) > _MAX_LENGTH or not _UNIT.fullmatch(name) or _THOUSAND_BARRELS.search(name):
        return None
    name = _BARREL.sub(r"\1oil_bbl", name)
    units = _units()
    try:
        # An angle has no dimension in pint, so it takes 60 rpm for 6.28 Hz.
        if "radian" in str(units.Quantity(1, name).to_base_units().units):
            return None
        zero, one = (float(units.Quantity(value, name).to(target).magnitude) for value in (0.0, 1.0))
    except (pint.PintError, AttributeError, TypeError, ValueError, ArithmeticError):
        return None
    return one - zero, zero
