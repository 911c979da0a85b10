"""State machine of pumps: off, starting, running, changing, unknown."""

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
"""A drive that does not report running counts as running above this frequency or share of rated current."""

SUPPLY_SAG: Final = 0.03
"""Deviation of volts per hertz beyond which the supply, not the setpoint, moves the frequency."""

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
    """How long (s) starts and changes are masked, and the minimum change; each (m,)."""

    start_s: Floats
    change_s: Floats
    step_hz: Floats
    choke_pct: Floats
    unknown_s: Floats


def turning(
    table: Table, at: Rows, values: Floats, reported: Int8Array, trip: Int32Array, rated_a: Floats
) -> Int8Array:
    """Return 1, 0 or RUNNING_ABSENT (m,): whether each pump turns, as reported or derived."""
    frequency, current = values[:, _FREQUENCY], values[:, _CURRENT]
    by_current = np.where(np.isnan(current / rated_a), -1, current > TURNING_SHARE * rated_a)
    derived = np.where(np.isnan(frequency), by_current, frequency > TURNING_HZ)
    now = np.where(reported != RUNNING_ABSENT, reported, derived).astype(np.int8)
    table["trip_code"][at] = np.where(trip != TRIP_CODE_ABSENT, trip, table["trip_code"][at])
    return now


def advance(
    table: Table, at: Rows, time_us: np.ndarray, now: Int8Array, values: Floats, sagging: Bools, masks: Masks
) -> Bools:
    """Advance each pump's state to its reading; return where it changed (m,).

    `now`: from `turning`; `values` (m, channels): latest values.
    """
    before = table["state"][at].copy()
    reported = now != RUNNING_ABSENT
    table["running"][at] = np.where(reported, now, table["running"][at])
    table["running_us"][at] = np.where(reported, time_us, table["running_us"][at])
    lost = time_us - table["running_us"][at] > masks.unknown_s * 1e6
    runs = table["running"][at] == 1
    started = runs & (before == State.OFF) & reported
    _note_starts(table, at[started], time_us[started])
    changed = _setpoint_moved(table, at, time_us, values, runs & ~sagging, masks)
    table["change_us"][at] = np.where(changed & ~started, time_us, table["change_us"][at])
    state = np.full(len(at), State.RUNNING, dtype=np.int8)
    state[time_us - table["change_us"][at] < masks.change_s * 1e6] = State.CHANGING
    state[time_us - table["start_us"][at] < masks.start_s * 1e6] = State.STARTING
    state[~runs] = State.OFF
    state[lost | (table["running"][at] == RUNNING_ABSENT)] = State.UNKNOWN
    moved = state != before
    # The first reading sets the time of the unknown state even if it carries nothing from the drive.
    first = table["state_us"][at] == NEVER
    table["state"][at] = state
    table["state_us"][at] = np.where(moved | first, time_us, table["state_us"][at])
    return np.asarray(moved)


def starts_within(table: Table, at: Rows, time_us: np.ndarray, span_us: int = DAY_US) -> Floats:
    """Return the number of starts of each pump in the last `span_us` (m,)."""
    return np.asarray((time_us[:, None] - table["starts_us"][at] < span_us).sum(axis=1), dtype=np.float64)


def _note_starts(table: Table, rows: Rows, time_us: np.ndarray) -> None:
    table["start_us"][rows] = time_us
    table["starts_us"][rows] = np.column_stack([time_us, table["starts_us"][rows][:, :-1]])


def _setpoint_moved(
    table: Table, at: Rows, time_us: np.ndarray, values: Floats, runs: Bools, masks: Masks
) -> Bools:
    """Return where frequency or choke left their setpoint; record the new one."""
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
