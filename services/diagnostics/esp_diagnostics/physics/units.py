"""Units at the edges: what files and people write, turned into what the physics computes in."""

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
"""How the trade writes units that `pint` lacks or takes for something else (its bbl is no oil barrel)."""

_MAX_LENGTH: Final = 30


def factor(unit: str, target: str) -> float:
    """Return what a value in `unit` is multiplied by to be in `target`; case matters (mW, MW).

    Raises InvalidInput for a unit that is unknown, of another dimension, or not a multiple of `target`.
    """
    # `pint` works out powers of any size, so it is given none.
    if len(unit) > _MAX_LENGTH or "**" in unit or "^" in unit:
        raise _unknown(unit, target)
    try:
        return float(_units().Quantity(1.0, _spelled(unit)).to(_spelled(target)).magnitude)
    except Exception as error:
        raise _unknown(unit, target) from error


def _unknown(unit: str, target: str) -> InvalidInput:
    return InvalidInput(
        f"unit {unit[:_MAX_LENGTH]!r} is unknown or cannot become {target}",
        fix=f"use {target}, or one of {', '.join(_SPELLINGS)}, ft, m, kW as the quantity asks",
    )


def _spelled(unit: str) -> str:
    return _SPELLINGS.get(unit.strip(), unit.strip())


@cache
def _units() -> Any:
    # Building a registry takes a tenth of a second, which only those who load a curve need to spend.
    import pint

    return pint.UnitRegistry()
