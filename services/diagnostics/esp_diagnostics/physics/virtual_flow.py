"""Virtual flow rate: the rate at which a pump makes the measured head."""

from typing import Final, NamedTuple

import numpy as np

from esp_diagnostics.physics.arrays import Floats, Reason, Reasons, Values, first_reason
from esp_diagnostics.physics.piecewise import SelectedPieces
from esp_diagnostics.physics.pumps import WATER, Correction, Pumps, head_scale, rate_scale

MAX_STEPS: Final = 80
"""Bisection alone narrows a bracket to nothing in 60 steps; Newton's method takes about 6."""

RATE_TOLERANCE: Final = 1e-10
"""Tolerance relative to the last rate of the curve."""


class Flow(NamedTuple):
    """Virtual flow rate through the pump (..., n), NaN where `reason` is not OK.

    `sigma_bpd`: standard uncertainty due to that of the head. Where the curve is flat it grows to the width
    of the falling branch, and the rate is meaningless.
    """

    rate_bpd: Floats
    sigma_bpd: Floats
    reason: Reasons


class _Bracket(NamedTuple):
    """Piece of each curve that contains a head, and the rates that bracket it."""

    piece: SelectedPieces
    low: Floats
    high: Floats


def virtual_flow(
    pumps: Pumps,
    frequency_hz: Values,
    head_ft: Values,
    relative_head_sigma: Values = 0.01,
    correction: Correction = WATER,
) -> Flow:
    """Return the rate at which the pump makes `head_ft` on its falling branch.

    `frequency_hz`, `head_ft` and `relative_head_sigma` (standard uncertainty of the head as a fraction, from
    gauges, density and curve) broadcast to (..., n). A head that also occurs on a rising branch near shut-off
    is assigned to the falling branch, where pumps run stably. A head beyond the branch has no rate but a
    reason.

    Source: inverse of the curve; σ_Q = σ_H/|dH/dQ| to first order.
    """
    scale = head_scale(pumps, frequency_hz, correction)
    to_pump = rate_scale(pumps, frequency_hz, correction)
    with np.errstate(divide="ignore", invalid="ignore"):
        stage = head_ft / scale
    top, bottom = pumps.joint_heads_ft[0], pumps.joint_heads_ft[-1]
    reason = first_reason(
        (np.isnan(frequency_hz), Reason.MISSING),
        (np.asarray(frequency_hz) <= 0, Reason.STOPPED),
        (scale <= 0, Reason.NO_HEAD),
        (np.isnan(stage + to_pump), Reason.MISSING),
        (stage > top, Reason.ABOVE_CURVE),
        (stage < bottom, Reason.BELOW_CURVE),
    )
    known = reason == Reason.OK
    # Heads that cannot be found are replaced by one that is found fast, and their rates dropped.
    target = np.where(known, stage, (top + bottom) / 2.0)
    bracket = _bracket(pumps, target)
    rate = _root(bracket, target, RATE_TOLERANCE * float(pumps.ends_at_bpd.max(initial=1.0)))
    sigma = _sigma(pumps, bracket.piece, rate, relative_head_sigma * target)
    to_pump = np.where(known, to_pump, np.nan)
    return Flow(rate * to_pump, sigma * to_pump, reason)


def _bracket(pumps: Pumps, target: Floats) -> _Bracket:
    """Return the bracket of a stage head `target` (..., n), which lies on the falling branch."""
    low, high = pumps.falling_from_bpd, pumps.ends_at_bpd
    if len(pumps.head.starts) == 1:
        return _Bracket(pumps.head.at(low), low, high)
    piece = np.zeros(target.shape, dtype=np.intp)
    for start, head in zip(pumps.head.starts[1:], pumps.joint_heads_ft[1:-1], strict=True):
        piece += (target <= head) & (start < high)
    pump = np.arange(len(high))
    joints = pumps.joints_bpd
    return _Bracket(pumps.head.pick(piece), joints[piece, pump], joints[piece + 1, pump])


@np.errstate(divide="ignore", invalid="ignore")
def _root(bracket: _Bracket, target: Floats, tolerance_bpd: float) -> Floats:
    """Return the rates at which the pieces, falling between `low` and `high`, equal `target` (..., n).

    Newton's method within a shrinking bracket; a step that would leave it is replaced by a bisection.
    """
    piece, low, high = bracket
    rate = (low + high) / 2.0
    for _ in range(MAX_STEPS):
        value, slope = piece.value_and_slope(rate)
        above = value > target
        low, high = np.where(above, rate, low), np.where(above, high, rate)
        step = rate - (value - target) / slope
        inside = (step >= low) & (step <= high)
        before, rate = rate, np.where(inside, step, (low + high) / 2.0)
        if np.abs(rate - before).max(initial=0.0) <= tolerance_bpd:
            break
    return rate


def _sigma(pumps: Pumps, piece: SelectedPieces, rate: Floats, head_sigma: Values) -> Floats:
    slope = piece.value_and_slope(rate)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.abs(head_sigma / slope)
    return np.minimum(sigma, pumps.ends_at_bpd - pumps.falling_from_bpd)
