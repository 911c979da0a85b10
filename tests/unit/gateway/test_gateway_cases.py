"""Files as SCADA systems and historians write them: what becomes of each row and each cell."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from esp_gateway.errors import MapInvalid
from esp_gateway.mapping import Mapped, load_map
from esp_gateway.records import open_records
from esp_gateway.replay import complaint, mapped_records

CASES = Path(__file__).parent / "cases"


def read(
    folder: Path, name: str, map_name: str | None = None, **changes: Any
) -> tuple[dict[int, Mapped], str]:
    """Return the rows of a case by line, and the account of its lines, with `changes` to its map."""
    source = CASES / f"{map_name or Path(name).stem}.map.yaml"
    document = yaml.safe_load(source.read_text(encoding="utf-8"))
    for key, value in changes.items():
        document[key] = {**document[key], **value} if key == "time" else value
    path = folder / "map.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    file_map = load_map(path)
    records = open_records(CASES / name, file_map.file_columns(), file_map.layout())
    rows = dict(mapped_records(records, file_map))
    return rows, records.lines.describe(records.unit)


def values(rows: dict[int, Mapped], name: str) -> list[Any]:
    return [row.reading.get(name) for row in rows.values()]


def times(rows: dict[int, Mapped]) -> list[str | None]:
    return [row.reading["time"] if row.time else None for row in rows.values()]


def problems(rows: dict[int, Mapped]) -> dict[int, str | None]:
    return {line: row.problem for line, row in rows.items() if row.problem}


def refused(rows: dict[int, Mapped]) -> list[dict[str, str]]:
    return [dict(row.refused or {}) for row in rows.values() if row.refused]


def test_a_stray_quote_costs_its_own_row_only(tmp_path: Path) -> None:
    rows, account = read(tmp_path, "41-stray-quote.csv")
    assert account == "31 lines: 1 header, 30 rows"
    assert list(rows) == list(range(2, 32))
    assert problems(rows) == {3: "a quote is not closed on this line"}
    assert rows[3].reading["unreadable_record"] == '2026-11-20 10:01:00,41,"checked by J'
    assert rows[31].reading["motor_current_a"] == 42.9


def test_a_file_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "41-header-only.csv", "41-stray-quote") == ({}, "1 lines: 1 header, 0 rows")


def test_a_stated_encoding_is_read_and_the_likely_one_is_named(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "02-cp1252.csv", encoding="cp1252")
    assert values(rows, "motor_temp_c") == [120, 121]
    assert values(rows, "flow_rate_bpd") == [500, 501]
    with pytest.raises(MapInvalid) as refusal:
        read(tmp_path, "02-cp1252.csv")
    assert "no column" in refusal.value.detail
    assert "encoding: cp1252" in (refusal.value.fix or "")


def test_decimal_commas_and_thousands_are_read_when_stated(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "04-decimal-comma.csv", decimal=",", thousands=".")
    assert values(rows, "intake_pressure_psi") == [812.4, 813.0, 814.0]
    assert values(rows, "motor_current_a") == [41.5, 1041.5, 42.0]
    unstated, _ = read(tmp_path, "04-decimal-comma.csv")
    assert refused(unstated) == [{"Druck": "812,4", "Strom": "41,5"}, {"Druck": "813,0", "Strom": "1.041,5"}]
    assert unstated[2].reading["intake_pressure_psi"] == "812,4"  # kept as it is
    file_map = load_map(CASES / "04-decimal-comma.map.yaml")
    assert "decimal: ','?" in complaint(unstated[2], file_map.numbers)
    assert "thousands: '.'?" in complaint(unstated[3], file_map.numbers)


def test_title_and_unit_rows_are_no_readings(tmp_path: Path) -> None:
    rows, account = read(tmp_path, "05-preamble.csv", ignore_rows=["Total"])
    assert account == "8 lines: 3 title, 1 header, 1 units, 1 ignored, 2 rows"
    assert values(rows, "motor_current_a") == [40, 41]
    assert problems(rows) == {}
    total, _ = read(tmp_path, "05-preamble.csv")
    assert list(problems(total)) == [8]
    skipping, _ = read(tmp_path, "05-preamble.csv", skip_rows=3, unit_rows=1, ignore_rows=["Total"])
    assert values(skipping, "motor_current_a") == [40, 41]
    units, account = read(tmp_path, "05-units-row.csv", "05-preamble")
    assert account == "4 lines: 1 header, 1 units, 2 rows"
    assert problems(units) == {}


@pytest.mark.parametrize(
    ("name", "format_", "first"),
    [
        ("07-epoch.csv", "epoch-s", "2026-11-20T10:00:00+00:00"),
        ("07-epoch-ms.csv", "epoch-ms", "2026-11-20T10:00:00+00:00"),
        ("07-excel-serial.csv", "excel", "2026-11-20T10:00:00+00:00"),
    ],
)
def test_numbers_are_times_by_the_name_of_their_format_only(
    tmp_path: Path, name: str, format_: str, first: str
) -> None:
    rows, _ = read(tmp_path, name, "07-epoch", time={"format": format_})
    assert times(rows)[0] == first
    assert problems(rows) == {}
    unnamed, _ = read(tmp_path, name, "07-epoch")
    assert set(times(unnamed)) == {None}
    assert all(f"is it format: {format_}?" in (problem or "") for problem in problems(unnamed).values())


def test_the_wrong_unit_of_an_epoch_is_noticed(tmp_path: Path) -> None:
    seconds, _ = read(tmp_path, "07-epoch.csv", "07-epoch", time={"format": "epoch-ms"})
    assert all("before the year 2000" in (problem or "") for problem in problems(seconds).values())
    milliseconds, _ = read(tmp_path, "07-epoch-ms.csv", "07-epoch", time={"format": "epoch-s"})
    assert len(problems(milliseconds)) == 4
    assert "epoch-ms" in (problems(milliseconds)[2] or "")


def test_excel_serials_are_local_times(tmp_path: Path) -> None:
    rows, _ = read(
        tmp_path, "07-excel-serial.csv", "07-epoch", time={"format": "excel", "timezone": "Europe/Oslo"}
    )
    assert times(rows) == ["2026-11-20T10:00:00+01:00", "2026-11-20T10:01:00+01:00"]


def test_the_repeated_hour_is_resolved_by_the_order_of_the_file(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "08-dst-fall-back.csv")
    assert problems(rows) == {}
    instants = [row.time for row in rows.values() if row.time]
    assert instants == sorted(instants)
    assert times(rows)[4:7] == [
        "2026-10-25T02:10:00+01:00", "2026-10-25T02:30:00+01:00", "2026-10-25T02:50:00+01:00",
    ]  # fmt: skip


def test_status_texts_are_sent_as_they_are_and_counted(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "10-historian-status.csv")
    assert [len(each) for each in refused(rows)] == [1, 1, 1, 3]
    assert rows[2].reading == {
        "pump_id": "CASE-P32", "time": "2026-11-20T10:00:00+00:00",
        "intake_pressure_psi": "Inp OutRange", "motor_current_a": 41.5, "motor_temp_c": 120,
    }  # fmt: skip
    missing, _ = read(tmp_path, "10-historian-status.csv", "10-historian-status-missing")
    assert refused(missing) == []
    assert "intake_pressure_psi" not in missing[2].reading


def test_flags_and_codes_are_read_in_all_their_spellings(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "20-flags.csv")
    assert values(rows, "running") == [True] * 5
    assert values(rows, "trip_code") == [16, 0, 0, None, None]
    assert refused(rows) == []


def test_raw_values_are_sent_as_they_are_measured(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "13-fahrenheit-zero.csv")
    assert values(rows, "TEMP_INT") == [232.2, -0.0000015, 0, 32.0, 232.4]
    assert values(rows, "PRESS_INT")[-1] == 94906.898
    assert refused(rows) == []


PARQUET = {
    "epoch seconds": (pa.array([1795168800, 1795168860]), "epoch-s"),
    "epoch milliseconds as float": (pa.array([1795168800000.0, 1795168860000.0]), "epoch-ms"),
    "excel serials": (pa.array([46346.4166666667, 46346.4173611111]), "excel"),
    "text": (pa.array(["2026-11-20 10:00:00", "2026-11-20T10:01:00Z"]), None),
    "categories": (pa.array(["2026-11-20 10:00:00", "2026-11-20T10:01:00Z"]).dictionary_encode(), None),
    "binary text": (pa.array([b"2026-11-20 10:00:00", b"2026-11-20 10:01:00"]), None),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_parquet_is_read_as_csv_is(tmp_path: Path, kind: str) -> None:
    column, format_ = PARQUET[kind]
    table = pa.table(
        {
            "ts": pa.concat_arrays([column, pa.nulls(1, column.type)]) if kind != "categories" else
            pa.array([*column.to_pylist(), None]).dictionary_encode(),
            "Amps": pa.array(["40", "41.5", None]).dictionary_encode(),
            "Run": pa.array([1.0, 0.0, None]),
            "Trip": pa.array(["16.0", "0", None]),
            "Tm": pa.array([120, None, None], pa.int16()),
            "Remark": pa.array(["x", None, "only a remark"]),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "map.yaml").write_text(
        f"pump_id: P-1\ntime: {{column: ts, format: {format_ or 'null'}}}\n"
        "columns: {Amps: motor_current_a, Run: running, Trip: trip_code, Tm: motor_temp_c}\n"
    )
    file_map = load_map(tmp_path / "map.yaml")
    records = open_records(tmp_path / "a.parquet", file_map.file_columns(), file_map.layout())
    rows = dict(mapped_records(records, file_map))
    assert [row.reading for row in rows.values()] == [
        {"pump_id": "P-1", "time": "2026-11-20T10:00:00+00:00", "motor_current_a": 40.0, "running": True,
         "trip_code": 16, "motor_temp_c": 120},
        {"pump_id": "P-1", "time": "2026-11-20T10:01:00+00:00", "motor_current_a": 41.5, "running": False,
         "trip_code": 0},
    ]  # fmt: skip
    assert records.lines.describe(records.unit) == "3 rows: 1 blank, 2 rows"
    assert all(complaint(row, file_map.numbers) == "" for row in rows.values())


def test_a_bare_number_in_parquet_is_no_time(tmp_path: Path) -> None:
    pq.write_table(pa.table({"ts": [1795168800], "Amps": [40]}), tmp_path / "a.parquet")
    file_map = load_map(CASES / "07-epoch.map.yaml")
    records = open_records(tmp_path / "a.parquet", file_map.file_columns(), file_map.layout())
    ((_, row),) = mapped_records(records, file_map)
    assert "format: epoch-s?" in (row.problem or "")


def test_every_case_has_a_map(tmp_path: Path) -> None:
    for path in CASES.glob("*.map.yaml"):
        shutil.copy(path, tmp_path / path.name)
        assert load_map(tmp_path / path.name).gateway_id
