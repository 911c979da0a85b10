"""Convert units at the edges to those of the physics modules."""

from functools import cache
from typing import Any, Final

from esp_common.errors import InvalidInput

_SPELLINGS: Final = {
    "bpd": "oil_bbl/day",
    "bbl/d": "oil_bbl/day",
    "bbl/day": "oil_bbl/day",
    "stb/d": "oil_bbl/day",
    "m3/d": "meter**3/day",
    "m3/day": "meter**3/day",
    "m3/h": "meter**3/hour",
    "l/s": "liter/second",
    "gpm": "gallon/minute",
    "hp": "horsepower",
}
"""Field spellings of units that `pint` lacks or interprets differently (its bbl is not an oil barrel)."""

_MAX_LENGTH: Final = 30


def factor(unit: str, target: str) -> float:
    """Return the factor from `unit` to `target`; case-sensitive (mW, MW).

    Raise InvalidInput for a unit that is unknown, of another dimension, or not a multiple of `target`.
    """
    # `pint` evaluates powers of any size, which could exhaust memory.
    if len(unit) > _MAX_LENGTH or "**" in unit or "^" in unit:
        raise _unknown(unit, target)
    try:
        return float(_units().Quantity(1.0, _spelled(unit)).to(_spelled(target)).magnitude)
    except Exception as error:
        raise _unknown(unit, target) from error


def _unknown(unit: str, target: str) -> InvalidInput:
    return InvalidInput(
        f"unit {unit[:_MAX_LENGTH]!r} is unknown or not convertible to {target}",
        fix=f"use {target}, or one of {', '.join(_SPELLINGS)}, ft, m, kW, depending on the quantity",
    )


def _spelled(unit: str) -> str:
    return _SPELLINGS.get(unit.strip(), unit.strip())


@cache
def _units() -> Any:
    # Building a registry takes 0.1 s, so only processes that load a curve pay for it.
    import pint

    return pint.UnitRegistry()
