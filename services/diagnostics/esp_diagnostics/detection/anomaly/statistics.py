"""Running statistics of many rows: exponentially weighted means, T² and cumulative sums.

A row is a monitored pump, or a fold of the history in training, so both use the same statistics.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from esp_diagnostics.physics.arrays import Bools, Floats, Values

CLIP: Final = 10.0
"""Clip of scaled features, so that a single outlier is not an event."""

MAX_STEP: Final = 0.25
"""Maximum weight of one reading in time constants, however long the gap before it."""

FADING: Final = 0.5
"""Share of a cumulative sum that decays within a time constant while the gap is within the slack."""

FORGET: Final = 4.0
"""Time constants without a value after which a feature restarts from its reference."""


@dataclass(slots=True)
class RunningStatistics:
    """State of n rows and k features.

    `smoothed`: scaled values; `level`: what they are compared with; cumulative sums of `rises` and `falls`;
    `seen_s`: time of the last value (s), NaN for never.
    """

    smoothed: Floats
    level: Floats
    rises: Floats
    falls: Floats
    seen_s: Floats

    @classmethod
    def start(cls, n: int, k: int) -> "RunningStatistics":
        """Return the initial state."""
        zeros = np.zeros((4, n, k))
        return cls(zeros[0], zeros[1], zeros[2], zeros[3], np.full((n, k), np.nan))

    @property
    def gap(self) -> Floats:
        """Return the deviation of the smoothed values from their level (n, k)."""
        return self.smoothed - self.level


def smooth(state: RunningStatistics, scaled: Floats, now_s: Values, smoothing_s: Values) -> Floats:
    """Add one reading per row to the smoothed values, in place; return the step of each (n, k).

    `scaled` (n, k), NaN where missing: that feature is unchanged. `now_s` and `smoothing_s`: scalar or (n,
    1). The step is in time constants, 0 where nothing came. It grows with the time since the last value, so
    that one-minute means and ten-second readings yield the same statistics.
    """
    known = ~np.isnan(scaled)
    elapsed = (now_s - state.seen_s) / smoothing_s
    anew = known & ~(elapsed <= FORGET)
    if anew.any():
        state.smoothed[anew] = state.level[anew]
        state.rises[anew] = state.falls[anew] = 0.0
    step = np.where(anew, MAX_STEP, elapsed.clip(0.0, MAX_STEP))
    step[~known] = 0.0
    values = np.where(known, scaled, 0.0).clip(-CLIP, CLIP)
    state.smoothed += -np.expm1(-step) * (values - state.smoothed)
    np.copyto(state.seen_s, now_s, where=known)
    return np.asarray(step)


def follow(state: RunningStatistics, step: Floats, pace: Values) -> None:
    """Let the level follow the smoothed values by `step` (n, k) of `smooth`, in place.

    `pace`, scalar or (n, 1): time constant of the smoothing over that of the level; 0 freezes the level.
    """
    state.level -= np.expm1(-step * pace) * state.gap


def accumulate(state: RunningStatistics, step: Floats, spread: Floats, slack: Values, cap: Values) -> None:
    """Advance the cumulative sums by `step` (n, k) of `smooth`, in place.

    A sum grows by the excess of the gap over `slack`, in standard deviations (`spread`), times the step, up
    to `cap`. It decays while the gap is within the slack. `slack` and `cap`: scalar or (n, 1).
    """
    units = state.gap / spread
    faded = np.exp(-FADING * step)
    for sums, above in ((state.rises, units - slack), (state.falls, -units - slack)):
        np.minimum(np.where(above > 0, sums + above * step, sums * faded), cap, out=sums)


def present(state: RunningStatistics, now_s: Values, smoothing_s: Values) -> Bools:
    """Return which features (n, k) have a value within a time constant."""
    return np.asarray(now_s - state.seen_s <= smoothing_s)


def contributions_to_distance(gap: Floats, precision: Floats, available: Bools) -> Floats:
    """Return the contribution of each present feature to T² (n, k).

    `precision` (n, k, k): inverse covariance, zero rows for unused features. The contributions add up to the
    squared Mahalanobis distance of the marginal distribution: a missing feature takes its conditional
    expectation and contributes nothing.
    """
    filled = np.where(available, gap, 0.0)
    gradient = np.matmul(precision, filled[..., None])[..., 0]
    missing = ~available & (np.diagonal(precision, axis1=1, axis2=2) > 0)
    rows = np.flatnonzero(missing.any(axis=1))
    if len(rows):
        filled[rows] += _expected(precision[rows], gradient[rows], missing[rows])
        gradient[rows] = np.matmul(precision[rows], filled[rows][..., None])[..., 0]
    return np.asarray(np.where(available, filled * gradient, 0.0))


def _expected(precision: Floats, gradient: Floats, missing: Bools) -> Floats:
    """Return (n, k) the values of features `missing` that minimize T², 0 elsewhere."""
    both = missing[:, :, None] & missing[:, None, :]
    system = np.where(both, precision, np.eye(precision.shape[1]) * ~missing[:, :, None])
    return np.asarray(np.linalg.solve(system, np.where(missing, -gradient, 0.0)[..., None])[..., 0])
