from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from esp_common.errors import InvalidInput, NotFound
from esp_gateway.errors import MapInvalid
from esp_gateway.layout import Layout
from esp_gateway.mapping import FileMap, Mapper
from esp_gateway.records import Record, open_records
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MAP = FileMap.model_validate(
    {"pump_id": "P", "time": {"column": "t"}, "columns": {"p": "Pressure", "q": "Flow"}}
)


def test_csv_records_have_the_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbft;p;other\r\n1;2;3\r\n\r\n4;"5\n5";6\r\n7;8\r\n9;\xff;1\r\n')
    records = open_records(path, ["t", "p"], Layout(";"))
    assert list(records) == [
        Record(2, {"t": "1", "p": "2", "other": "3"}),
        Record(4, {"t": "4", "p": "5\n5", "other": "6"}),
        Record(6, {}, "7;8", "2 cells, and the header has 3"),
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
            for record in open_records(tmp_path / name, MAP.file_columns(), MAP.layout())
        ]
        for name in ("a.csv", "UTC.parquet", "None.parquet")
    )
    assert csv == utc == naive
    assert len(csv) == 40


def test_parquet_types_become_what_readings_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": ["2020-01-01"], "p": [Decimal("1.25")], "q": [b"raw"]}), path)
    (record,) = open_records(path, ["t", "p", "q"], Layout())
    assert Mapper(MAP).map(record.cells).reading == {
        "pump_id": "P", "time": "2020-01-01T00:00:00+00:00", "Pressure": 1.25, "Flow": "raw",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "error", "complaint"),
    [
        ("none.csv", None, NotFound, "no file"),
        ("a.csv", b"", MapInvalid, r"a.csv: the file is empty"),
        ("a.csv", b" \n\n", MapInvalid, r"a.csv: the file is empty"),
        ("a.csv", b"x,y\n1,2", MapInvalid, r"a.csv:1: no column 't'; the file has 'x', 'y'"),
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
        open_records(path, ["t", "p", "q"], Layout())


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b"t;p;q\n1;2;3", "delimiter: ';'"),
        (b"t\tp\tq\n1\t2\t3", "delimiter: '\\t'"),
        ("t,p,q,Temp °C\n1,2,3,4".encode("utf-16-le"), "encoding: utf-16-le"),
        (b"a,b\n\xb0,1\n", "encoding: cp1252"),
        (b"PK\x03\x04...", "save the sheet as CSV"),
        (b"\x1f\x8b...", "gunzip"),
    ],
)
def test_what_would_help_is_said(tmp_path: Path, content: bytes, fix: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidInput) as refusal:
        open_records(path, ["t", "p", "q"], Layout())
    assert fix in (refusal.value.fix or "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("t,Temp (°C)\n1,2\n".encode(encoding))
    for stated in (None, "cp1252"):
        (record,) = open_records(path, ["Temp (°C)"], Layout(encoding=stated))
        assert record.cells == {"t": "1", "Temp (°C)": "2"}


def test_a_parquet_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pq.write_table(pa.table({"t": ["2020-01-01", None], "p": [1, None]}), path)
    records = open_records(path, ["t", "p"], Layout())
    assert list(records) == [Record(1, {"t": "2020-01-01", "p": 1})]
    assert records.lines.describe("rows") == "2 rows: 1 blank, 1 rows"


def test_parquet_times_beyond_what_can_be_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = pa.array([10**18, 0, None], pa.timestamp("ms"))
    pq.write_table(pa.table({"t": times, "p": [1, 2, 3]}), path)
    late, epoch, empty = (
        Mapper(MAP).map({**record.cells, "q": 1}) for record in open_records(path, ["t", "p"], Layout())
    )
    assert late.problem is not None
    assert "before the year 2000" in (epoch.problem or "")
    assert empty.reading["time"] is None


def test_a_line_without_end_is_one_row_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,p,q\n1,2,3\n" + "x" * (3 << 20) + "\n" + '1,"' + "y" * 200_000 + '",3\n4,5,6\n')
    records = open_records(path, ["t", "p", "q"], Layout())
    found = list(records)
    assert [record.line for record in found] == [2, 3, 4, 5]
    assert [record.ragged is None for record in found] == [True, False, False, True]
    assert records.lines.describe("lines") == "5 lines: 1 header, 4 rows"


ROWS = st.lists(
    st.one_of(
        st.just(b"2026-01-01 00:00:00,1,2"),
        st.just(b'2026-01-01 00:00:00,1,"a'),
        st.just(b'2026-01-01 00:00:00,1,"a, ""b"""'),
        st.just(b""),
        st.just(b",,"),
        st.just(b'"'),
        st.just(b"2026-01-01 00:00:00"),
        st.binary(max_size=30).filter(lambda text: not set(text) & set(b"\r\n")),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.sampled_from([b"\n", b"\r\n"]))
def test_every_line_of_any_file_is_accounted_for(tmp_path: Path, rows: list[bytes], end: bytes) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(end.join([b"t,p,q", *rows, b""]))
    layout = Layout(encoding="utf-8", unit_rows=0, is_time=lambda cells: cells["t"].startswith("2026"))
    records = open_records(path, ["t", "p", "q"], layout)
    found = list(records)
    lines = records.lines
    assert lines.total == 1 + len(rows)
    assert lines.total == lines.header + lines.blank + lines.continued + len(found)
    good = [number for number, row in enumerate(rows, start=2) if row == b"2026-01-01 00:00:00,1,2"]
    taken = {record.line for record in found if record.cells}
    assert set(good) <= taken
