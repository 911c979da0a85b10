"""Rows of a restored database held against those of its source."""

from collections.abc import Mapping
from typing import NamedTuple


class Table(NamedTuple):
    """A table or chunk: its rows, and how many rows were ever deleted from it."""

    rows: int
    deleted: int


def mismatches(
    before: Mapping[str, Table], after: Mapping[str, Table], restored: Mapping[str, int]
) -> list[str]:
    """Return what does not fit in a database that was restored to a moment between two counts of its source.

    What grows only must have at least the rows of the first count and at most those of the second; where
    nothing was written in between that is one number. A table that lost rows meanwhile, or was dropped, can
    have had any number at that moment: only its absence before the drop is an error.
    """
    wrong = []
    for name, first in sorted(before.items()):
        second = after.get(name)
        if second is None:
            continue
        if name not in restored:
            wrong.append(f"{name} is missing")
        elif _grows(first, second) and not first.rows <= restored[name] <= second.rows:
            expected = f"{first.rows}" if first.rows == second.rows else f"{first.rows} to {second.rows}"
            wrong.append(f"{name} has {restored[name]} rows, not {expected}")
    return wrong


def _grows(first: Table, second: Table) -> bool:
    return second.deleted == first.deleted and second.rows >= first.rows
