"""The running statistics: exponentially weighted means, T² and cumulative sums, of many rows at once.

A row is a pump that is watched, or a way to look at the history in training: both see the same.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from esp_diagnostics.physics.arrays import Bools, Floats, Values

CLIP: Final = 10.0
"""Scaled features are cut here, so that one wild reading is not an event."""

GREATEST_STEP: Final = 0.25
"""Of the time constant: what one reading may stand for, however long nothing came before it."""

FADING: Final = 0.5
"""Share of a cumulative sum that is lost in a time constant without cause, at first."""

FORGET: Final = 4.0
"""Time constants without a value after which a feature starts anew, from its reference."""


@dataclass(slots=True)
class Running:
    """State of n rows and k features.

    `smoothed` scaled values; `level` they are compared with; sums of `rises` and of `falls`; when last seen
    (s), NaN for never.
    """

    smoothed: Floats
    level: Floats
    rises: Floats
    falls: Floats
    seen_s: Floats

    @classmethod
    def start(cls, n: int, k: int) -> "Running":
        """Return the state of rows that have seen nothing."""
        zeros = np.zeros((4, n, k))
        return cls(zeros[0], zeros[1], zeros[2], zeros[3], np.full((n, k), np.nan))

    @property
    def gap(self) -> Floats:
        """Return how far smoothed values are from their level (n, k)."""
        return self.smoothed - self.level


def smooth(state: Running, scaled: Floats, now_s: Values, smoothing_s: Values) -> Floats:
    """Take one reading a row into the smoothed values, in place; return how far each moved on (n, k).

    `scaled` (n, k), NaN where missing: that feature stays as it is. `now_s` and `smoothing_s` scalar or
    (n, 1). What comes back is in time constants, 0 where nothing came. It grows with the time since the
    last value, so that one-minute means and ten-second readings lead to the same statistics.
    """
    known = ~np.isnan(scaled)
    elapsed = (now_s - state.seen_s) / smoothing_s
    anew = known & ~(elapsed <= FORGET)
    if anew.any():
        state.smoothed[anew] = state.level[anew]
        state.rises[anew] = state.falls[anew] = 0.0
    step = np.where(anew, GREATEST_STEP, elapsed.clip(0.0, GREATEST_STEP))
    step[~known] = 0.0
    values = np.where(known, scaled, 0.0).clip(-CLIP, CLIP)
    state.smoothed += -np.expm1(-step) * (values - state.smoothed)
    np.copyto(state.seen_s, now_s, where=known)
    return np.asarray(step)


def follow(state: Running, step: Floats, pace: Values) -> None:
    """Let the level come after the smoothed values by `step` (n, k) of `smooth`, in place.

    `pace` scalar or (n, 1): time constants of the smoothing over the level's; 0 keeps the level.
    """
    state.level -= np.expm1(-step * pace) * state.gap


def accumulate(state: Running, step: Floats, spread: Floats, slack: Values, cap: Values) -> None:
    """Move the cumulative sums on by `step` (n, k) of `smooth`, in place.

    A sum grows by what the gap is above `slack`, in standard deviations (`spread`), times the time it
    took, up to `cap`; once the gap is within the slack again, the sum fades, so that an event's end shows.
    `slack` and `cap` scalar or (n, 1).
    """
    units = state.gap / spread
    faded = np.exp(-FADING * step)
    for sums, above in ((state.rises, units - slack), (state.falls, -units - slack)):
        np.minimum(np.where(above > 0, sums + above * step, sums * faded), cap, out=sums)


def present(state: Running, now_s: Values, smoothing_s: Values) -> Bools:
    """Return which features (n, k) were seen within a time constant and so take part."""
    return np.asarray(now_s - state.seen_s <= smoothing_s)


def pulls(gap: Floats, precision: Floats, there: Bools) -> Floats:
    """Return what each feature adds to T² (n, k), of the features that are `there`.

    `precision` (n, k, k), the inverse covariance, zero rows for unused features. Their sum is the squared
    Mahalanobis distance of the marginal distribution: a missing feature is where the others lead to
    expect it, and adds nothing.
    """
    filled = np.where(there, gap, 0.0)
    pulled = np.matmul(precision, filled[..., None])[..., 0]
    wanting = ~there & (np.diagonal(precision, axis1=1, axis2=2) > 0)
    rows = np.flatnonzero(wanting.any(axis=1))
    if len(rows):
        filled[rows] += _expected(precision[rows], pulled[rows], wanting[rows])
        pulled[rows] = np.matmul(precision[rows], filled[rows][..., None])[..., 0]
    return np.asarray(np.where(there, filled * pulled, 0.0))


def _expected(precision: Floats, pulled: Floats, wanting: Bools) -> Floats:
    """Return (n, k) the values of features `wanting` that make T² least, 0 elsewhere."""
    both = wanting[:, :, None] & wanting[:, None, :]
    system = np.where(both, precision, np.eye(precision.shape[1]) * ~wanting[:, :, None])
    return np.asarray(np.linalg.solve(system, np.where(wanting, -pulled, 0.0)[..., None])[..., 0])
