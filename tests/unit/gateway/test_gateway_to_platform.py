"""From a file to what the platform keeps of it: replay, message, decoding and screening, without a broker."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.units import make_tag
from esp_gateway.encoding import Encoding, encode
from esp_gateway.mapping import load_map
from esp_gateway.records import open_records
from esp_gateway.replay import mapped_records
from esp_ingest.domain.decode import Body, decode
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Pump, Registry, Tag
from esp_ingest.domain.screen import Screened, screen

CASES = Path(__file__).parent / "cases"
NOW_US = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1_000_000
FAHRENHEIT = {
    "PRESS_INT": Tag("intake_pressure_psi"),
    "TEMP_INT": Tag("intake_temp_c", *make_tag("intake_temp_c", "degF")),
    "TEMP_MOT": Tag("motor_temp_c", *make_tag("motor_temp_c", "degF")),
    "FREQUENCY": Tag("frequency_hz"),
    "CURRENT": Tag("motor_current_a"),
}


def sent(case: str, encoding: Encoding, tags: dict[str, Tag] | None = None) -> Screened:
    """Return what the platform makes of a case that was replayed in `encoding`."""
    file_map = load_map(CASES / f"{case}.map.yaml")
    records = open_records(CASES / f"{case}.csv", file_map.file_columns(), file_map.layout())
    readings = [row.reading for _, row in mapped_records(records, file_map)]
    gateway, pump = str(file_map.gateway_id), str(file_map.pump_id)
    bodies = [Body(batch.body, batch.content_type, gateway) for batch in encode(readings, encoding)]
    registry = Registry.of([Pump(1, pump, "W", "field")], {gateway: [1]}, {gateway: tags} if tags else None)
    return screen(decode(bodies), registry, NOW_US)


@pytest.mark.parametrize("encoding", Encoding)
def test_raw_values_reach_the_platform_unconverted(encoding: Encoding) -> None:
    outcome = sent("13-fahrenheit-zero", encoding, FAHRENHEIT)
    arrived = [outcome.decoded.sent(number) for number in range(len(outcome.decoded))]
    assert [reading["TEMP_MOT"] for reading in arrived] == [276.4, -0.0000015, 0, 32.0, 276.1]
    assert [reading["PRESS_INT"] for reading in arrived] == [900, 900.4, 901, 901.2, 94906.898]


@pytest.mark.parametrize("encoding", Encoding)
def test_gauge_codes_in_fahrenheit_arrive_as_codes(encoding: Encoding) -> None:
    outcome = sent("13-fahrenheit-zero", encoding, FAHRENHEIT)
    assert outcome.rejected == []
    order = np.argsort(outcome.accepted.time_us)
    temperatures = (1 << CHANNEL_INDEX["intake_temp_c"]) | (1 << CHANNEL_INDEX["motor_temp_c"])
    pressure = 1 << CHANNEL_INDEX["intake_pressure_psi"]
    assert outcome.accepted.fault_mask[order].tolist() == [
        0,
        temperatures,
        temperatures,
        temperatures,
        pressure,
    ]
    motor = outcome.accepted.values[order, CHANNEL_INDEX["motor_temp_c"]]
    assert motor[[0, 4]] == pytest.approx([135.78, 135.61], abs=0.01)


@pytest.mark.parametrize("encoding", Encoding)
def test_a_status_text_in_a_file_costs_its_channel_alone(encoding: Encoding) -> None:
    outcome = sent("10-historian-status", encoding)
    assert len(outcome.accepted) == 4
    refused = [(each.row.channel, each.row.reason) for each in outcome.rejected if each.row.channel]
    assert sorted(refused)[:3] == [
        ("intake_pressure_psi", Reason.STATUS_TEXT),
        ("motor_current_a", Reason.STATUS_TEXT),
        ("motor_temp_c", Reason.STATUS_TEXT),
    ]
    assert np.nanmax(outcome.accepted.values[:, CHANNEL_INDEX["motor_temp_c"]]) == 120


@pytest.mark.parametrize("encoding", Encoding)
def test_flags_of_a_file_are_the_state_of_the_pump(encoding: Encoding) -> None:
    outcome = sent("20-flags", encoding)
    assert outcome.rejected == []
    assert outcome.accepted.running.tolist() == [1] * 5
    assert set(outcome.accepted.trip_code[:3].tolist()) == {16, 0}


@pytest.mark.parametrize("encoding", Encoding)
def test_a_row_that_cannot_be_read_is_kept_in_quarantine(encoding: Encoding) -> None:
    outcome = sent("41-stray-quote", encoding)
    assert len(outcome.accepted) == 29
    (refused,) = [each.row for each in outcome.rejected if "unreadable_record" in each.row.payload]
    assert refused.payload["unreadable_record"] == '2026-11-20 10:01:00,41,"checked by J'
