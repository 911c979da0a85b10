"""Readings as columns: the in-memory form of telemetry that services and gateways share."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from esp_common.contracts.channels import CHANNEL_COUNT

RUNNING_ABSENT: Final = -1
"""`Readings.running` of a reading without that state."""

TRIP_CODE_ABSENT: Final = np.iinfo(np.int32).min
"""`Readings.trip_code` of a reading without a code."""

API_GATEWAY: Final = "_api"
"""Gateway id of readings posted with a key that belongs to no gateway; reserved."""

JUDGED_HEADER: Final = "esp-judged-us"
"""Header with the time at which the ingest API judged the readings, in microseconds since 1970 UTC."""

FloatMatrix = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
Int8Array = npt.NDArray[np.int8]
ObjectArray = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Readings:
    """n readings, each one pump at one instant, in engineering units.

    `pump_id`: (n,) object array of str. `time_us`: (n,) int64, microseconds since 1970-01-01 UTC.
    `values`: (n, CHANNEL_COUNT) float64 in catalogue order and units; NaN means not measured.
    `running`: (n,) int8, 1, 0 or RUNNING_ABSENT. `trip_code`: (n,) int32 or TRIP_CODE_ABSENT.
    """

    pump_id: ObjectArray
    time_us: Int64Array
    values: FloatMatrix
    running: Int8Array
    trip_code: Int32Array

    def __len__(self) -> int:
        """Return n."""
        return len(self.time_us)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Readings":
        """Return the readings selected by `index` (positions or a mask), in its order."""
        return Readings(
            self.pump_id[index],
            self.time_us[index],
            self.values[index],
            self.running[index],
            self.trip_code[index],
        )


def empty_readings(n: int) -> Readings:
    """Return n readings without values, all at the epoch with an empty pump id."""
    return Readings(
        pump_id=np.full(n, "", dtype=object),
        time_us=np.zeros(n, dtype=np.int64),
        values=np.full((n, CHANNEL_COUNT), np.nan),
        running=np.full(n, RUNNING_ABSENT, dtype=np.int8),
        trip_code=np.full(n, TRIP_CODE_ABSENT, dtype=np.int32),
    )
