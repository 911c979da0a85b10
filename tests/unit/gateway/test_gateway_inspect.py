"""`esp-gateway inspect`: the map that it proposes reads the file, and shows what would be stored."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from esp_common.errors import InvalidInput
from esp_gateway.inspection.likeness import match, split_unit
from esp_gateway.inspection.preview import preview
from esp_gateway.inspection.proposal import Proposal, propose
from esp_gateway.mapping import FileMap, load_map
from esp_gateway.records import open_records
from esp_gateway.replay import mapped_records

CASES = Path(__file__).parent / "cases"


def inspected(path: Path) -> tuple[Proposal, list[dict[str, object]]]:
    """Return the proposal for a file, and the readings that it gives."""
    proposal = propose(path, "P-1")
    file_map = FileMap.model_validate(proposal.document)
    records = open_records(path, file_map.file_columns(), file_map.layout())
    return proposal, [row.reading for _, row in mapped_records(records, file_map) if row.time]


@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [
        ("02-cp1252.csv", {"Motor Temp (°C)": "motor_temp_c", "Débit": "flow_rate_bpd"}, 2),
        ("04-decimal-comma.csv", {"Druck": "intake_pressure_psi", "Strom": "motor_current_a"}, 3),
        ("05-preamble.csv", {"Amps": "motor_current_a", "PIP": "intake_pressure_psi"}, 2),
        ("05-units-row.csv", {"Amps": "motor_current_a", "PIP": "intake_pressure_psi"}, 2),
        ("07-epoch.csv", {"Amps": "motor_current_a"}, 2),
        ("07-epoch-ms.csv", {"Amps": "motor_current_a"}, 4),
        ("07-excel-serial.csv", {"Amps": "motor_current_a"}, 2),
        ("20-flags.csv", {"Run": "running", "Trip": "trip_code", "Amps": "motor_current_a"}, 5),
        ("41-stray-quote.csv", {"Amps": "motor_current_a"}, 29),
    ],
)
def test_the_proposed_map_reads_the_file(name: str, columns: dict[str, str], count: int) -> None:
    proposal, readings = inspected(CASES / name)
    assert proposal.document["columns"] == columns
    assert len(readings) == count
    if not name.startswith("41"):
        assert all(str(reading["time"]).startswith("2026-11-20T1") for reading in readings[:1])


def test_numbers_are_read_as_the_file_writes_them() -> None:
    _, readings = inspected(CASES / "04-decimal-comma.csv")
    assert [reading["motor_current_a"] for reading in readings] == [41.5, 1041.5, 42]


def test_the_text_is_a_map_and_a_tag_map(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "Well: X\nTime (UTC);Motor Temp (°F);PIP [bar];Insulation (mohm);WHP_psi;Comment\n"
        "20.11.2026 10:00;248;62,5;500;200;x\n20.11.2026 10:01;250;62,4;501;200;y\n"
    )
    proposal = propose(path, None)
    text = proposal.text("gw-7")
    (tmp_path / "map.yaml").write_text(text)
    file_map = load_map(tmp_path / "map.yaml")
    assert file_map.time.format == "%d.%m.%Y %H:%M"
    assert file_map.time.timezone == "UTC"
    assert (file_map.delimiter, file_map.decimal) == (";", ",")
    assert file_map.columns == {
        "Motor Temp (°F)": "Motor Temp (°F)",
        "PIP [bar]": "PIP [bar]",
        "Insulation (mohm)": "insulation_resistance_mohm",
        "WHP_psi": "wellhead_pressure_psi",
    }
    assert proposal.tags == {
        "Motor Temp (°F)": {"channel": "motor_temp_c", "unit": "°F"},
        "PIP [bar]": {"channel": "intake_pressure_psi", "unit": "bar"},
    }
    commented = text[text.index("#   tag_maps") :].replace("#   ", "")
    assert yaml.safe_load(commented) == {"tag_maps": [{"gateway_id": "gw-7", "tags": proposal.tags}]}
    assert "did you mean MΩ?" in text
    assert "Comment: like no channel" in text
    assert "pump_id: name the pump" in text
    (first, _) = preview(path, file_map, proposal.tags, 5)
    assert "2026-11-20T10:00:00Z" in first
    assert "motor_temp_c=120 (from 248 °F)" in first
    assert "intake_pressure_psi=906.4859 (from 62.5 bar)" in first


def test_a_likely_other_unit_is_pointed_out() -> None:
    text = propose(CASES / "13-fahrenheit-zero.csv", "P-1").text("gw-7")
    assert "TEMP_MOT: 276.25 would be usual in degF; is it that?" in text.replace("276.4", "276.25")


def test_a_day_and_month_that_may_be_exchanged_are_pointed_out(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Time,Amps\n11/10/2026 10:00,40\n11/11/2026 10:00,41\n11/12/2026 10:00,41\n")
    proposal, readings = inspected(path)
    assert proposal.document["time"]["format"] == "%m/%d/%Y %H:%M"
    assert any("other way round" in remark for remark in proposal.remarks)
    assert readings[1]["time"] == "2026-11-11T10:00:00+00:00"


def test_parquet_is_inspected_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = [datetime(2026, 11, 20, 10, minute, tzinfo=UTC) for minute in range(3)]
    pq.write_table(pa.table({"well": ["P-1"] * 3, "when": times, "Freq": [50.0, 50.1, None]}), path)
    proposal = propose(path, None)
    assert proposal.document == {
        "pump_column": "well",
        "time": {"column": "when"},
        "columns": {"Freq": "frequency_hz"},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Time,Amps\n", "no rows"),
        (b"", "no header"),
        (b"1,2\n3,4\n", "no header"),
        (b"A,B\nx,y\nz,1\n", "no column of times"),
        (b"Time,Remark\n2026-01-01 00:00,x1\n", "like a channel"),
        (b"PK\x03\x04", "Excel workbook"),
        (b"\x00\x01\x02\x03", "no "),
    ],
)
def test_what_cannot_be_proposed_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        propose(path, None)


@pytest.mark.parametrize(
    ("header", "channel"),
    [
        ("Pump Intake Pressure (psi)", "intake_pressure_psi"), ("PDP", "discharge_pressure_psi"),
        ("TEMP_MOT", "motor_temp_c"), ("MotorTemp", "motor_temp_c"), ("Intake Temp [°F]", "intake_temp_c"),
        ("Tm", "motor_temp_c"), ("Vib X", "vibration_x_g"), ("VIB_Y (g)", "vibration_y_g"),
        ("Leakage mA", "leakage_current_ma"), ("Insulation (MΩ)", "insulation_resistance_mohm"),
        ("Output Frequency, Hz", "frequency_hz"), ("Phase A Amps", "current_a_a"),
        ("Current Phase B (A)", "current_b_a"), ("Strom (A)", "motor_current_a"),
        ("Amps", "motor_current_a"), ("Motor Volts", "motor_voltage_v"), ("cos phi", "power_factor"),
        ("Active Power (kW)", "active_power_kw"), ("WHP", "wellhead_pressure_psi"),
        ("Casing Pressure (bar)", "casing_pressure_psi"), ("Liquid Rate (m3/d)", "flow_rate_bpd"),
        ("Water Cut %", "water_cut_pct"), ("Choke (%)", "choke_pct"), ("Run Status", "running"),
        ("Trip Code", "trip_code"), ("motor_temp_c", "motor_temp_c"), ("Drive Temp (°C)", "drive_temp_c"),
        ("Operator", None), ("Remark", None),
    ],
)  # fmt: skip
def test_columns_are_known_by_their_usual_names(header: str, channel: str | None) -> None:
    found = match(header, None, set())
    assert (found.channel if found else None) == channel


@pytest.mark.parametrize(
    ("header", "name", "unit"),
    [
        ("Motor Temp (°C)", "Motor Temp", "°C"), ("PIP [psi]", "PIP", "psi"), ("Flow, m3/d", "Flow", "m3/d"),
        ("WHP_psi", "WHP", "psi"), ("Amps", "Amps", None), ("Motor Temp", "Motor Temp", None),
        ("Strom / A", "Strom", "A"), ("Note (see report)", "Note", "see report"),
    ],
)  # fmt: skip
def test_a_unit_is_read_from_the_header(header: str, name: str, unit: str | None) -> None:
    assert split_unit(header) == (name, unit)
