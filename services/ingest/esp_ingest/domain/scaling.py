"""Channel values as the integer multiples of their resolution in which they are stored."""

from typing import Final

import numpy as np
from esp_common.contracts.channels import CHANNELS
from esp_common.contracts.readings import FloatMatrix, Int32Array

NULL_INT: Final = int(np.iinfo(np.int32).min)
"""A stored cell that holds nothing; no channel's hard limits reach it."""

RESOLUTIONS: Final = np.array([channel.resolution for channel in CHANNELS])


def to_scaled(values: FloatMatrix) -> Int32Array:
    """Return (n, CHANNEL_COUNT) int32 multiples of the resolution, NULL_INT for NaN."""
    scaled = np.rint(values / RESOLUTIONS)
    scaled[np.isnan(scaled)] = NULL_INT
    return np.asarray(scaled.astype(np.int32))


def to_units(scaled: Int32Array) -> FloatMatrix:
    """Return the values in engineering units, NaN for NULL_INT."""
    return np.where(scaled == NULL_INT, np.nan, scaled * RESOLUTIONS)
