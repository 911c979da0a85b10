"""Train the detector of one pump on its healthy history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sklearn.covariance import ledoit_wolf  # type: ignore[import-untyped]

from esp_diagnostics.detection.anomaly import statistics
from esp_diagnostics.detection.anomaly.model import MIN_UNSTEADY_S, Detector, Learning, Reference, Settings
from esp_diagnostics.physics.arrays import Bools, Floats

MAX_STEP_S: Final = 600.0
"""Maximum running time credited to one reading."""

COVERAGE: Final = 0.5
"""Minimum share of rows with a value for a feature to be used."""

MIN_RELATIVE_SCALE: Final = 1e-3
"""Minimum scale as a share of the centre, so that instrument resolution is not scored."""

SAMPLE: Final = 0.5
"""Time constants between samples of the covariance; closer ones are nearly identical."""

MIDDLE: Final = (0.05, 0.95)
MIDDLE_SIGMAS: Final = 3.2897
"""Range of the middle 90 % of a normal distribution in standard deviations. The median absolute deviation
would be 0 for a channel whose instrument shows the same number most of the time."""

EXCLUDED: Final = frozenset({"virtual_flow", "power_residual"})
"""Features excluded because a well test shifts them without a change of the pump."""

MIN_SHRINKAGE: Final = 0.1
"""Minimum shrinkage of correlations. Features derived from each other (a gain and its two pressures) would
otherwise amplify instrument resolution."""

MIN_FEATURES: Final = 2

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class _History:
    """Healthy steady rows, oldest first, of known regimes; `place` (n,): index of their regime.

    `block` (n,): fold that holds the row out. Fold b is fitted to the rows of all other blocks, the last fold
    to all rows.
    """

    features: Floats
    time_s: Floats
    regimes: Integers
    place: Integers
    block: Integers
    hours: float


@dataclass(frozen=True, slots=True)
class _Smoothed:
    """History smoothed by the reference of each fold.

    `gaps`, `steps`, `there` (n, k): by the fold that held the row out. `samples` of the gaps (m, folds, k) at
    intervals, `values` (m, k) the smoothed values of the last fold at these times, `block` (m,) of each;
    `level` (k,) of the last fold at the end.
    """

    gaps: Floats
    steps: Floats
    there: Bools
    samples: Floats
    values: Floats
    block: Integers
    level: Floats


def train(
    features: Floats,
    names: Sequence[str],
    regime: Integers,
    steady: Bools,
    times_us: Integers,
    settings: Settings | None = None,
) -> Detector | Learning:
    """Train a detector of one pump, or return why that is not possible yet.

    `features` (n, k) in any units, NaN where missing; `names` (k); `regime` (n,): id of the operating regime;
    `steady` (n,): healthy steady running, without starts, setpoint changes and open findings; `times_us`
    (n,): µs since 1970. The reference covers the whole history. The limits are conformal: each time block is
    scored by a reference fitted to the other blocks, and `false_alarm_share` of these scores exceed the
    limits.
    """
    settings = settings or Settings()
    history = _history(features, regime, steady, times_us, settings)
    if history.hours < settings.minimum_hours:
        wanted = f"{history.hours:.1f} of {settings.minimum_hours:g} hours of healthy steady running"
        return Learning(wanted, history.hours / settings.minimum_hours)
    centers, scales = _places(history, settings.blocks + 1)
    used = (np.mean(~np.isnan(history.features), axis=0) >= COVERAGE) & (scales[-1] > 0).all(axis=0)
    used &= np.array([name not in EXCLUDED for name in names])
    if np.count_nonzero(used) < MIN_FEATURES:
        return Learning("too few features are measured often enough and vary", 0.0)
    smoothed = _smoothed(history, centers, scales, used, settings)
    shapes = [_shape(smoothed, fold, used) for fold in range(settings.blocks + 1)]
    distances, sums = _held_out(history, smoothed, shapes, used, settings)
    judged = smoothed.there.any(axis=1)  # not in a regime absent from the other blocks
    distance_limit, sum_limit = limits(distances[judged], sums[judged], settings.false_alarm_share)
    wander, wander_s = _wander(history, smoothed, used)
    return Detector(
        names=tuple(names),
        reference=Reference(
            regimes=history.regimes,
            center=np.where(used, centers[-1], 0.0),
            scale=np.where(used, scales[-1], 1.0),
            used=used,
            covariance=shapes[-1],
            level=smoothed.level,
            wander=wander,
            wander_s=wander_s,
        ),
        distance_limit=distance_limit * settings.margin,
        sum_limit=sum_limit * settings.margin**0.5,
        settings=settings,
        trained_from_us=round(history.time_s[0] * 1e6),
        trained_to_us=round(history.time_s[-1] * 1e6),
        samples=len(history.time_s),
        hours=history.hours,
    )


def limits(distances: Floats, sums: Floats, false_alarm_share: float) -> tuple[float, float]:
    """Return limits of T² and of the sums that together leave the given share of held-out samples above.

    Split conformal: the ceil((n + 1)(1 − α))-th smallest of n scores. Both limits are scaled by their own
    quantile, then raised together until the greater of the two keeps the share.
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
    """Return the rows to learn from: settled, in order of time, of regimes with enough running."""
    order = np.argsort(times_us, kind="stable")
    order = order[_settled(times_us[order] / 1e6, regime[order], steady[order], settings.settling_s)]
    time_s = times_us[order] / 1e6
    step_h = np.diff(time_s, prepend=time_s[:1]).clip(max=MAX_STEP_S) / 3600.0
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


def _settled(time_s: Floats, regime: Integers, steady: Bools, settling_s: float) -> Bools:
    """Return which rows, in order of time, are steady and settled after the last start or change."""
    before = np.concatenate(([True], steady[:-1]))
    left_s = np.maximum.accumulate(np.where(before & ~steady, time_s, -np.inf))
    changed = (steady & ~before & (time_s - left_s >= MIN_UNSTEADY_S))[steady]
    changed[1:] |= np.diff(regime[steady]) != 0
    since = np.maximum.accumulate(np.where(changed, time_s[steady], -np.inf))
    settled = steady.copy()
    settled[steady] = time_s[steady] - since >= settling_s
    return settled


def _places(history: _History, folds: int) -> tuple[Floats, Floats]:
    """Return centre and scale (folds, r, k) of each fold's rows, NaN for regimes without rows.

    Centre is the median, scale the scaled range of the middle 90 %, at least a share of the centre.
    """
    shape = (folds, len(history.regimes), history.features.shape[1])
    centers, scales = np.full(shape, np.nan), np.full(shape, np.nan)
    for fold in range(folds):
        for place in range(len(history.regimes)):
            values = history.features[(history.block != fold) & (history.place == place)]
            if len(values):
                low, center, high = _quantiles(values, (MIDDLE[0], 0.5, MIDDLE[1]))
                centers[fold, place] = center
                scales[fold, place] = np.maximum(
                    (high - low) / MIDDLE_SIGMAS, MIN_RELATIVE_SCALE * np.abs(center)
                )
    return centers, scales


def _quantiles(values: Floats, shares: Sequence[float]) -> list[Floats]:
    """Return quantiles of each column (k,), ignoring NaN."""
    ordered = np.sort(values, axis=0)
    last: Integers = np.count_nonzero(~np.isnan(values), axis=0) - 1
    columns = np.arange(values.shape[1])
    return [ordered[np.rint(share * last.clip(min=0)).astype(np.intp), columns] for share in shares]


def _smoothed(
    history: _History, centers: Floats, scales: Floats, used: Bools, settings: Settings
) -> _Smoothed:
    """Run the smoothing over the history, all folds at once."""
    pace = settings.smoothing_s / settings.follow_s
    state = statistics.RunningStatistics.start(len(centers), history.features.shape[1])
    factors = np.where(used & (scales > 0), 1.0 / np.where(scales > 0, scales, 1.0), np.nan)
    gaps, steps = np.empty_like(history.features), np.empty_like(history.features)
    there = np.empty(gaps.shape, dtype=bool)
    samples, values, blocks, sampled_s = [], [], [], -np.inf
    for row, now_s in enumerate(history.time_s):
        place, block = history.place[row], history.block[row]
        scaled = (history.features[row] - centers[:, place]) * factors[:, place]
        step = statistics.smooth(state, scaled, now_s, settings.smoothing_s)
        gap = state.gap
        gaps[row], steps[row] = gap[block], step[block]
        there[row] = now_s - state.seen_s[block] <= settings.smoothing_s
        statistics.follow(state, step, pace)
        if now_s - sampled_s >= SAMPLE * settings.smoothing_s:
            samples.append(gap)
            values.append(state.smoothed[-1].copy())
            blocks.append(block)
            sampled_s = now_s
    return _Smoothed(
        gaps, steps, there, np.array(samples), np.array(values), np.array(blocks), state.level[-1]
    )


def _shape(smoothed: _Smoothed, fold: int, used: Bools) -> Floats:
    """Return the covariance (k, k) of a fold's features about their level, identity where unused."""
    samples = smoothed.samples[smoothed.block != fold, fold][:, used]
    deviation = np.sqrt(np.mean(samples**2, axis=0))
    deviation = np.where(deviation > 0, deviation, 1.0)
    correlation, shrunk = ledoit_wolf(samples / deviation, assume_centered=True)
    correlation += max(MIN_SHRINKAGE - shrunk, 0.0) * (np.eye(len(correlation)) - correlation)
    covariance = np.eye(len(used))
    covariance[np.ix_(used, used)] = correlation * np.outer(deviation, deviation)
    return covariance


def _wander(history: _History, smoothed: _Smoothed, used: Bools) -> tuple[Floats, float]:
    """Return the mean squared drift of features within half of the history, and its seconds."""
    apart = len(smoothed.values) // 2
    moves = smoothed.values[apart:] - smoothed.values[: len(smoothed.values) - apart]
    return np.where(used, np.mean(moves**2, axis=0), 0.0), history.hours * 1800.0


def _held_out(
    history: _History, smoothed: _Smoothed, shapes: list[Floats], used: Bools, settings: Settings
) -> tuple[Floats, Floats]:
    """Return T² and the largest cumulative sum (n,) of every row, by the fold that held it out."""
    distances, sums = np.empty(len(smoothed.gaps)), np.empty(len(smoothed.gaps))
    k = len(used)
    for block in range(settings.blocks):
        rows = np.flatnonzero(history.block == block)
        inverse = np.where(np.outer(used, used), np.linalg.inv(shapes[block]), 0.0)
        every = np.broadcast_to(inverse, (len(rows), k, k))
        distances[rows] = statistics.contributions_to_distance(
            smoothed.gaps[rows], every, smoothed.there[rows]
        ).sum(axis=1)
        sums[rows] = _sums(smoothed, rows, np.sqrt(np.diag(shapes[block])), settings.slack)
    return distances, sums


def _sums(smoothed: _Smoothed, rows: Integers, spread: Floats, slack: float) -> Floats:
    """Return the largest cumulative sum at each of the consecutive `rows`."""
    state = statistics.RunningStatistics.start(1, len(spread))
    greatest = np.empty(len(rows))
    for place, row in enumerate(rows):
        state.smoothed[0] = smoothed.gaps[row]
        statistics.accumulate(state, smoothed.steps[row], spread, slack, np.inf)
        greatest[place] = max(state.rises.max(), state.falls.max())
    return greatest
