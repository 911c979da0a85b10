"""Keys of readings whose raw rows were dropped: their times and which values each had, packed."""

import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_LEVEL: Final = 6

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Known:
    """n readings of one pump, in the order of time.

    `times_us` (n,): unique, microseconds since any one origin. `masks` (n,): a bit per measured value, by the
    position of its channel; bit 24: `running`, bit 25: `trip_code`.
    """

    times_us: Int64Array
    masks: Int32Array

    @classmethod
    def none(cls) -> "Known":
        """Return the keys of no reading."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int32))

    def packed(self) -> bytes:
        """Return the keys as bytes: about 50 for a day of regular readings, 2 to 3 a reading otherwise."""
        return zlib.compress(
            _shuffled(np.diff(self.times_us, prepend=0), "<i8") + _shuffled(self.masks, "<i4"), _LEVEL
        )

    @classmethod
    def unpacked(cls, data: bytes) -> "Known":
        """Return the keys that `packed` gave."""
        raw = np.frombuffer(zlib.decompress(data), np.uint8)
        n = len(raw) // 12
        return cls(np.cumsum(_unshuffled(raw[: 8 * n], "<i8")), _unshuffled(raw[8 * n :], "<i4"))

    def union(self, other: "Known") -> "Known":
        """Return the readings of both; one that is in both has the values of both."""
        times, which = np.unique(np.concatenate([self.times_us, other.times_us]), return_inverse=True)
        masks = np.zeros(len(times), np.int32)
        np.bitwise_or.at(masks, which, np.concatenate([self.masks, other.masks]))
        return Known(times, masks)

    def of(self, times_us: Int64Array) -> "Known":
        """Return those that are at any of `times_us`."""
        found = np.isin(self.times_us, times_us)
        return Known(self.times_us[found], self.masks[found])


def _shuffled(values: npt.NDArray[Any], kind: str) -> bytes:
    """Return the values' first bytes, then their second bytes and so on: alike bytes compress."""
    width = np.dtype(kind).itemsize
    return values.astype(kind).view(np.uint8).reshape(-1, width).T.tobytes()


def _unshuffled(data: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[Any]:
    width = np.dtype(kind).itemsize
    rows = np.ascontiguousarray(data.reshape(width, -1).T)
    return rows.view(kind).reshape(-1).astype(np.dtype(kind).newbyteorder("="))
