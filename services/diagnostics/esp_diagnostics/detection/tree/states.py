"""What a pump does: off, starting, running, changing, or unknown; and since when."""

from typing import Final, NamedTuple

import numpy as np
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT, Int8Array, Int32Array

from esp_diagnostics.detection.tree.findings import State
from esp_diagnostics.detection.tree.table import NEVER, Column, Rows, Table
from esp_diagnostics.physics.arrays import Bools, Floats

STARTS_KEPT: Final = 12
TURNING_HZ: Final = 5.0
TURNING_SHARE: Final = 0.1
"""A drive that does not say whether it runs, does so above this frequency, or this share of rated current."""

SUPPLY_SAG: Final = 0.03
"""Volts per hertz that far from normal: the supply moves the frequency, and nobody its setting."""

DAY_US: Final = 86_400_000_000

MEMORY: Final = {
    "running": Column("i1", RUNNING_ABSENT),
    "running_us": Column("i8", NEVER),
    "trip_code": Column("i4", TRIP_CODE_ABSENT),
    "state": Column("i1", State.UNKNOWN),
    "state_us": Column("i8", NEVER),
    "start_us": Column("i8", NEVER),
    "change_us": Column("i8", NEVER),
    "starts_us": Column("i8", NEVER, (STARTS_KEPT,)),
    "frequency_ref": Column("f8", np.nan),
    "moving_us": Column("i8", NEVER),
    "choke_ref": Column("f8", np.nan),
}

_FREQUENCY: Final = CHANNEL_INDEX["frequency_hz"]
_CURRENT: Final = CHANNEL_INDEX["motor_current_a"]
_CHOKE: Final = CHANNEL_INDEX["choke_pct"]


class Masks(NamedTuple):
    """How long (s) starts and changes are masked, and what counts as a change; each (m,)."""

    start_s: Floats
    change_s: Floats
    step_hz: Floats
    choke_pct: Floats
    unknown_s: Floats


def turning(
    table: Table, at: Rows, values: Floats, said: Int8Array, trip: Int32Array, rated_a: Floats
) -> Int8Array:
    """Return 1, 0 or RUNNING_ABSENT (m,): whether each pump turns, by its drive's word or what it draws."""
    frequency, current = values[:, _FREQUENCY], values[:, _CURRENT]
    by_current = np.where(np.isnan(current / rated_a), -1, current > TURNING_SHARE * rated_a)
    derived = np.where(np.isnan(frequency), by_current, frequency > TURNING_HZ)
    now = np.where(said != RUNNING_ABSENT, said, derived).astype(np.int8)
    table["trip_code"][at] = np.where(trip != TRIP_CODE_ABSENT, trip, table["trip_code"][at])
    return now


def advance(
    table: Table, at: Rows, time_us: np.ndarray, now: Int8Array, values: Floats, sagging: Bools, masks: Masks
) -> Bools:
    """Move each pump's state on to its reading; return where it changed (m,).

    `now` as `turning` returns it; `values` (m, channels) as far as they are known.
    """
    before = table["state"][at].copy()
    said = now != RUNNING_ABSENT
    table["running"][at] = np.where(said, now, table["running"][at])
    table["running_us"][at] = np.where(said, time_us, table["running_us"][at])
    lost = time_us - table["running_us"][at] > masks.unknown_s * 1e6
    runs = table["running"][at] == 1
    started = runs & (before == State.OFF) & said
    _note_starts(table, at[started], time_us[started])
    changed = _setpoint_moved(table, at, time_us, values, runs & ~sagging, masks)
    table["change_us"][at] = np.where(changed & ~started, time_us, table["change_us"][at])
    state = np.full(len(at), State.RUNNING, dtype=np.int8)
    state[time_us - table["change_us"][at] < masks.change_s * 1e6] = State.CHANGING
    state[time_us - table["start_us"][at] < masks.start_s * 1e6] = State.STARTING
    state[~runs] = State.OFF
    state[lost | (table["running"][at] == RUNNING_ABSENT)] = State.UNKNOWN
    moved = state != before
    # A first reading that says nothing of the drive moves no state, yet it is since then that it is unknown.
    first = table["state_us"][at] == NEVER
    table["state"][at] = state
    table["state_us"][at] = np.where(moved | first, time_us, table["state_us"][at])
    return np.asarray(moved)


def starts_within(table: Table, at: Rows, time_us: np.ndarray, span_us: int = DAY_US) -> Floats:
    """Return how often each pump started in the last `span_us` (m,)."""
    return np.asarray((time_us[:, None] - table["starts_us"][at] < span_us).sum(axis=1), dtype=np.float64)


def _note_starts(table: Table, rows: Rows, time_us: np.ndarray) -> None:
    table["start_us"][rows] = time_us
    table["starts_us"][rows] = np.column_stack([time_us, table["starts_us"][rows][:, :-1]])


def _setpoint_moved(
    table: Table, at: Rows, time_us: np.ndarray, values: Floats, runs: Bools, masks: Masks
) -> Bools:
    """Return where frequency or choke have left where they were set; remember where they are."""
    moved = np.zeros(len(at), dtype=np.bool_)
    for name, channel, step in (
        ("frequency_ref", _FREQUENCY, masks.step_hz),
        ("choke_ref", _CHOKE, masks.choke_pct),
    ):
        now, reference = values[:, channel], table[name][at]
        known = runs & ~np.isnan(now)
        first = known & np.isnan(reference)
        away = known & (np.abs(now - reference) > step)
        table[name][at] = np.where(first | away, now, reference)
        moved |= away
    return moved
