from pathlib import Path

import pytest
from esp_gateway.errors import MapInvalid
from esp_gateway.mapping import FileMap, Mapper, load_map

BASE = {
    "pump_id": "P",
    "time": {"column": "t"},
    "columns": {"p": "Pressure", "run": "running", "trip": "trip_code"},
}


def mapped(record: dict[str, object], **changes: object):
    return Mapper(FileMap.model_validate({**BASE, **changes})).map(record)


def test_cells_become_numbers_booleans_and_codes() -> None:
    reading = mapped({"t": "2020-03-09 10:14:33", "p": " 0.38 ", "run": "TRUE", "trip": "7"}).reading
    assert reading == {
        "pump_id": "P", "time": "2020-03-09T10:14:33+00:00", "Pressure": 0.38,
        "running": True, "trip_code": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("time", "cell", "expected"),
    [
        ({}, "2020-07-01T10:00:00", "2020-07-01T10:00:00+00:00"),
        ({}, "2020-07-01T10:00:00.25Z", "2020-07-01T10:00:00.250000+00:00"),
        ({"timezone": "Europe/Oslo"}, "2020-07-01 10:00", "2020-07-01T10:00:00+02:00"),
        ({"timezone": "Europe/Oslo"}, "2020-07-01T10:00:00-05:00", "2020-07-01T10:00:00-05:00"),
        ({"format": "%d.%m.%Y %H.%M"}, "01.07.2020 10.30", "2020-07-01T10:30:00+00:00"),
    ],
)
def test_times_without_a_zone_are_in_the_maps(time: dict[str, str], cell: str, expected: str) -> None:
    assert mapped({"t": cell}, time={"column": "t", **time}).reading["time"] == expected


@pytest.mark.parametrize("cell", ["yesterday", "", "2020-13-01", "31.07.2020", None])
def test_an_unreadable_time_is_sent_as_it_is_and_reported(cell: str | None) -> None:
    result = mapped({"t": cell, "p": "1"})
    assert result.reading["time"] == cell
    assert result.reading["Pressure"] == 1
    assert result.time is None
    assert result.problem is not None
    assert repr(cell) in result.problem


@pytest.mark.parametrize("cell", ["0,38", "1_000", "n/a", "12 psi"])
def test_text_for_a_number_is_left_to_the_platform_to_refuse(cell: str) -> None:
    assert mapped({"t": "2020-01-01", "p": cell}).reading["Pressure"] == cell


def test_only_the_texts_named_as_missing_are_left_out() -> None:
    record = {"t": "2020-01-01", "p": "NaN"}
    assert (
        mapped(record).reading["Pressure"] != mapped(record).reading["Pressure"]
    )  # NaN is sent, to be refused
    assert "Pressure" not in mapped(record, missing=["", "NaN"]).reading
    assert "Pressure" not in mapped({**record, "p": ""}).reading
    assert "Pressure" not in mapped({**record, "p": float("nan")}, missing=["NaN"]).reading


def test_a_pump_column_names_the_pump_of_each_record() -> None:
    changes = {"pump_id": None, "pump_column": "well"}
    assert mapped({"t": "2020-01-01", "well": 17}, **changes).reading["pump_id"] == "17"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pump_id: [", r"map.yaml:1: not YAML"),
        ("just text", r"map.yaml: a map has keys"),
        ("pump_id: P\ncolumns: {a: b}", r"time: Field required"),
        ("pump_id: P\ntime: {column: t}\ncolumns: {}", r"columns: .*at least 1"),
        ("pump_id: P\ntime: {column: t, zone: UTC}\ncolumns: {a: b}", r"time.zone: Extra inputs"),
        (
            "pump_id: P\ntime: {column: t, timezone: Mars}\ncolumns: {a: b}",
            r"time.timezone: no time zone 'Mars'",
        ),
        ("time: {column: t}\ncolumns: {a: b}", r"give either pump_id or pump_column"),
        ("gateway_id: a.b\npump_id: P\ntime: {column: t}\ncolumns: {a: b}", r"gateway_id: .*pattern"),
    ],
)
def test_a_bad_map_is_refused_with_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(MapInvalid, match=complaint):
        load_map(path)


def test_the_shipped_example_is_a_map() -> None:
    example = Path(__file__).parents[2] / "libs/gateway/examples/skab/map.yaml"
    assert load_map(example).gateway_id == "gw-demo"
