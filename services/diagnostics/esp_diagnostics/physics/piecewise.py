"""Piecewise polynomials: common form of polynomial and table curves, one column per pump."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from esp_diagnostics.physics.arrays import Floats


class PiecewisePolynomial(NamedTuple):
    """Function of rate: from `starts[k]` on it is Σ coefficients[i, k]·(rate − starts[k])ⁱ.

    `starts` (K,) rise; `coefficients` (D+1, K), lowest power first.
    """

    starts: Floats
    coefficients: Floats


class SelectedPieces(NamedTuple):
    """Pieces selected by rate: Σ coefficients[i]·(rate − start)ⁱ, shapes (..., n) and (D+1, ..., n)."""

    start: Floats
    coefficients: Floats

    def value(self, rate: Floats) -> Floats:
        """Return the values at `rate` (..., n), by Horner's rule."""
        return self.value_and_slope(rate)[0]

    def value_and_slope(self, rate: Floats) -> tuple[Floats, Floats]:
        """Return the values and derivatives at `rate` (..., n), in one pass."""
        offset = rate - self.start
        value = np.zeros(np.broadcast_shapes(offset.shape, self.coefficients.shape[1:]))
        slope = np.zeros_like(value)
        for coefficient in self.coefficients[::-1]:
            slope *= offset
            slope += value
            value *= offset
            value += coefficient
        return value, slope


@dataclass(frozen=True, slots=True)
class PiecewisePolynomials:
    """Functions of rate of n pumps, as columns of `PiecewisePolynomial`s.

    `starts` (K, n), infinite where a pump has fewer pieces; `coefficients` (D+1, K, n), zero where its
    polynomials have fewer terms.
    """

    starts: Floats
    coefficients: Floats

    @classmethod
    def stack(cls, functions: Sequence[PiecewisePolynomial]) -> Self:
        """Return `functions` as columns, padded to the longest."""
        terms = max(function.coefficients.shape[0] for function in functions)
        pieces = max(len(function.starts) for function in functions)
        starts = np.full((pieces, len(functions)), np.inf)
        coefficients = np.zeros((terms, pieces, len(functions)))
        for column, function in enumerate(functions):
            degree, count = function.coefficients.shape
            starts[:count, column] = function.starts
            coefficients[:degree, :count, column] = function.coefficients
        return cls(starts, coefficients)

    def take(self, index: npt.NDArray[np.intp]) -> Self:
        """Return the functions of the pumps at `index`."""
        return type(self)(self.starts[:, index], self.coefficients[:, :, index])

    def at(self, rate: Floats) -> SelectedPieces:
        """Return the piece that applies at each `rate` (..., n); the first piece extends below its start."""
        if len(self.starts) == 1:
            return SelectedPieces(self.starts[0], self.coefficients[:, 0])
        piece = np.zeros(rate.shape, dtype=np.intp)
        for start in self.starts[1:]:
            piece += rate >= start
        return self.pick(piece)

    def pick(self, piece: npt.NDArray[np.intp]) -> SelectedPieces:
        """Return piece number `piece` (..., n) of each pump."""
        pumps = self.starts.shape[1]
        place = piece * pumps + np.arange(pumps)
        flat = self.coefficients.reshape(len(self.coefficients), -1)
        return SelectedPieces(self.starts.ravel()[place], flat.take(place, axis=1))

    def value(self, rate: Floats) -> Floats:
        """Return the values at `rate` (..., n)."""
        return self.at(rate).value(rate)
