"""Trains a detector of one pump from its own healthy past."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sklearn.covariance import ledoit_wolf  # type: ignore[import-untyped]

from esp_diagnostics.domain.anomaly import statistics
from esp_diagnostics.domain.anomaly.model import Detector, Learning, Reference, Settings
from esp_diagnostics.domain.arrays import Bools, Floats

LONGEST_STEP_S: Final = 600.0
"""What one reading counts for, at most, when hours of running are added up."""

COVERAGE: Final = 0.5
"""A feature that is there less often than this is left out."""

FINEST: Final = 1e-3
"""Scales are at least this share of the centre: below it the last digits of instruments are judged."""

SAMPLE: Final = 0.5
"""Time constants between the samples the covariance is of: closer ones are as good as the same."""

NORMAL_MAD: Final = 1.4826
FEWEST_FEATURES: Final = 2

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class _History:
    """Healthy steady rows, oldest first, of regimes that are known; `place` (n,) their index.

    `block` (n,) says when a row is held out: fold b is fitted to all rows of other blocks, the last fold,
    one more than there are blocks, to all.
    """

    features: Floats
    time_s: Floats
    regimes: Integers
    place: Integers
    block: Integers
    hours: float


@dataclass(frozen=True, slots=True)
class _Smoothed:
    """The history as each fold's reference smooths it.

    `own` (n, k) by the fold that left the row out, and the `steps` (n, k) and `there` (n, k) of that;
    `samples` (m, folds, k) now and then, and the `block` (m,) each is of.
    """

    own: Floats
    steps: Floats
    there: Bools
    samples: Floats
    block: Integers


def train(
    features: Floats,
    names: Sequence[str],
    regime: Integers,
    steady: Bools,
    times_us: Integers,
    settings: Settings | None = None,
) -> Detector | Learning:
    """Return a detector of one pump, or why there is none yet.

    `features` (n, k) in any units, NaN where missing; `names` of the k; `regime` (n,) an id of the operating
    regime; `steady` (n,) true for rows of healthy steady running: leave out starts, setpoint changes and
    times with a finding; `times_us` (n,) µs since 1970. The reference is of the whole history. The limits
    are conformal: each block of time is judged by a reference fitted to the others, and the limits leave
    `false_alarm_share` of those scores above them.
    """
    settings = settings or Settings()
    history = _history(features, regime, steady, times_us, settings)
    if history.hours < settings.minimum_hours:
        wanted = f"{history.hours:.1f} of {settings.minimum_hours:g} hours of healthy steady running"
        return Learning(wanted, history.hours / settings.minimum_hours)
    centers, scales = _places(history, settings.blocks + 1)
    used = (np.mean(~np.isnan(history.features), axis=0) >= COVERAGE) & (scales[-1] > 0).all(axis=0)
    if np.count_nonzero(used) < FEWEST_FEATURES:
        return Learning("too few features are measured often enough and vary", 0.0)
    smoothed = _smoothed(history, centers, scales, used, settings.smoothing_s)
    shapes = [_shape(smoothed, fold, used) for fold in range(settings.blocks + 1)]
    distances, sums = _held_out(history, smoothed, shapes, settings)
    distance_limit, sum_limit = limits(distances, sums, settings.false_alarm_share)
    spread, precision = shapes[-1]
    return Detector(
        names=tuple(names),
        reference=Reference(
            regimes=history.regimes,
            center=np.where(used, centers[-1], 0.0),
            scale=np.where(used, scales[-1], 1.0),
            used=used,
            spread=spread,
            precision=precision,
        ),
        distance_limit=distance_limit,
        sum_limit=sum_limit,
        settings=settings,
        trained_from_us=round(history.time_s[0] * 1e6),
        trained_to_us=round(history.time_s[-1] * 1e6),
        samples=len(history.time_s),
        hours=history.hours,
    )


def limits(distances: Floats, sums: Floats, false_alarm_share: float) -> tuple[float, float]:
    """Return the limits of T² and of the sums that together leave a share of held-out samples above.

    Split conformal: of n scores the ceil((n + 1)(1 − α))-th smallest. Both are scaled by their own
    quantile first, then raised together until the greater of the two keeps the share.
    """
    first, second = (_quantile(scores, false_alarm_share) for scores in (distances, sums))
    together = _quantile(np.maximum(distances / first, sums / second), false_alarm_share)
    return first * together, second * together


def _quantile(scores: Floats, share_above: float) -> float:
    rank = int(np.ceil((len(scores) + 1) * (1.0 - share_above)))
    return max(float(np.sort(scores)[min(rank, len(scores)) - 1]), 1e-6)


def _history(
    features: Floats, regime: Integers, steady: Bools, times_us: Integers, settings: Settings
) -> _History:
    """Return the rows to learn from: steady, in time's order, of regimes that ran long enough."""
    order = np.flatnonzero(steady)[np.argsort(times_us[steady], kind="stable")]
    time_s = times_us[order] / 1e6
    step_h = np.diff(time_s, prepend=time_s[:1]).clip(max=LONGEST_STEP_S) / 3600.0
    found, place = np.unique(regime[order], return_inverse=True)
    enough = np.bincount(place, weights=step_h, minlength=len(found)) >= settings.minimum_regime_hours
    rows = enough[place]
    n = int(np.count_nonzero(rows))
    return _History(
        features=features[order][rows],
        time_s=time_s[rows],
        regimes=found[enough],
        place=(np.cumsum(enough) - 1)[place[rows]],
        block=np.arange(n) * settings.blocks // max(n, 1),
        hours=float(step_h[rows].sum()),
    )


def _places(history: _History, folds: int) -> tuple[Floats, Floats]:
    """Return centre and scale (folds, r, k): median and scaled median deviation of a fold's rows.

    A regime that a fold has not seen is NaN there. The finest scale is a share of the centre.
    """
    shape = (folds, len(history.regimes), history.features.shape[1])
    centers, scales = np.full(shape, np.nan), np.full(shape, np.nan)
    for fold in range(folds):
        for place in range(len(history.regimes)):
            values = history.features[(history.block != fold) & (history.place == place)]
            if len(values):
                center = _median(values)
                deviation = NORMAL_MAD * _median(np.abs(values - center))
                centers[fold, place] = center
                scales[fold, place] = np.maximum(deviation, FINEST * np.abs(center))
    return centers, scales


def _median(values: Floats) -> Floats:
    """Return the median of each column's numbers, NaN where it has none."""
    ordered = np.sort(values, axis=0)
    last: Integers = np.count_nonzero(~np.isnan(values), axis=0) - 1
    columns = np.arange(values.shape[1])
    return np.asarray((ordered[last // 2, columns] + ordered[(last + 1) // 2, columns]) / 2.0)


def _smoothed(
    history: _History, centers: Floats, scales: Floats, used: Bools, smoothing_s: float
) -> _Smoothed:
    """Run the smoothing over the history, all folds at once."""
    state = statistics.Running.start(len(centers), history.features.shape[1])
    factors = np.where(used & (scales > 0), 1.0 / np.where(scales > 0, scales, 1.0), np.nan)
    own, steps = np.empty_like(history.features), np.empty_like(history.features)
    there = np.empty(own.shape, dtype=bool)
    samples, blocks, sampled_s = [], [], -np.inf
    for row, now_s in enumerate(history.time_s):
        place, block = history.place[row], history.block[row]
        scaled = (history.features[row] - centers[:, place]) * factors[:, place]
        steps[row] = statistics.smooth(state, scaled, now_s, smoothing_s)[block]
        own[row] = state.smoothed[block]
        there[row] = now_s - state.seen_s[block] <= smoothing_s
        if now_s - sampled_s >= SAMPLE * smoothing_s:
            samples.append(state.smoothed.copy())
            blocks.append(block)
            sampled_s = now_s
    return _Smoothed(own, steps, there, np.array(samples), np.array(blocks))


def _shape(smoothed: _Smoothed, fold: int, used: Bools) -> tuple[Floats, Floats]:
    """Return how a fold's smoothed features vary: standard deviations (k,), inverse covariance (k, k)."""
    samples = smoothed.samples[smoothed.block != fold, fold][:, used]
    deviation = np.sqrt(np.mean(samples**2, axis=0))
    deviation = np.where(deviation > 0, deviation, 1.0)
    covariance, _ = ledoit_wolf(samples / deviation, assume_centered=True)
    spread, precision = np.ones(len(used)), np.zeros((len(used), len(used)))
    spread[used] = deviation
    precision[np.ix_(used, used)] = np.linalg.inv(covariance) / np.outer(deviation, deviation)
    return spread, precision


def _held_out(
    history: _History,
    smoothed: _Smoothed,
    shapes: list[tuple[Floats, Floats]],
    settings: Settings,
) -> tuple[Floats, Floats]:
    """Return T² and the greatest cumulative sum (n,) of every row, by the fold that left it out."""
    distances, sums = np.empty(len(smoothed.own)), np.empty(len(smoothed.own))
    k = smoothed.own.shape[1]
    for block in range(settings.blocks):
        rows = np.flatnonzero(history.block == block)
        spread, precision = shapes[block]
        every = np.broadcast_to(precision, (len(rows), k, k))
        distances[rows] = statistics.pulls(smoothed.own[rows], every, smoothed.there[rows]).sum(axis=1)
        state = statistics.Running.start(1, k)
        for row in rows:
            state.smoothed[0] = smoothed.own[row]
            statistics.accumulate(state, smoothed.steps[row], spread, settings.slack, np.inf)
            sums[row] = max(state.rises.max(), state.falls.max())
    return distances, sums
