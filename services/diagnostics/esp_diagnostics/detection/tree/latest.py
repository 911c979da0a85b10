"""Latest known values of each pump, and plausibility of its gauge.

Gateways report by exception and in parts, so few readings contain all channels. The last value of a channel
is used until it is too old. Gauge faults are detected first, because values of a failed gauge are not
evidence.
"""

from typing import Final, NamedTuple

import numpy as np
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX, CHANNELS, Group

from esp_diagnostics.detection.tree.table import NEVER, Column, Rows, Table
from esp_diagnostics.physics.arrays import Bools, Floats

GAUGE: Final = np.array([channel.group is Group.GAUGE for channel in CHANNELS])
SURE: Final = [
    CHANNEL_INDEX[name]
    for name in ("intake_pressure_psi", "discharge_pressure_psi", "intake_temp_c", "motor_temp_c")
]
"""Gauge channels that are never zero in a well."""

NOISY: Final = [
    CHANNEL_INDEX[name]
    for name in ("intake_pressure_psi", "discharge_pressure_psi", "vibration_x_g", "vibration_y_g")
]
"""Gauge channels that are never all constant while the pump runs."""

PRESSURE_LIMIT_PSI: Final = 10_000.0
ZERO: Final = 0.005
BAD_SHARE_LAG_S: Final = 600.0
BAD_FROM: Final = 0.10
BAD_UNTIL: Final = 0.02
"""The gauge is bad from one bad reading in ten on, and good again a quarter of an hour after the last one."""

ONE_CODE: Final = 0.04
"""Minimum weight of one error code: two or three in a row make a bad gauge, one alone does not."""

STILL_READINGS: Final = 8

MEMORY: Final = {
    "time_us": Column("i8", NEVER),
    "value": Column("f8", np.nan, (CHANNEL_COUNT,)),
    "value_us": Column("i8", NEVER, (CHANNEL_COUNT,)),
    "bad_share": Column("f8", 0.0),
    "gauge_bad": Column("?", 0),
    "gauge_us": Column("i8", NEVER),
    "still": Column("i8", 0),
    "still_us": Column("i8", NEVER),
}


class LatestValues(NamedTuple):
    """Values of m pumps at an instant; `values` (m, channels), NaN where too old or implausible."""

    values: Floats
    fresh: Bools
    gauge_bad: Bools
    carry_us: Floats


def forget(table: Table, at: Rows, refused: Bools) -> None:
    """Drop the last values of channels (m, channels) whose present value was rejected."""
    table["value"][at] = np.where(refused, np.nan, table["value"][at])
    table["value_us"][at] = np.where(refused, NEVER, table["value_us"][at])


def take(
    table: Table,
    at: Rows,
    time_us: np.ndarray,
    values: Floats,
    masked: Bools,
    frozen: Bools,
    turning: Bools,
    carry_s: Floats,
    still_s: Floats,
) -> LatestValues:
    """Process a reading of each pump `at` and return the latest values.

    `values`, `masked` (error codes found by ingest), `frozen` (channels found constant by ingest): (m,
    channels). `carry_s` (m,): lifetime of a channel's value; `still_s`: how long a gauge may repeat itself.
    """
    code, dead, seen = _bad_gauge(table, at, time_us, values, masked, frozen, turning, carry_s, still_s)
    bad = code | dead
    elapsed_s = np.clip((time_us - table["time_us"][at]) / 1e6, 0.0, 86_400.0)
    fresh = ~np.isnan(values) & ~(bad[:, None] & GAUGE)
    table["value"][at] = np.where(fresh, values, table["value"][at])
    table["value_us"][at] = np.where(fresh, time_us[:, None], table["value_us"][at])
    gauge_bad = _latched(table, at, code, dead, seen, elapsed_s)
    table["time_us"][at] = time_us
    age_us = time_us[:, None] - table["value_us"][at]
    usable = (age_us <= carry_s[:, None] * 1e6) & ~(gauge_bad[:, None] & GAUGE)
    return LatestValues(
        np.where(usable, table["value"][at], np.nan), fresh & usable, gauge_bad, np.asarray(carry_s * 1e6)
    )


def _bad_gauge(
    table: Table,
    at: Rows,
    time_us: np.ndarray,
    values: Floats,
    masked: Bools,
    frozen: Bools,
    turning: Bools,
    carry_s: Floats,
    still_s: Floats,
) -> tuple[Bools, Bools, Bools]:
    """Return (m,): readings with a code, frozen or silent gauges, and readings that count."""
    there = ~np.isnan(values)
    seen = (there & GAUGE).any(axis=1)
    sure = values[:, SURE]
    code = (masked & GAUGE).any(axis=1) | (np.abs(sure) < ZERO).any(axis=1)
    code |= (values[:, NOISY[:2]] > PRESSURE_LIMIT_PSI).any(axis=1)
    still = _still(table, at, time_us, values, turning, still_s)
    still |= (frozen[:, NOISY]).sum(axis=1) >= 2
    table["gauge_us"][at] = np.where(seen, time_us, table["gauge_us"][at])
    since_us = time_us - table["gauge_us"][at]
    silent = (
        ~seen & turning & (table["gauge_us"][at] != NEVER) & (since_us > np.maximum(carry_s, 600.0) * 1e6)
    )
    return code, still | silent, seen | silent


def _still(
    table: Table, at: Rows, time_us: np.ndarray, values: Floats, turning: Bools, still_s: Floats
) -> Bools:
    """Return whose gauge has repeated all noisy channels exactly for too long."""
    now, before = values[:, NOISY], table["value"][at][:, NOISY]
    known = ~np.isnan(now)
    same = (~known | (now == before)).all(axis=1) & (known.sum(axis=1) >= 2) & turning
    moved = (known & (now != before)).any(axis=1) | ~turning
    count = np.where(same, table["still"][at] + 1, np.where(moved, 0, table["still"][at]))
    since = np.where(count <= 1, time_us, table["still_us"][at])
    table["still"][at], table["still_us"][at] = count, since
    return np.asarray((count >= STILL_READINGS) & (time_us - since >= still_s * 1e6) & same)


def _latched(table: Table, at: Rows, code: Bools, dead: Bools, seen: Bools, elapsed_s: Floats) -> Bools:
    """Return whose gauge is bad: a share of bad readings, with hysteresis."""
    kept = np.exp(-np.maximum(elapsed_s, 1.0) / BAD_SHARE_LAG_S)
    worth = np.maximum(1.0 - kept, ONE_CODE)
    share = np.where(seen, table["bad_share"][at] * kept + code * worth, table["bad_share"][at])
    # A gauge found frozen or silent has been so for a while.
    share = np.where(dead, np.maximum(share, BAD_FROM), share)
    latched = np.where(share >= BAD_FROM, True, np.where(share < BAD_UNTIL, False, table["gauge_bad"][at]))
    table["bad_share"][at], table["gauge_bad"][at] = share, latched
    return np.asarray(latched, dtype=np.bool_)
