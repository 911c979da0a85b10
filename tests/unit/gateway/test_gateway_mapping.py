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


def test_sentinels_may_be_listed_as_numbers() -> None:
    for cell in ("-9999", "-9999.0", -9999.0, -9999):
        assert "Pressure" not in mapped({"t": "2020-01-01", "p": cell}, missing=["", -9999]).reading


def test_words_of_the_map_are_states() -> None:
    changes = {"states": {"run": {"Läuft": True, "Steht": False}, "p": {"zu": 0}}}
    reading = mapped({"t": "2020-01-01", "run": " läuft ", "p": "ZU", "trip": "16.0"}, **changes).reading
    assert (reading["running"], reading["Pressure"], reading["trip_code"]) == (True, 0, 16)


@pytest.mark.parametrize(
    ("cell", "refused"),
    [("ON", {}), ("off", {}), ("Bad", {"p": "Bad"}), (True, {}), (float("inf"), {"p": "inf"}), ("1", {})],
)
def test_a_vendors_tag_may_be_a_flag(cell: object, refused: dict[str, str]) -> None:
    result = mapped({"t": "2020-01-01", "p": cell})
    assert result.refused == refused
    assert result.problem is None


@pytest.mark.parametrize("cell", ["", None, "BR\\xd8NN", "a b", "x" * 65])
def test_a_row_without_a_possible_pump_is_reported(cell: str | None) -> None:
    changes = {"pump_id": None, "pump_column": "well"}
    assert "is no pump id" in (mapped({"t": "2020-01-01", "well": cell}, **changes).problem or "")


def test_long_texts_are_cut_so_that_a_message_holds_them() -> None:
    sent = mapped({"t": "2020-01-01", "p": "x" * (2 << 20)}).reading["Pressure"]
    assert len(sent) < 1100
    assert "2097152 characters" in sent


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
        ("pump_id: P\ntime: {column: t}\ncolumns: {a: x, b: x}", r"a, b are all sent as x"),
        ("pump_id: P\ntime: {column: t}\ncolumns: {a: time}", r"'time' is no channel"),
        (
            "pump_id: P\ntime: {column: t}\ncolumns: {a: x, a: y}",
            r"map.yaml:3: not YAML: 'a' stands more than once",
        ),
        ("pump_id: P\npump_id: Q", r"map.yaml:2: not YAML: 'pump_id' stands more than once"),
        ("pump_id: Ø\ntime: {column: t}\ncolumns: {a: x}", r"'Ø' cannot be a pump id"),
        ("pump_id: P\ntime: {column: t}\ncolumns: {a: x}\nencoding: latin-99", r"no encoding 'latin-99'"),
        ("pump_id: P\ntime: {column: t}\ncolumns: {a: x}\nencoding: rot13", r"no encoding 'rot13'"),
        ("pump_id: P\ntime: {column: t}\ncolumns: {a: x}\ndelimiter: '\"'", r"delimiter: "),
        ("pump_id: P\ntime: {column: t}\ncolumns: {a: x}\nthousands: '.'", r"decimal and thousands are both"),
        ("pump_id: P\ntime: {column: t}\ncolumns: {a: x}\nstates: {b: {ON: true}}", r"'b' is not among"),
        (
            "pump_id: P\ntime: {column: t}\ncolumns: {a: running}\nstates: {a: {ON: 1}}",
            r"'ON' must be true or false",
        ),
        (
            "pump_id: P\ntime: {column: t}\ncolumns: {a: motor_temp_c}\nstates: {a: {ON: 1}}",
            r"which is a number",
        ),
        (
            "pump_id: P\ntime: {column: t}\ncolumns: {a: insulation_resistance_mohm}\nunits: {a: mohm}",
            r"did you mean MΩ\?",
        ),
        (
            "pump_id: P\ntime: {column: t}\ncolumns: {a: active_power_kw}\nunits: {a: mW}",
            r"did you mean MW or kW\?",
        ),
        (
            "pump_id: P\ntime: {column: t}\ncolumns: {a: motor_temp_c}\nunits: {a: degF}",
            r"register that tag with unit degF",
        ),
        ("[" * 2000, r"map.yaml.*: not YAML"),
        ("gateway_id: a.b\npump_id: P\ntime: {column: t}\ncolumns: {a: b}", r"gateway_id: .*pattern"),
    ],
)
def test_a_bad_map_is_refused_with_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(MapInvalid, match=complaint):
        load_map(path)


def test_the_shipped_example_is_a_map() -> None:
    example = Path(__file__).parents[3] / "libs/gateway/examples/skab/map.yaml"
    assert load_map(example).gateway_id == "gw-demo"


def test_a_map_that_is_no_utf_8_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    text = "pump_id: P\ntime: {column: t}\ncolumns: {Temp °C: motor_temp_c}\nunits: {Temp °C: °C}\n"
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(MapInvalid, match=r"not UTF-8 at byte \d+"):
        load_map(path)
    path.write_bytes(text.encode("utf-8-sig"))
    assert load_map(path).columns == {"Temp °C": "motor_temp_c"}


def test_words_and_dates_of_yaml_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(
        "pump_id: P\ntime: {column: 2026-01-01}\ncolumns: {NO: running, ON: trip_code}\n"
        "states: {NO: {ON: true, OFF: false}}\nmissing: [NO]\n"
    )
    file_map = load_map(path)
    assert file_map.time.column == "2026-01-01"
    assert file_map.columns == {"NO": "running", "ON": "trip_code"}
    assert file_map.states == {"NO": {"ON": True, "OFF": False}}
    assert file_map.missing == {"NO"}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "UTF-16", "utf-16-le", "utf-32", "latin-1", "cp850"])
def test_encodings_are_known_by_name(encoding: str) -> None:
    assert FileMap.model_validate({**BASE, "encoding": encoding}).encoding == encoding
