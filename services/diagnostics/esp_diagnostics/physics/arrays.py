"""Array types of the physics modules."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Reasons = npt.NDArray[np.int8]
"""Array of `Reason` members, one per value."""

Values = Floats | float


class Reason(IntEnum):
    """Reason why a value is missing. A value whose reason is not OK is NaN."""

    OK = 0
    MISSING = 1
    """An input is missing or outside the range of a correction (liquid too viscous for the charts)."""
    STOPPED = 2
    """The pump does not turn, or the well does not flow."""
    ABOVE_CURVE = 3
    """The head exceeds the maximum of the falling branch at this frequency."""
    BELOW_CURVE = 4
    """The head is below that at the end of the curve: the rate would be beyond it."""
    BEYOND_CURVE = 5
    """The rate is negative or beyond the end of the curve."""
    NO_HEAD = 6
    """Free gas leaves the pump no head (gas lock)."""


def first_reason(*cases: tuple[Bools, Reason]) -> Reasons:
    """Return, elementwise, the reason of the first case that holds, else OK."""
    conditions, reasons = zip(*cases, strict=True)
    return np.select(conditions, [np.int8(reason) for reason in reasons], np.int8(Reason.OK))
