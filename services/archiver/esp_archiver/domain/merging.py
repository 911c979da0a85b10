"""Parts of one day as one: what a later part says again is left out, what it adds is taken in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from esp_common.contracts.channels import CHANNEL_INDEX

from esp_archiver.domain.datasets import CLAMPED_MASK, FAULT_CHANNELS, FROZEN_CHANNELS, REFUSED_MASK
from esp_archiver.domain.flags import Masks, bits_of, column_of, masks_of, names_of, present_in

_PART: Final = "part"
_KEY: Final = ("pump_id", "time")
_LISTS: Final = (FAULT_CHANNELS, FROZEN_CHANNELS)
_MASKS: Final = (REFUSED_MASK, CLAMPED_MASK)

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A value of a later part that is not the one that came first, which stays."""

    pump_id: str
    time: Any
    channel: str
    archived: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Merge:
    """Readings of several parts by pump and time, each once, and what contradicted those that came first."""

    table: pa.Table
    contradictions: tuple[Contradiction, ...] = ()


def merged(parts: Sequence[pa.Table]) -> pa.Table:
    """Return the readings of `parts`, see `merge`."""
    return merge(parts).table


def merge(parts: Sequence[pa.Table]) -> Merge:
    """Return the readings of `parts`, oldest part first, by pump and time, each once.

    Where parts have the same reading (late data that had come before), each column's value is that of
    the first part that has one, with that part's flags of it. A channel stays marked as refused until a part
    has its value, or if a part has both. All parts have the same columns, `pump_id` and `time` among them;
    only values of the last part are reported as contradictions.
    """
    if len(parts) == 1:
        return Merge(parts[0])
    numbered = [
        part.append_column(_PART, pa.array([number] * part.num_rows, pa.int32()))
        for number, part in enumerate(parts)
    ]
    order = [(name, "ascending") for name in (*_KEY, _PART)]
    table = pa.concat_tables(numbered).sort_by(order).combine_chunks()
    starts = np.flatnonzero(~_repeats(table))
    if len(starts) == table.num_rows:
        return Merge(table.drop_columns([_PART]))
    return _Folding(table, starts, len(parts) - 1).fold()


def residual(base: pa.Table, late: pa.Table) -> pa.Table:
    """Return what of `late` is not in `base`: values that `base` has are null, without their flags and marks.

    Readings that add nothing are left out.
    """
    fields = [field.name for field in late.schema if field.name not in (*_KEY, *_LISTS, *_MASKS)]
    masks = [name for name in _MASKS if name in late.column_names]
    joined = late.select(_KEY).append_column("at", pa.array(range(late.num_rows), pa.int64()))
    places = base.select(_KEY).append_column("of", pa.array(range(base.num_rows), pa.int64()))
    found = joined.join(places, list(_KEY), join_type="left outer").sort_by("at").column("of")
    has = base.select([*fields, *masks]).take(found.combine_chunks())
    table, left = late, np.zeros(late.num_rows, np.bool_)
    known = present_in(has)
    for name in fields:
        there = has.column(name).is_valid()
        value = pc.if_else(there, pa.scalar(None, late.schema.field(name).type), late.column(name))
        table = table.set_column(table.column_names.index(name), late.schema.field(name), value)
        left |= _flags(value.is_valid())
    for name in (name for name in _LISTS if name in late.column_names):
        kept = names_of(masks_of(late.column(name).combine_chunks()) & ~known)
        table = table.set_column(table.column_names.index(name), late.schema.field(name), kept)
    for name in masks:
        kept = bits_of(late.column(name)) & ~(known | bits_of(has.column(name)))
        table = table.set_column(table.column_names.index(name), late.schema.field(name), column_of(kept))
        left |= kept != 0
    return table.filter(pa.array(left | _flags(found.is_null())))


def _repeats(table: pa.Table) -> Flags:
    """Return for each row whether it is of the reading of the row before."""
    again = np.zeros(table.num_rows, np.bool_)
    if table.num_rows > 1:
        same = [
            pc.equal(table.column(name).slice(1), table.column(name).slice(0, table.num_rows - 1))
            for name in _KEY
        ]
        again[1:] = _flags(pc.and_(*same))
    return again


def _flags(values: Any) -> Flags:
    return np.asarray(
        values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy()
    )


class _Folding:
    """Folds rows of the same reading, which follow each other, into the first of them."""

    def __init__(self, table: pa.Table, starts: Indices, last_part: int) -> None:
        self._table = table.drop_columns([_PART])
        self._starts = starts
        sizes = np.diff(np.append(starts, table.num_rows))
        self._rows = [self._nth(sizes, number) for number in range(1, int(sizes.max()))]
        parts = table.column(_PART).combine_chunks()
        self._is_last = [_flags(pc.equal(parts.take(row), last_part).fill_null(False)) for row in self._rows]
        self._taken = [np.zeros(len(starts), np.int32) for _ in self._rows]
        """For each further row of a reading: the channels whose value is this row's, or the same."""
        self._filled = [np.zeros(len(starts), np.int32) for _ in self._rows]
        """For each further row of a reading: the channels that no row before it has."""
        self._contradictions: list[Contradiction] = []

    def _nth(self, sizes: Indices, number: int) -> pa.Array:
        """Return for each reading the index of its row `number`, null where it has fewer."""
        return pa.array(self._starts + number, pa.int64(), mask=sizes <= number)

    def fold(self) -> Merge:
        """Return the readings, and the values that are not taken since another came first."""
        names = self._table.column_names
        columns = {name: self._value(name) for name in names if name not in (*_LISTS, *_MASKS)}
        columns |= {name: self._list(name) for name in _LISTS if name in names}
        if REFUSED_MASK in names:
            columns[REFUSED_MASK] = column_of(self._refused())
        if CLAMPED_MASK in names:
            clamped = bits_of(self._table.column(CLAMPED_MASK))
            columns[CLAMPED_MASK] = column_of(self._united(clamped, self._filled))
        made = pa.Table.from_arrays([columns[name] for name in names], schema=self._table.schema)
        return Merge(made, tuple(self._contradictions))

    def _value(self, name: str) -> pa.Array:
        column = self._table.column(name).combine_chunks()
        result = column.take(pa.array(self._starts))
        if name in _KEY:
            return result
        for number, row in enumerate(self._rows):
            found = column.take(row)
            differs = _flags(pc.not_equal(result, found).fill_null(False))
            self._report(name, differs & self._is_last[number], result, found)
            if name in CHANNEL_INDEX:
                bit, there = 1 << CHANNEL_INDEX[name], _flags(found.is_valid())
                self._taken[number] |= np.where(there & ~differs, bit, 0).astype(np.int32)
                self._filled[number] |= np.where(there & _flags(result.is_null()), bit, 0).astype(np.int32)
            result = pc.coalesce(result, found)
        return result

    def _report(self, name: str, differs: Flags, first: pa.Array, later: pa.Array) -> None:
        for at in np.flatnonzero(differs).tolist():
            start = int(self._starts[at])
            pump_id, time = (self._table.column(key)[start].as_py() for key in _KEY)
            found = Contradiction(pump_id, time, name, first[at].as_py(), later[at].as_py())
            self._contradictions.append(found)

    def _list(self, name: str) -> pa.Array:
        masks = masks_of(self._table.column(name).combine_chunks())
        return names_of(self._united(masks, self._taken))

    def _refused(self) -> Masks:
        """Return each reading's refused channels by the rule of ingest's store.

        The mark of an absent channel ends when its value comes; that of a contradicted value stays.
        """
        refused, present = bits_of(self._table.column(REFUSED_MASK)), present_in(self._table)
        contradicted = self._either(refused & present)
        return contradicted | (self._either(refused) & ~self._either(present))

    def _either(self, masks: Masks) -> Masks:
        """Return the bits that any row of each reading has."""
        return np.asarray(np.bitwise_or.reduceat(masks, self._starts), np.int32)

    def _united(self, masks: Masks, counting: Sequence[Masks]) -> Masks:
        """Return each reading's bits: the first row's, and of the others those that count."""
        united = masks[self._starts].copy()
        for row, counts in zip(self._rows, counting, strict=True):
            there = _flags(row.is_valid())
            at = row.fill_null(0).to_numpy()
            united |= np.where(there, masks[at] & counts, 0).astype(np.int32)
        return united


def aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` in the columns of `schema`; those it lacks (files written before them) are null."""
    return pa.Table.from_arrays(list(_columns(table, schema)), schema=schema)


def _columns(table: pa.Table, schema: pa.Schema) -> Iterator[Any]:
    for field in schema:
        if field.name in table.column_names:
            yield table.column(field.name).cast(field.type)
        else:
            yield pa.nulls(table.num_rows, field.type)
