"""Chains of polynomials: the common form of polynomial and table curves, one column for each pump."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from esp_diagnostics.physics.arrays import Floats


class Chain(NamedTuple):
    """One function of rate: from `starts[k]` on it is Σ coefficients[i, k]·(rate − starts[k])ⁱ.

    `starts` (K,) rise; `coefficients` (D+1, K), lowest power first.
    """

    starts: Floats
    coefficients: Floats


class Local(NamedTuple):
    """Pieces picked for given rates: Σ coefficients[i]·(rate − start)ⁱ, shapes (..., n) and (D+1, ..., n)."""

    start: Floats
    coefficients: Floats

    def value(self, rate: Floats) -> Floats:
        """Return the functions' values at `rate` (..., n), by Horner's rule."""
        return self.value_and_slope(rate)[0]

    def value_and_slope(self, rate: Floats) -> tuple[Floats, Floats]:
        """Return the functions' values and their derivatives at `rate` (..., n), in one pass."""
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
class Pieces:
    """Functions of rate for n pumps, as `Chain`s side by side.

    `starts` (K, n), infinite where a pump's chain has fewer pieces; `coefficients` (D+1, K, n), zero
    where its polynomials have fewer terms.
    """

    starts: Floats
    coefficients: Floats

    @classmethod
    def stack(cls, chains: Sequence[Chain]) -> Self:
        """Return `chains` side by side, padded to the longest."""
        terms = max(chain.coefficients.shape[0] for chain in chains)
        pieces = max(len(chain.starts) for chain in chains)
        starts = np.full((pieces, len(chains)), np.inf)
        coefficients = np.zeros((terms, pieces, len(chains)))
        for column, chain in enumerate(chains):
            degree, count = chain.coefficients.shape
            starts[:count, column] = chain.starts
            coefficients[:degree, :count, column] = chain.coefficients
        return cls(starts, coefficients)

    def take(self, index: npt.NDArray[np.intp]) -> Self:
        """Return the functions of the pumps at `index`."""
        return type(self)(self.starts[:, index], self.coefficients[:, :, index])

    def at(self, rate: Floats) -> Local:
        """Return the piece that holds at each `rate` (..., n); below the first start the first one does."""
        if len(self.starts) == 1:
            return Local(self.starts[0], self.coefficients[:, 0])
        piece = np.zeros(rate.shape, dtype=np.intp)
        for start in self.starts[1:]:
            piece += rate >= start
        return self.pick(piece)

    def pick(self, piece: npt.NDArray[np.intp]) -> Local:
        """Return piece number `piece` (..., n) of each pump."""
        pumps = self.starts.shape[1]
        place = piece * pumps + np.arange(pumps)
        flat = self.coefficients.reshape(len(self.coefficients), -1)
        return Local(self.starts.ravel()[place], flat.take(place, axis=1))

    def value(self, rate: Floats) -> Floats:
        """Return the functions' values at `rate` (..., n)."""
        return self.at(rate).value(rate)
