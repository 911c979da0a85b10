"""Baseline of a pump: means and spreads of its signals, per band of frequency and choke.

A baseline is learnt from steady running until it has enough samples. Afterwards it follows slowly while
nothing is suspected, because wear that takes months must not become normal.
"""

from typing import Final, NamedTuple

import numpy as np

from esp_diagnostics.detection.tree.signals import FEATURES, PLACE
from esp_diagnostics.detection.tree.table import NEVER, Column, Rows, Table
from esp_diagnostics.physics.arrays import Bools, Floats

REGIMES_KEPT: Final = 6
WIDTH: Final = len(FEATURES)
MIN_SAMPLES: Final = 20
MAX_STEP_S: Final = 1800.0
UNREST_LAG_S: Final = 900.0
PHASES_LAG_S: Final = 240.0
"""Time constant of the averaged phase currents."""

OUTLIER: Final = 4.0
"""Cap of a single move as a multiple of the usual one, so that one step is not unrest."""

MEMORY: Final = {
    "fast": Column("f8", np.nan, (WIDTH,)),
    "fast_us": Column("i8", NEVER, (WIDTH,)),
    "slow": Column("f8", np.nan, (WIDTH,)),
    "before": Column("f8", np.nan, (WIDTH,)),
    "unrest": Column("f8", np.nan, (WIDTH,)),
    "regime": Column("i8", -1, (REGIMES_KEPT,)),
    "regime_us": Column("i8", NEVER, (REGIMES_KEPT,)),
    "learnt_s": Column("f8", 0.0, (REGIMES_KEPT,)),
    "count": Column("f8", 0.0, (REGIMES_KEPT, WIDTH)),
    "mean": Column("f8", 0.0, (REGIMES_KEPT, WIDTH)),
    "spread": Column("f8", 0.0, (REGIMES_KEPT, WIDTH)),
    "calm": Column("f8", 0.0, (REGIMES_KEPT, WIDTH)),
    "phases": Column("f8", np.nan, (3,)),
    "gravity": Column("f8", np.nan),
    "gravity_count": Column("f8", 0.0),
}

RESOLUTION: Final = np.array(
    [
        {
            "winding_rise": 0.3,
            "intake_temp": 0.3,
            "wellhead_temp": 0.3,
            "insulation": 0.02,
            "unbalance": 0.3,
            "leakage": 0.005,
            "head_residual": 0.005,
            "power_residual": 0.005,
            "vibration": 0.005,
        }.get(name, 0.0)
        for name in FEATURES
    ]
)
"""Minimum spread of a signal, in its unit; others use a share of their mean."""

RELATIVE_RESOLUTION: Final = 0.001
_SUPPLY: Final = PLACE["volts_per_hertz"]


class Compared(NamedTuple):
    """Signals relative to their baseline, each (m, signals), NaN without a baseline.

    `change` in the signal's unit; `sigmas` the same in standard deviations; `unrest`: short-term spread over
    the normal one; `learnt` (m,): share of the required history.
    """

    change: Floats
    sigmas: Floats
    normal: Floats
    unrest: Floats
    learnt: Floats


def regime(frequency_hz: Floats, choke_pct: Floats, hz_band: Floats, choke_band: Floats) -> np.ndarray:
    """Return the number (m,) of the band of frequency and choke; -1 if the frequency is unknown."""
    hz = np.where(np.isnan(frequency_hz), -1.0, np.rint(frequency_hz / hz_band))
    choke = np.where(np.isnan(choke_pct), 999.0, np.rint(choke_pct / choke_band))
    return np.where(hz < 0, -1, hz * 1000 + choke).astype(np.int64)


def slot(table: Table, at: Rows, number: np.ndarray, time_us: np.ndarray) -> np.ndarray:
    """Return the slot (m,) of each pump's regime; a new regime replaces the least recently used."""
    same = table["regime"][at] == number[:, None]
    found = same.any(axis=1)
    place = np.where(found, same.argmax(axis=1), table["regime_us"][at].argmin(axis=1))
    new = ~found & (number >= 0)
    rows, places = at[new], place[new]
    table["regime"][rows, places] = number[new]
    for name in ("learnt_s", "count", "mean", "spread", "calm"):
        table[name][rows, places] = 0.0
    table["regime_us"][at, place] = np.where(number >= 0, time_us, table["regime_us"][at, place])
    return np.asarray(place)


def smooth(
    table: Table, at: Rows, time_us: np.ndarray, signals: Floats, fresh: Bools, fast_s: Floats, slow_s: float
) -> None:
    """Update fast and slow averages and the unrest of running pumps."""
    known = fresh & ~np.isnan(signals)
    fast, slow = table["fast"][at], table["slow"][at]
    elapsed = np.clip((time_us[:, None] - table["fast_us"][at]) / 1e6, 0.0, MAX_STEP_S)
    anew = np.isnan(fast) | (time_us[:, None] - table["fast_us"][at] > MAX_STEP_S * 1e6)
    surprise = np.where(anew, 0.0, signals - fast)
    fast = np.where(anew, signals, fast + surprise * (1.0 - np.exp(-elapsed / fast_s[:, None])))
    slow = np.where(np.isnan(slow), signals, slow + (signals - slow) * (1.0 - np.exp(-elapsed / slow_s)))
    # Moves are taken between readings, so that neither steps nor ramps count as unrest. The supply swings
    # over minutes and should not step at all, so its deviation from the average counts.
    move = np.where(np.isnan(table["before"][at]), 0.0, signals - table["before"][at]) / np.sqrt(2.0)
    move[:, _SUPPLY] = surprise[:, _SUPPLY]
    usual = table["unrest"][at]
    share = 1.0 - np.exp(-elapsed / UNREST_LAG_S)
    limited = np.minimum(move**2, np.where(usual > 0, OUTLIER**2 * usual, np.inf))
    unrest = np.where(anew, usual, usual * (1.0 - share) + share * limited)
    unrest = np.where(np.isnan(unrest) & ~anew, move**2, unrest)
    table["fast"][at] = np.where(known, fast, table["fast"][at])
    table["slow"][at] = np.where(known, slow, table["slow"][at])
    table["unrest"][at] = np.where(known, unrest, table["unrest"][at])
    table["before"][at] = np.where(known, signals, table["before"][at])
    table["fast_us"][at] = np.where(known, time_us[:, None], table["fast_us"][at])


def smooth_phases(table: Table, at: Rows, elapsed_s: Floats, phases: Floats) -> Floats:
    """Update the averaged phase currents (A, (m, 3)) of pumps and return them.

    The largest deviation of three noisy currents grows with their noise, and so would depend on the reporting
    interval; that of their averages does not.
    """
    before = table["phases"][at]
    share = -np.expm1(-elapsed_s / PHASES_LAG_S)[:, None]
    anew = np.isnan(before) | (elapsed_s >= MAX_STEP_S)[:, None]
    smoothed = np.where(anew, phases, before + (phases - before) * share)
    table["phases"][at] = smoothed
    return smoothed


def forget_recent(table: Table, rows: Rows) -> None:
    """Reset the averages of pumps that stopped or changed."""
    for name in ("fast", "slow", "before", "unrest", "phases"):
        table[name][rows] = np.nan
    table["fast_us"][rows] = NEVER


def learn(
    table: Table,
    at: Rows,
    place: np.ndarray,
    signals: Floats,
    fresh: Bools,
    elapsed_s: Floats,
    wanted_s: Floats,
    adapt_s: Floats,
) -> None:
    """Add the signals of steady, unsuspicious pumps `at` to the baseline of their regime."""
    known = fresh & ~np.isnan(signals)
    step = np.clip(elapsed_s, 0.0, MAX_STEP_S)
    learning = table["learnt_s"][at, place] < wanted_s
    table["learnt_s"][at, place] += step
    count = table["count"][at, place] + known
    gentle = -np.expm1(-step / adapt_s)[:, None]
    first = learning[:, None] | (count <= MIN_SAMPLES)
    share = np.where(first, 1.0 / np.maximum(count, 1.0), gentle)
    mean, spread = table["mean"][at, place], table["spread"][at, place]
    off = np.where(known, signals - mean, 0.0)
    table["count"][at, place] = count
    table["mean"][at, place] = mean + share * off
    table["spread"][at, place] = np.where(known, (1.0 - share) * (spread + share * off**2), spread)
    unrest = table["unrest"][at]
    calm = table["calm"][at, place]
    worth = known & ~np.isnan(unrest)
    table["calm"][at, place] = np.where(worth, calm + share * (unrest - calm), calm)


def compare(table: Table, at: Rows, place: np.ndarray, wanted_s: Floats) -> Compared:
    """Return the deviation of the fast averages of pumps `at` from the baseline of their regime."""
    learnt = np.minimum(table["learnt_s"][at, place] / wanted_s, 1.0)
    enough = (table["count"][at, place] >= MIN_SAMPLES) & (learnt >= 1.0)[:, None]
    mean = np.where(enough, table["mean"][at, place], np.nan)
    least = np.maximum(RESOLUTION, RELATIVE_RESOLUTION * np.abs(mean))
    change = table["fast"][at] - mean
    sigma = np.sqrt(np.where(enough, table["spread"][at, place], np.nan) + least**2)
    calm = np.sqrt(np.where(enough, table["calm"][at, place], np.nan) + (least / 2.0) ** 2)
    with np.errstate(invalid="ignore"):
        unrest = np.sqrt(table["unrest"][at]) / calm
    return Compared(change, change / sigma, mean, unrest, learnt)
