"""Numbers that stand for "no measurement": codes of downhole gauges, sentinels of loggers and PLCs."""

from typing import Final

import numpy as np
import numpy.typing as npt
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNELS, Group
from esp_common.contracts.readings import FloatMatrix, Int32Array

from esp_ingest.domain.columns import Mask

GAUGE_PRESSURES: Final = [i for i, c in enumerate(CHANNELS) if c.group is Group.GAUGE and c.unit == "psi"]
GAUGE_TEMPERATURES: Final = [i for i, c in enumerate(CHANNELS) if c.group is Group.GAUGE and c.unit == "degC"]
PRESSURE_CODE_PSI: Final = 94_906.9
"""What several downhole gauges report when they have lost their sensor, whatever the unit."""

SENTINELS: Final = (-999.0, -999.25, -9999.0, 32767.0, -32768.0, 65535.0, 2147483647.0, -2147483648.0)
"""Exact values that loggers and PLCs write for "no measurement" (LAS nulls, full scale of integers)."""

_HUGE: Final = (1e30, 3.5e38)
"""Magnitudes of sentinels at the end of a 4-byte float's range: 1e30, 1e38, 3.4028235e38."""

_CODE_TOLERANCE: Final = 0.05
_ZERO_TOLERANCE: Final = 0.005
_RAW_ZERO_TOLERANCE: Final = 1e-4


def fault_codes(values: FloatMatrix) -> Mask:
    """Return (n, CHANNEL_COUNT): where a downhole gauge reports a code for its own failure.

    `values` in catalogue units. Zero (also as -0.000002 psi, and 0 °C = 32 °F) and 94,906.9 psi, with some
    tolerance since they may come through a unit conversion of the gateway's.
    """
    codes = np.zeros(values.shape, dtype=np.bool_)
    for channel in (*GAUGE_PRESSURES, *GAUGE_TEMPERATURES):
        codes[:, channel] = np.abs(values[:, channel]) < _ZERO_TOLERANCE
    for channel in GAUGE_PRESSURES:
        codes[:, channel] |= np.abs(values[:, channel] - PRESSURE_CODE_PSI) < _CODE_TOLERANCE
    return codes


def raw_fault_codes(channel: int, raw: npt.NDArray[np.float64]) -> Mask | None:
    """Return (n,): where the values of a gauge's channel, in the unit they were sent in, are codes.

    0 °F is a gauge that has failed, and after conversion -17.8 °C. None for a channel without codes.
    """
    if channel in GAUGE_PRESSURES:
        zero = np.abs(raw) < _RAW_ZERO_TOLERANCE
        return np.asarray(zero | (np.abs(raw - PRESSURE_CODE_PSI) < _CODE_TOLERANCE))
    return np.abs(raw) < _RAW_ZERO_TOLERANCE if channel in GAUGE_TEMPERATURES else None


def sentinels(raw: npt.NDArray[np.float64]) -> Mask:
    """Return where values, in the unit they were sent in, are sentinels."""
    magnitude = np.abs(raw)
    return np.isin(raw, SENTINELS) | ((magnitude >= _HUGE[0]) & (magnitude <= _HUGE[1]))


def pack_mask(flags: Mask) -> Int32Array:
    """Return (n,) int32: bit i is set where `flags[:, i]` is."""
    if not flags.any():
        return np.zeros(len(flags), dtype=np.int32)
    return flags.astype(np.int32) @ (1 << np.arange(CHANNEL_COUNT, dtype=np.int32))
