"""Published curve of a pump model: head and power of one stage in water, with validation."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from esp_common.errors import InvalidInput
from numpy.polynomial import Polynomial as Series
from scipy.interpolate import PchipInterpolator
from scipy.optimize import minimize_scalar

from esp_diagnostics.physics.arrays import Floats
from esp_diagnostics.physics.piecewise import PiecewisePolynomial

WATER_HP_PER_BPD_FT: Final = 7.37e-6
"""Hydraulic horsepower of lifting 1 bpd of water by 1 ft: BHP = 7.37e-6·Q·H·SG/η."""

CHECKED_RATES: Final = 201
"""Number of rates at which a curve is validated; dense enough for any bend of a stage curve."""

REAL_TOLERANCE: Final = 1e-9
"""Largest imaginary part, relative to the root, of a root taken as real."""

MAX_DEGREE: Final = 9
"""Highest degree; fits of higher degree oscillate and lose precision at rates in the thousands."""


class InvalidCurve(InvalidInput):
    """Curve that is physically impossible or cannot be parsed."""

    code, title = "invalid-curve", "Invalid pump curve"


@dataclass(frozen=True)
class Polynomial:
    """Quantity of one stage as Σ coefficients[i]·rateⁱ, rate in bpd, lowest power first."""

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise InvalidCurve unless the coefficients are finite and between 1 and MAX_DEGREE + 1."""
        if not 1 <= len(self.coefficients) <= MAX_DEGREE + 1:
            raise InvalidCurve(
                f"a polynomial has 1 to {MAX_DEGREE + 1} coefficients, not {len(self.coefficients)}",
                fix="give the maker's coefficients, lowest power first",
            )
        _require_finite("coefficients", self.coefficients)

    @property
    def first_bpd(self) -> float:
        """First rate of the domain."""
        return 0.0

    @property
    def last_bpd(self) -> float:
        """Last rate of the domain: unbounded."""
        return np.inf

    def values(self, rate_bpd: Floats) -> Floats:
        """Return the quantity at `rate_bpd`, any shape."""
        return np.asarray(self._series(rate_bpd))

    def zeros_bpd(self) -> list[float]:
        """Return the rates at which the quantity is zero."""
        return _real_positive(self._series.roots())

    def turns_bpd(self) -> list[float]:
        """Return the rates at which the slope is zero."""
        return _real_positive(self._series.deriv().roots())

    def piecewise(self) -> PiecewisePolynomial:
        """Return the polynomial as a piecewise polynomial of one piece."""
        return PiecewisePolynomial(np.zeros(1), np.array(self.coefficients)[:, None])

    @property
    def _series(self) -> Series:
        return Series(self.coefficients)


@dataclass(frozen=True)
class RateTable:
    """Quantity of one stage at given rates (bpd), interpolated by a monotone cubic.

    Source: Fritsch and Carlson, SIAM J. Numer. Anal. 17 (1980), as implemented in scipy.
    """

    rates_bpd: tuple[float, ...]
    at_rates: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise InvalidCurve unless at least three finite rates rise, each with a finite value."""
        if len(self.rates_bpd) != len(self.at_rates) or len(self.rates_bpd) < 3:
            raise InvalidCurve(
                f"a table needs at least three rates and one value per rate; it has {len(self.rates_bpd)} "
                f"rates and {len(self.at_rates)} values",
                fix="give a value for each rate",
            )
        _require_finite("rates", self.rates_bpd)
        _require_finite("values", self.at_rates)
        if self.rates_bpd[0] < 0:
            raise InvalidCurve(f"a table starts at {self.rates_bpd[0]:g} bpd", fix="start at 0 or above")
        if (stuck := np.flatnonzero(np.diff(self.rates_bpd) <= 0)).size:
            before, after = self.rates_bpd[stuck[0]], self.rates_bpd[stuck[0] + 1]
            raise InvalidCurve(
                f"the rates of a table must rise, but {after:g} bpd follows {before:g} bpd",
                fix="sort the rows by rate and list each rate once",
            )

    @property
    def first_bpd(self) -> float:
        """First rate of the domain."""
        return self.rates_bpd[0]

    @property
    def last_bpd(self) -> float:
        """Last rate of the domain."""
        return self.rates_bpd[-1]

    def values(self, rate_bpd: Floats) -> Floats:
        """Return the quantity at `rate_bpd`, any shape; extrapolated beyond the table."""
        return np.asarray(self._cubic(rate_bpd))

    def zeros_bpd(self) -> list[float]:
        """Return the rates within the table at which the quantity is zero."""
        return _real_positive(self._cubic.roots(extrapolate=False))

    def turns_bpd(self) -> list[float]:
        """Return the rates within the table at which the slope is zero."""
        return _real_positive(self._cubic.derivative().roots(extrapolate=False))

    def piecewise(self) -> PiecewisePolynomial:
        """Return the interpolation as a piecewise polynomial of cubics."""
        return PiecewisePolynomial(np.array(self.rates_bpd[:-1]), np.array(self._cubic.c)[::-1])

    @cached_property
    def _cubic(self) -> PchipInterpolator:
        return PchipInterpolator(self.rates_bpd, self.at_rates)


Shape = Polynomial | RateTable


@dataclass(frozen=True)
class PumpCurve:
    """Performance of one stage of a pump model in water at `rated_frequency_hz`.

    `head_ft` and `brake_hp` are functions of rate (bpd); `brake_hp` is None if unpublished. `min_bpd` to
    `max_bpd` is the recommended range, `declared_best_bpd` the manufacturer's best-efficiency rate.
    `gas_handler` stages keep more of their head with free gas.

    Raise InvalidCurve unless all numbers are finite, head falls over the recommended range, and head and
    power (if published) are positive there.
    """

    model: str
    head_ft: Shape
    min_bpd: float
    max_bpd: float
    brake_hp: Shape | None = None
    rated_frequency_hz: float = 60.0
    declared_best_bpd: float | None = None
    gas_handler: bool = False

    def __post_init__(self) -> None:
        """Validate the curve."""
        self._check_numbers()
        rates = np.linspace(self.min_bpd, self.max_bpd, CHECKED_RATES)
        self._check_head(rates)
        self._check_power(rates)

    @cached_property
    def falling_bpd(self) -> tuple[float, float]:
        """Return the first and last rate of the falling branch (bpd).

        It starts at the last maximum of head before the recommended range. It ends where, after the range,
        head reaches zero, rises again (as fitted polynomials do) or the table ends.
        """
        turns = self.head_ft.turns_bpd()
        ends = [*turns, *self.head_ft.zeros_bpd(), self.head_ft.last_bpd]
        return (
            max([self.head_ft.first_bpd, *(turn for turn in turns if turn <= self.min_bpd)]),
            min(end for end in ends if end >= self.max_bpd),
        )

    @cached_property
    def best_bpd(self) -> float:
        """Return the best-efficiency rate (bpd): declared, else computed from power, else NaN."""
        if self.declared_best_bpd is not None:
            return self.declared_best_bpd
        if self.brake_hp is None:
            return float("nan")
        rates = np.linspace(self.min_bpd, self.max_bpd, CHECKED_RATES)
        peak = int(np.argmax(self.efficiency(rates)))
        around = rates[max(peak - 1, 0)], rates[min(peak + 1, CHECKED_RATES - 1)]
        best = minimize_scalar(
            lambda rate: -float(self.efficiency(np.asarray(rate))), bounds=around, method="bounded"
        )
        return float(best.x)

    def efficiency(self, rate_bpd: Floats) -> Floats:
        """Return the efficiency η (fraction) at `rate_bpd`, any shape; NaN without a power curve.

        η = 7.37e-6·Q (bpd)·H (ft)/BHP in water.
        """
        if self.brake_hp is None:
            return np.full(rate_bpd.shape, np.nan)
        power = self.brake_hp.values(rate_bpd)
        return WATER_HP_PER_BPD_FT * rate_bpd * self.head_ft.values(rate_bpd) / power

    def _check_numbers(self) -> None:
        _require_finite("rates", (self.min_bpd, self.max_bpd, self.declared_best_bpd or 1.0))
        if not 0 <= self.min_bpd < self.max_bpd:
            raise InvalidCurve(
                f"{self.model}: {self.min_bpd:g} to {self.max_bpd:g} bpd is not a valid recommended range",
                fix="give the lower bound first",
            )
        if not 0 < self.rated_frequency_hz < np.inf:
            raise InvalidCurve(
                f"{self.model}: rated frequency {self.rated_frequency_hz:g} Hz must be positive",
                fix="give the frequency of the published curve, usually 60 or 50 Hz",
            )
        if self.declared_best_bpd is not None and not self.min_bpd <= self.declared_best_bpd <= self.max_bpd:
            raise InvalidCurve(
                f"{self.model}: best-efficiency rate {self.declared_best_bpd:g} bpd is outside the "
                f"recommended range {self.min_bpd:g} to {self.max_bpd:g} bpd",
                fix="check its unit, or omit it",
            )

    def _check_head(self, rates: Floats) -> None:
        self._check_covered("head", self.head_ft)
        head = self.head_ft.values(rates)
        if rising := np.flatnonzero(np.diff(head) >= 0).tolist():
            raise InvalidCurve(
                f"{self.model}: head does not fall at {rates[rising[0]]:.4g} bpd, in the recommended range",
                fix="check the order of coefficients (lowest power first), the unit of rate, and the range",
            )
        if head[-1] <= 0:
            raise InvalidCurve(
                f"{self.model}: head is {head[-1]:.4g} ft at {rates[-1]:.4g} bpd, in the recommended range",
                fix="check the unit of rate (bpd) and the recommended range",
            )

    def _check_power(self, rates: Floats) -> None:
        if self.brake_hp is None:
            return
        self._check_covered("power", self.brake_hp)
        power = self.brake_hp.values(rates)
        if (power <= 0).any():
            raise InvalidCurve(
                f"{self.model}: power is {power.min():.4g} hp within the recommended range",
                fix="check the order of coefficients (lowest power first) and the unit of rate (bpd)",
            )

    def _check_covered(self, quantity: str, shape: Shape) -> None:
        if shape.first_bpd > self.min_bpd or shape.last_bpd < self.max_bpd:
            raise InvalidCurve(
                f"{self.model}: the {quantity} table spans {shape.first_bpd:g} to {shape.last_bpd:g} bpd and "
                f"misses part of the recommended range {self.min_bpd:g} to {self.max_bpd:g} bpd",
                fix="add rows, or narrow the range",
            )


def _require_finite(quantity: str, numbers: tuple[float, ...]) -> None:
    if not np.isfinite(numbers).all():
        raise InvalidCurve(
            f"{quantity} must be finite numbers, not {numbers}", fix="correct the values that are not numbers"
        )


def _real_positive(roots: npt.NDArray[Any]) -> list[float]:
    """Return the real roots ≥ 0; drop NaN, which marks a piece that is zero throughout."""
    real = roots.real[np.abs(roots.imag) <= REAL_TOLERANCE * np.maximum(np.abs(roots), 1.0)]
    return [float(root) for root in real if root >= 0]
