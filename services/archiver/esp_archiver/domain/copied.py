"""Readings from PostgreSQL's binary COPY to Arrow, many at a time.

The query leaves no field absent and all of one width, so that a row has a place for each: NaN stands for a
channel that was not measured, the constants of `esp_common.contracts.readings` for an absent state.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_common.errors import EspError

from esp_archiver.domain.datasets import ADDED_COLUMNS, FORMS, Dataset
from esp_archiver.domain.flags import column_of, names_of

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_EPOCH_US: Final = 946_684_800_000_000
_COLUMNS: Final = (
    ("pump", ">i4"),
    ("time", ">i8"),
    *((name, ">f8") for name in CHANNEL_NAMES),
    ("running", ">i4"),
    ("trip_code", ">i4"),
    ("fault_mask", ">i4"),
    ("frozen_mask", ">i4"),
    ("refused_mask", ">i4"),
    ("clamped_mask", ">i4"),
)
"""Columns of the query and their types."""

_ROW: Final = np.dtype(
    [
        ("fields", ">i2"),
        *(part for name, kind in _COLUMNS for part in ((f"{name} length", ">i4"), (name, kind))),
    ]
)

Rows = npt.NDArray[np.void]


class CopiedRows:
    """Cuts a COPY stream into pieces of `size` whole rows (the last has the rest)."""

    def __init__(self, size: int) -> None:
        self._bytes = size * _ROW.itemsize
        self._buffer = bytearray()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytearray]:
        """Take what came, and yield what is complete."""
        self._buffer += data
        if not self._begun:
            if len(self._buffer) < len(_SIGNATURE):
                return
            if not self._buffer.startswith(_SIGNATURE):
                raise EspError("this is not a binary COPY of PostgreSQL's")
            del self._buffer[: len(_SIGNATURE)]
            self._begun = True
        while len(self._buffer) >= self._bytes:
            yield self._buffer[: self._bytes]
            del self._buffer[: self._bytes]

    def finish(self) -> Iterator[bytearray]:
        """Yield the rest; raise EspError when the stream ended in the middle."""
        if self._buffer[-len(_TRAILER) :] != _TRAILER or (len(self._buffer) - len(_TRAILER)) % _ROW.itemsize:
            raise EspError("the database's COPY ended early", fix="run the export again")
        if len(self._buffer) > len(_TRAILER):
            yield self._buffer[: -len(_TRAILER)]


class Tables:
    """Makes tables of readings of the pieces, one after the other; pumps count in `pump_ids`, from 1."""

    def __init__(self, pump_ids: Sequence[str]) -> None:
        self._pump_ids = pump_ids
        self._last: tuple[int, int] = (0, 0)

    def table(self, piece: bytearray) -> pa.Table:
        """Return the piece that comes next as a table.

        Raises EspError when it is not what was asked for: other columns, or not by pump and time.
        """
        rows = _rows(piece)
        self._check_order(_native(rows["pump"]), _native(rows["time"]))
        return _table(rows, self._pump_ids)

    def _check_order(self, pumps: npt.NDArray[Any], times: npt.NDArray[Any]) -> None:
        rises = (pumps[1:] > pumps[:-1]) | ((pumps[1:] == pumps[:-1]) & (times[1:] > times[:-1]))
        if not rises.all() or (pumps[0], times[0]) <= self._last:
            raise EspError("the database's COPY is not in the order of pump and time")
        self._last = int(pumps[-1]), int(times[-1])


def _rows(data: bytearray) -> Rows:
    rows = np.frombuffer(data, dtype=_ROW)
    lengths_fit = all((rows[f"{name} length"] == np.dtype(kind).itemsize).all() for name, kind in _COLUMNS)
    if not (rows["fields"] == len(_COLUMNS)).all() or not lengths_fit:
        raise EspError("the database's COPY does not have the columns that were asked for")
    return rows


def _table(rows: Rows, pump_ids: Sequence[str]) -> pa.Table:
    names = pa.array(pump_ids, pa.string())
    pumps = pa.DictionaryArray.from_arrays(pa.array(_native(rows["pump"]) - 1), names).cast(pa.string())
    running, trip_code = _native(rows["running"]), _native(rows["trip_code"])
    columns: list[Any] = [
        pumps,
        pa.array(_native(rows["time"]) + _EPOCH_US, pa.timestamp("us", "UTC")),
        *(pa.array(_native(rows[name]), from_pandas=True) for name in CHANNEL_NAMES),
        pa.array(running == 1, pa.bool_(), mask=running == RUNNING_ABSENT),
        pa.array(trip_code, pa.int32(), mask=trip_code == TRIP_CODE_ABSENT),
        names_of(_native(rows["fault_mask"])),
        names_of(_native(rows["frozen_mask"])),
        *(column_of(_native(rows[name])) for name in ADDED_COLUMNS),
    ]
    return pa.Table.from_arrays(columns, schema=FORMS[Dataset.TELEMETRY].schema)


def _native(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return column.astype(column.dtype.newbyteorder("="))
