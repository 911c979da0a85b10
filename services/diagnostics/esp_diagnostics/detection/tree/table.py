"""State as columns: named arrays with a row for each pump, cut into and put together from bytes by pump."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

NEVER: Final = int(np.iinfo(np.int64).min // 2)
"""A time (µs) long before any; half of the least, so that differences do not overflow."""

MAGIC: Final = b"ESPDX1\n"

Rows = npt.NDArray[np.intp]
Array = npt.NDArray[Any]


class Column(NamedTuple):
    """A column of state: its type, what it holds at first, and the shape of a pump's entry."""

    kind: str
    fill: float
    shape: tuple[int, ...] = ()


class Table:
    """Columns of n pumps; `table["name"]` is an array whose first axis is the pump.

    `axes` names what an axis of a given length stands for (signals, conditions), so that a snapshot is
    understood after something was added or left out.
    """

    def __init__(self, columns: Mapping[str, Column], n: int) -> None:
        self._columns = dict(columns)
        self._arrays = {name: _filled(column, n) for name, column in columns.items()}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def moved(self, columns: Mapping[str, Column], n: int, new: Rows, old: Rows) -> "Table":
        """Return a table of n pumps whose rows `new` are rows `old` of this one, where a column fits."""
        other = Table(columns, n)
        for name, column in columns.items():
            if self._columns.get(name) == column:
                other._arrays[name][new] = self._arrays[name][old]
        return other

    def pack(self, row: int, meaning: Mapping[str, Sequence[str]]) -> bytes:
        """Return a pump's row as bytes; `meaning` names the entries of axes, to compare when unpacked."""
        header = {
            "meaning": {key: list(names) for key, names in meaning.items()},
            "columns": [[name, column.kind, list(column.shape)] for name, column in self._columns.items()],
        }
        body = b"".join(np.ascontiguousarray(array[row]).tobytes() for array in self._arrays.values())
        return MAGIC + json.dumps(header, separators=(",", ":")).encode() + b"\n" + body

    def unpack(self, row: int, packed: bytes, meaning: Mapping[str, Sequence[str]]) -> bool:
        """Set a pump's row from what `pack` made; False, with the row as it was, if the layout is another."""
        found = _parse(packed)
        if found is None:
            return False
        header, body = found
        columns = [[name, column.kind, list(column.shape)] for name, column in self._columns.items()]
        same = header.get("columns") == columns
        if not same or header.get("meaning") != {key: list(names) for key, names in meaning.items()}:
            return False
        if len(body) != sum(array[row].nbytes for array in self._arrays.values()):
            return False
        offset = 0
        for array in self._arrays.values():
            size = array[row].nbytes
            entry = np.frombuffer(body[offset : offset + size], dtype=array.dtype)
            array[row] = entry.reshape(array.shape[1:])
            offset += size
        return True


def _filled(column: Column, n: int) -> Array:
    return np.full((n, *column.shape), column.fill, dtype=np.dtype(column.kind))


def _parse(packed: bytes) -> tuple[dict[str, Any], bytes] | None:
    if not packed.startswith(MAGIC):
        return None
    head, separator, body = packed[len(MAGIC) :].partition(b"\n")
    try:
        header = json.loads(head)
    except ValueError:
        return None
    return (header, body) if separator and isinstance(header, dict) else None
