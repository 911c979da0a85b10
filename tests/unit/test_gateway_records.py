from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from esp_common.errors import InvalidInput, NotFound
from esp_gateway.errors import MapInvalid
from esp_gateway.mapping import FileMap, Mapper
from esp_gateway.records import Record, open_records

MAP = FileMap.model_validate(
    {"pump_id": "P", "time": {"column": "t"}, "columns": {"p": "Pressure", "q": "Flow"}}
)


def test_csv_records_have_the_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbft;p;other\r\n1;2;3\r\n\r\n4;"5\n5";6\r\n7;8\r\n9;\xff;1\r\n')
    records = open_records(path, ["t", "p"], ";")
    assert list(records) == [
        Record(2, {"t": "1", "p": "2", "other": "3"}),
        Record(5, {"t": "4", "p": "5\n5", "other": "6"}),
        Record(6, {}, "7;8"),
        Record(7, {"t": "9", "p": "\\xff", "other": "1"}),
    ]
    assert records.read_fraction == 1.0


def test_parquet_gives_the_same_readings_as_csv(tmp_path: Path) -> None:
    times = [datetime(2020, 3, 9, 10, 14, second, 500_000, tzinfo=UTC) for second in range(40)]
    values = [None if second % 7 == 0 else second / 3 for second in range(40)]
    rows = [
        f"{time.isoformat()},{'' if v is None else v},{n}"
        for n, (time, v) in enumerate(zip(times, values, strict=True))
    ]
    (tmp_path / "a.csv").write_text("\n".join(["t,p,q", *rows]))
    for zone in ("UTC", None):
        time = pa.array([t.replace(tzinfo=None) for t in times], pa.timestamp("ns")).cast(
            pa.timestamp("ns", zone)
        )
        pq.write_table(
            pa.table({"t": time, "p": values, "q": range(40), "unused": range(40)}),
            tmp_path / f"{zone}.parquet",
        )
    mapper = Mapper(MAP)
    csv, utc, naive = (
        [
            mapper.map(record.cells).reading
            for record in open_records(tmp_path / name, MAP.file_columns(), ",")
        ]
        for name in ("a.csv", "UTC.parquet", "None.parquet")
    )
    assert csv == utc == naive
    assert len(csv) == 40


def test_parquet_types_become_what_readings_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": ["2020-01-01"], "p": [Decimal("1.25")], "q": [b"raw"]}), path)
    (record,) = open_records(path, ["t", "p", "q"], ",")
    assert Mapper(MAP).map(record.cells).reading == {
        "pump_id": "P", "time": "2020-01-01T00:00:00+00:00", "Pressure": 1.25, "Flow": "b'raw'",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "error", "complaint"),
    [
        ("none.csv", None, NotFound, "no file"),
        ("a.csv", b"", MapInvalid, r"a.csv:1: no column 't'; the file has $"),
        ("a.csv", b"t;p;q\n1;2;3", MapInvalid, r"no column 't'; the file has 't;p;q'"),
        ("a.csv", b"t,p,p,q\n1,2,3,4", MapInvalid, r"column 'p' occurs 2 times"),
        ("a.parquet", b"t,p,q\n1,2,3", InvalidInput, r"a.parquet: not Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], complaint: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=complaint):
        open_records(path, ["t", "p", "q"], ",")


def test_a_cell_without_end_stops_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('t,p,q\n1,2,3\n1,"2,3\n' + "x" * 200_000)
    with pytest.raises(InvalidInput, match=r"a.csv:4: field larger"):
        list(open_records(path, ["t", "p", "q"], ","))
