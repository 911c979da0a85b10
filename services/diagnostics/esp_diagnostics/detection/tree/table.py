"""State of pumps as columns, serialized per pump."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

NEVER: Final = int(np.iinfo(np.int64).min // 2)
"""Time (µs) before any other; half the minimum, so that differences do not overflow."""

MAGIC: Final = b"ESPDX1\n"

Rows = npt.NDArray[np.intp]
Array = npt.NDArray[Any]


class Column(NamedTuple):
    """Column of state: type, initial value, and shape of a pump's entry."""

    kind: str
    fill: float
    shape: tuple[int, ...] = ()


class Table:
    """Columns of n pumps; `table["name"]` is an array whose first axis is the pump."""

    def __init__(self, columns: Mapping[str, Column], n: int) -> None:
        self._columns = dict(columns)
        self._arrays = {name: _filled(column, n) for name, column in columns.items()}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def moved(self, columns: Mapping[str, Column], n: int, new: Rows, old: Rows) -> "Table":
        """Return a table of n pumps whose rows `new` are rows `old` of this one, for columns that match."""
        other = Table(columns, n)
        for name, column in columns.items():
            if self._columns.get(name) == column:
                other._arrays[name][new] = self._arrays[name][old]
        return other

    def pack(self, row: int, meaning: Mapping[str, Sequence[str]]) -> bytes:
        """Serialize a pump's row; `meaning` names the entries of axes and is compared by `unpack`."""
        header = {
            "meaning": {key: list(names) for key, names in meaning.items()},
            "columns": [[name, column.kind, list(column.shape)] for name, column in self._columns.items()],
        }
        body = b"".join(np.ascontiguousarray(array[row]).tobytes() for array in self._arrays.values())
        return MAGIC + json.dumps(header, separators=(",", ":")).encode() + b"\n" + body

    def unpack(self, row: int, packed: bytes, meaning: Mapping[str, Sequence[str]]) -> bool:
        """Set a pump's row from `pack`; return False and change nothing if the layout differs."""
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
