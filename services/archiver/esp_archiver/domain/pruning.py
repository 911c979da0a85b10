"""Which bytes of a Parquet file a question needs, from the file's footer alone."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

FOOTER_TAIL: Final = 8
"""Bytes after the footer: its length and the magic."""


class Span(NamedTuple):
    """Bytes of a file, `start` included, `end` not."""

    start: int
    end: int


def groups_of(metadata: Any, pump_ids: Collection[str], since: datetime, until: datetime) -> list[int]:
    """Return the row groups that may hold readings of `pump_ids` in [since, until), by their statistics."""
    pump, time = metadata.schema.to_arrow_schema().names.index("pump_id"), 1
    wanted = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        pumps, times = group.column(pump).statistics, group.column(time).statistics
        if (
            any(pumps.min <= each <= pumps.max for each in pump_ids)
            and times.min < until
            and times.max >= since
        ):
            wanted.append(number)
    return wanted


def spans_of(metadata: Any, groups: Sequence[int], columns: Collection[str] | None = None) -> list[Span]:
    """Return the bytes of `columns` (None: all) in `groups`, neighbours joined."""
    spans = sorted(span for number in groups for span in _chunks(metadata.row_group(number), columns))
    return list(_joined(spans))


def _chunks(group: Any, columns: Collection[str] | None) -> Iterator[Span]:
    for number in range(group.num_columns):
        chunk = group.column(number)
        if columns is None or chunk.path_in_schema.partition(".")[0] in columns:
            start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            yield Span(start, start + chunk.total_compressed_size)


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """Join spans that touch, or have so little between that another request would cost more."""
    gap = 64 * 1024
    current: Span | None = None
    for span in spans:
        if current is None:
            current = span
        elif span.start <= current.end + gap:
            current = Span(current.start, max(current.end, span.end))
        else:
            yield current
            current = span
    if current is not None:
        yield current
