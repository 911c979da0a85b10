"""Vendor tags and units, turned into plain factors when a tag map is registered."""

import re
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
    "bbl/d": "oil_bbl/day",
    "bbl/day": "oil_bbl/day",
    "stb/d": "oil_bbl/day",
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
    "kg/cm2": "kgf/cm**2",
}
"""How vendors write units that `pint` lacks or takes for something else (its g is a gram, its bbl no oil)."""

_OFFERED: Final = (
    *("psi", "bar", "kPa", "MPa", "atm", "kgf/cm**2"),
    *("degC", "degF", "K"),
    *("g_0", "m/s**2"),
    *("A", "mA", "uA", "V", "kV", "Mohm", "kohm", "Hz", "kHz", "W", "kW", "hp"),
    *("percent", "fraction", "bbl/day", "m3/day", "m3/h", "gpm", "l/min"),
)

_UNIT: Final = re.compile(r"[A-Za-zµΩ°]\w*(\*\*[1-3])?([/*][A-Za-zµΩ]\w*(\*\*[1-3])?)*")
_MAX_LENGTH: Final = 40


def make_tag(channel: str, unit: str | None) -> tuple[float, float]:
    """Return (factor, offset) such that `value · factor + offset` is `channel` in its catalogue unit.

    `unit` None means that the tag is in that unit already; `running` and `trip_code` have none.
    Raises InvalidInput for a channel that does not exist, or a unit that is unknown or not of its kind.
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
        offered = [each for each in _OFFERED if _conversion(each, target) is not None]
        raise InvalidInput(
            f"unit {unit!r} of channel {channel} is unknown or cannot become {target}",
            fix=f"use one of {', '.join(offered)}",
        )
    return found


@cache
def _units() -> Any:
    import pint

    return pint.UnitRegistry()


def _conversion(unit: str, target: str) -> tuple[float, float] | None:
    """Return the line from `unit` to `target` through two points, or None where there is none."""
    import pint

    name = _SPELLINGS.get(unit.strip(), unit.strip())
    # An expression is not a unit: pint would work out 9**9**9.
    if len(name) > _MAX_LENGTH or not _UNIT.fullmatch(name):
        return None
    units = _units()
    try:
        # An angle has no dimension to pint, which so takes 60 rpm for 6.28 Hz.
        if "radian" in str(units.Quantity(1, name).to_base_units().units):
            return None
        zero, one = (float(units.Quantity(value, name).to(target).magnitude) for value in (0.0, 1.0))
    except (pint.PintError, AttributeError, TypeError, ValueError, ArithmeticError):
        return None
    return one - zero, zero
