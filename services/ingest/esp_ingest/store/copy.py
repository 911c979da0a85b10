"""PostgreSQL's binary COPY format, made from columns without touching single values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_LENGTH: Final = 4


@dataclass(frozen=True, slots=True)
class Column:
    """One column of n values; `absent` (n,) marks the NULLs, None if there are none.

    `values`: int8 (sent as a boolean), int32, or int64 (a bigint; for timestamptz see `pg_timestamps`).
    """

    values: npt.NDArray[Any]
    absent: npt.NDArray[np.bool_] | None = None


def pg_timestamps(time_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return microseconds since 1970 as PostgreSQL's timestamptz: microseconds since 2000."""
    return time_us - 946_684_800_000_000


def encode(columns: Sequence[Column]) -> bytes:
    """Return the rows of `columns` as one binary COPY stream.

    Every row is laid out at full width in a byte matrix; the bytes of NULLs are then dropped by a mask.
    O(rows · row width), about 240 bytes for a reading.
    """
    layout = [("fields", ">i2")]
    for number, column in enumerate(columns):
        layout += [(f"length{number}", ">i4"), (f"value{number}", column.values.dtype.newbyteorder(">").str)]
    rows = np.empty(len(columns[0].values), dtype=layout)
    rows["fields"] = len(columns)
    keep = np.ones((len(rows), rows.dtype.itemsize), dtype=bool)
    at = 2
    for number, column in enumerate(columns):
        width = column.values.dtype.itemsize
        rows[f"length{number}"] = width if column.absent is None else np.where(column.absent, -1, width)
        rows[f"value{number}"] = column.values
        if column.absent is not None:
            keep[:, at + _LENGTH : at + _LENGTH + width] = ~column.absent[:, np.newaxis]
        at += _LENGTH + width
    matrix = rows.view(np.uint8).reshape(keep.shape)
    return b"".join((_SIGNATURE, matrix[keep].tobytes(), _TRAILER))
