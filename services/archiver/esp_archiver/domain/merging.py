"""Parts of one day as one: what a later part says again is left out, what it adds is taken in."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

_PART = "part"


def merged(parts: Sequence[pa.Table]) -> pa.Table:
    """Return the readings of `parts`, oldest part first, by pump and time, each once.

    Where parts have the same reading (late data that had come before), each column's value is that of
    the first part that has one. All parts have the same columns, `pump_id` and `time` among them.
    """
    if len(parts) == 1:
        return parts[0]
    numbered = [
        part.append_column(_PART, pa.array([number] * part.num_rows, pa.int32()))
        for number, part in enumerate(parts)
    ]
    order = [("pump_id", "ascending"), ("time", "ascending"), (_PART, "ascending")]
    table = pa.concat_tables(numbered).sort_by(order)
    again = _repeats(table)
    if not pc.any(again).as_py():
        return table.drop_columns([_PART])
    return _folded(table.drop_columns([_PART]), again.to_pylist())


def _repeats(table: pa.Table) -> pa.Array:
    """Return for each row whether it is of the reading of the row before."""
    if table.num_rows < 2:
        return pa.array([False] * table.num_rows, pa.bool_())
    same = [
        pc.equal(table.column(name).slice(1), table.column(name).slice(0, table.num_rows - 1))
        for name in ("pump_id", "time")
    ]
    return pa.concat_arrays([pa.array([False]), pc.and_(*same).combine_chunks()])


def _folded(table: pa.Table, again: list[bool]) -> pa.Table:
    """Fold each row that is marked into the one before it that is not."""
    rows = table.to_pylist()
    kept: list[dict[str, object]] = []
    for row, repeated in zip(rows, again, strict=True):
        if repeated:
            kept[-1] |= {name: value for name, value in row.items() if kept[-1][name] is None}
        else:
            kept.append(row)
    return pa.Table.from_pylist(kept, schema=table.schema)
