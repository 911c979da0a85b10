"""The binary COPY stream says value by value what the columns say."""

import struct
from typing import Any

import numpy as np
import pytest
from esp_ingest.store.copy import Column, encode, pg_timestamps
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FORMATS = {1: ">b", 4: ">i", 8: ">q"}


def decode(stream: bytes) -> list[list[int | None]]:
    """Read a COPY stream field by field, as the server does."""
    assert stream[:19] == b"PGCOPY\n\xff\r\n\x00" + bytes(8)
    at, rows = 19, []
    while (fields := struct.unpack_from(">h", stream, at)[0]) != -1:
        at, row = at + 2, list[int | None]()
        for _ in range(fields):
            length = struct.unpack_from(">i", stream, at)[0]
            at += 4
            row.append(None if length == -1 else struct.unpack_from(FORMATS[length], stream, at)[0])
            at += max(length, 0)
        rows.append(row)
    assert at + 2 == len(stream)
    return rows


@st.composite
def columns(draw: st.DrawFn) -> list[Column]:
    n = draw(st.integers(0, 20))
    absent = st.one_of(st.none(), hnp.arrays(bool, n), st.just(np.ones(n, bool)), st.just(np.zeros(n, bool)))
    kinds = draw(st.lists(st.sampled_from(["int8", "int32", "int64"]), min_size=1, max_size=6))
    return [Column(draw(hnp.arrays(kind, n)), draw(absent)) for kind in kinds]


@given(columns())
def test_the_stream_reads_back_as_the_columns(given_columns: list[Column]) -> None:
    def value(column: Column, row: int) -> Any:
        is_absent = column.absent is not None and column.absent[row]
        return None if is_absent else int(column.values[row])

    rows = range(len(given_columns[0].values))
    expected = [[value(column, row) for column in given_columns] for row in rows]
    assert decode(encode(given_columns)) == expected


@pytest.mark.parametrize(("time_us", "since_2000_us"), [(946_684_800_000_000, 0), (0, -946_684_800_000_000)])
def test_timestamps_count_from_2000(time_us: int, since_2000_us: int) -> None:
    assert pg_timestamps(np.array([time_us])).tolist() == [since_2000_us]
