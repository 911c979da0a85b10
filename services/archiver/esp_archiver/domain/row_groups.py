"""Row groups of a file of readings: a pump's rows together, so that reading it leaves out the others."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

LEAST_ROWS: Final = 8192
"""A group ends with a pump once it has these: a pump's day at a reading every 10 s is one group."""

MOST_ROWS: Final = 65_536
"""A group ends here even within a pump: this much is held in memory."""


class RowGroups:
    """Cuts tables that are sorted by the column `by` into row groups."""

    def __init__(self, by: str | None) -> None:
        self._by = by
        self._held: list[pa.Table] = []
        self._rows = 0
        self._last: object = None

    def feed(self, table: pa.Table) -> Iterator[pa.Table]:
        """Take rows that come next, and yield the groups that are complete."""
        for first, part in self._runs(table):
            if self._rows >= LEAST_ROWS and first != self._last:
                yield self._take()
            self._last = first
            for at in range(0, part.num_rows, MOST_ROWS):
                piece = part.slice(at, MOST_ROWS)
                if self._rows and self._rows + piece.num_rows > MOST_ROWS:
                    yield self._take()
                self._held.append(piece)
                self._rows += piece.num_rows

    def finish(self) -> Iterator[pa.Table]:
        """Yield the last group."""
        if self._rows:
            yield self._take()

    def _take(self) -> pa.Table:
        group = pa.concat_tables(self._held).combine_chunks()
        self._held, self._rows = [], 0
        return group

    def _runs(self, table: pa.Table) -> Iterator[tuple[object, pa.Table]]:
        """Yield each run of rows that are equal in `by`, with what they have there."""
        if self._by is None:
            yield None, table
            return
        keys = table.column(self._by).to_numpy()
        starts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist()] if len(keys) else []
        for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
            yield keys[start], table.slice(start, end - start)
