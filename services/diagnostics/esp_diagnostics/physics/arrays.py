"""The array types of the physics."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Reasons = npt.NDArray[np.int8]
"""Members of `Reason`, one for each value they explain."""

Values = Floats | float


class Reason(IntEnum):
    """Why a value is, or is not, there. A value whose reason is not OK is NaN."""

    OK = 0
    MISSING = 1
    """An input is missing, or a correction does not reach so far (liquid too thick for the charts)."""
    STOPPED = 2
    """The pump does not turn, or the well does not flow: there is nothing to compare."""
    ABOVE_CURVE = 3
    """The head is more than the pump makes at this frequency anywhere on the falling branch."""
    BELOW_CURVE = 4
    """The head is less than at the end of the curve: the rate would be beyond it."""
    BEYOND_CURVE = 5
    """The rate is negative, or beyond the end of the curve."""
    NO_HEAD = 6
    """The fluid leaves the pump no head at all (gas lock)."""


def first_reason(*cases: tuple[Bools, Reason]) -> Reasons:
    """Return for each place the reason of the first of `cases` that holds there, OK where none does."""
    conditions, reasons = zip(*cases, strict=True)
    return np.select(conditions, [np.int8(reason) for reason in reasons], np.int8(Reason.OK))
