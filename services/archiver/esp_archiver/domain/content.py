"""What rows come to: a hash and extremes that do not depend on how the rows were cut into tables."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_VALIDITY, _LENGTHS, _ELEMENTS, _VALUES = "validity", "lengths", "lengths of elements", "values"

Extremes = Mapping[str, tuple[Any, Any]]
"""Least and greatest value of each column that has one."""


class ContentHash:
    """Hashes the rows of tables that come one after the other, column by column.

    For each column there is a hash of which rows have a value and one of the values; the digest is over
    all of them with the columns' names. A column of `added` counts only if a row has a value in it: rows in
    which it is null have the hash that they had before it was added. O(rows · width), about 250 bytes for a
    reading.
    """

    def __init__(self, schema: pa.Schema, added: Collection[str] = ()) -> None:
        self._schema = schema
        self._added = added
        self._hashes = {field.name: _ColumnHash() for field in schema}
        self.rows = 0

    def update(self, table: pa.Table) -> None:
        """Add the rows of `table`, which has the columns of the schema."""
        self.rows += table.num_rows
        for field in self._schema:
            for chunk in table.column(field.name).chunks:
                self._hashes[field.name].update(chunk)

    def hexdigest(self) -> str:
        """Return the hash of all rows so far."""
        whole = hashlib.sha256(str(self.rows).encode())
        for field in self._schema:
            if field.name in self._added and not self._hashes[field.name].has_value:
                continue
            whole.update(f"\0{field.name}\0{field.type}\0".encode())
            whole.update(self._hashes[field.name].digest())
        return whole.hexdigest()


class _ColumnHash:
    """Hashes one column's chunks: which are there, how long those of no fixed size are, and their bytes."""

    def __init__(self) -> None:
        self.has_value = False
        self._hashes = {name: hashlib.sha256() for name in (_VALIDITY, _LENGTHS, _ELEMENTS, _VALUES)}

    def digest(self) -> bytes:
        return b"".join(each.digest() for each in self._hashes.values())

    def update(self, chunk: pa.Array) -> None:
        self.has_value |= chunk.null_count < len(chunk)
        present = _bytes(chunk.is_valid()) if chunk.null_count else b"\1" * len(chunk)
        self._hashes[_VALIDITY].update(present)
        if pa.types.is_list(chunk.type):
            self._hashes[_LENGTHS].update(_bytes(pc.list_value_length(chunk).fill_null(0)))
            elements = chunk.flatten()
            self._hashes[_ELEMENTS].update(_bytes(pc.binary_length(elements)))
            self._hashes[_VALUES].update(_text(elements))
        elif pa.types.is_string(chunk.type):
            self._hashes[_LENGTHS].update(_bytes(pc.binary_length(chunk).fill_null(0)))
            self._hashes[_VALUES].update(_text(chunk))
        else:
            self._hashes[_VALUES].update(_bytes(chunk))


def _bytes(values: pa.Array) -> bytes:
    """Return the values little-endian, absent ones as zero."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    elif pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    filled = values.fill_null(0) if values.null_count else values
    return bytes(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).tobytes())


def _text(values: pa.Array) -> bytes:
    """Return the bytes of all texts, one after the other."""
    if not len(values):
        return b""
    offsets = np.frombuffer(values.buffers()[1], dtype=np.int32)[
        values.offset : values.offset + len(values) + 1
    ]
    data = values.buffers()[2]
    dense = bytes(memoryview(data)[offsets[0] : offsets[-1]]) if data is not None else b""
    # Under an absent text there may be bytes all the same.
    return dense if not values.null_count else "".join(filter(None, values.to_pylist())).encode()


def extremes(table: pa.Table, names: Sequence[str]) -> Extremes:
    """Return the least and greatest of `table`'s columns `names`; a column without a value has none."""
    bounds = {name: pc.min_max(table.column(name)).as_py() for name in names}
    return {name: (of["min"], of["max"]) for name, of in bounds.items() if of["min"] is not None}


def widened(known: Extremes, found: Extremes) -> Extremes:
    """Return the extremes of the rows of both."""
    both = {
        name: (min(low, found[name][0]), max(high, found[name][1]))
        for name, (low, high) in known.items()
        if name in found
    }
    return {**known, **found, **both}
