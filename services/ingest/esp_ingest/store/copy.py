"""PostgreSQL's binary COPY format, made from columns without touching single values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"


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

    Rows are laid out at full width; where a column is only sometimes NULL, a mask then drops the bytes of
    its absent values. O(rows · row width), about 240 bytes for a reading.
    """
    rows = np.empty(len(columns[0].values), dtype=_layout(columns))
    places = dict(rows.dtype.fields or {})
    rows["fields"] = len(columns)
    keep: npt.NDArray[np.bool_] | None = None
    for number, column in enumerate(columns):
        length, value, width = f"length{number}", f"value{number}", column.values.dtype.itemsize
        rows[length] = width if column.absent is None else np.where(column.absent, -1, width)
        if value not in places:
            continue
        rows[value] = column.values
        if column.absent is not None and column.absent.any():
            keep = np.ones((len(rows), rows.itemsize), dtype=bool) if keep is None else keep
            at = places[value][1]
            keep[:, at : at + width] = ~column.absent[:, np.newaxis]
    body = rows if keep is None else rows.view(np.uint8).reshape(keep.shape)[keep]
    return b"".join((_SIGNATURE, body.tobytes(), _TRAILER))


def _layout(columns: Sequence[Column]) -> np.dtype[np.void]:
    """Return a row's layout; a column that is NULL throughout has no place for a value."""
    layout = [("fields", ">i2")]
    for number, column in enumerate(columns):
        layout.append((f"length{number}", ">i4"))
        if column.absent is None or not column.absent.all():
            layout.append((f"value{number}", column.values.dtype.newbyteorder(">").str))
    return np.dtype(layout)
