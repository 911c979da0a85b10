from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNELS
from esp_common.contracts.readings import API_GATEWAY
from esp_ingest.domain.decode import Body, decode
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Pump, Registry, Tag
from esp_ingest.domain.screen import Screened, screen
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
REGISTRY = Registry.of(
    [Pump(7, "P7", "W7", "north"), Pump(9, "P9", "W9", "south")],
    {"gw-7": [7], "gw-9": [9], "gw-tags": [7, 9]},
    {
        "gw-tags": {
            "PIP": Tag("intake_pressure_psi", 14.5),
            "TI": Tag("intake_temp_c", 5 / 9, -160 / 9),
            "RUN": Tag("running"),
            "PIP2": Tag("intake_pressure_psi"),
            "note": None,
        }
    },
)


def reading(**values: Any) -> dict[str, Any]:
    sent = {"pump_id": "P7", "time": "2026-01-01T12:00:00Z", "frequency_hz": 50.0} | values
    return {name: value for name, value in sent.items() if value is not ...}


def run(*readings: Any, gateway_id: str = "gw-7") -> Screened:
    return screen(decode([Body(orjson.dumps(list(readings)), None, gateway_id, "m1")]), REGISTRY, NOW_US)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"pump_id": ...}, Reason.INVALID_SCHEMA),
        ({"pump_id": 7}, Reason.INVALID_SCHEMA),
        ({"pump_id": ""}, Reason.INVALID_SCHEMA),
        ({"pump_id": "x" * 65}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": "50"}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": True}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": [50]}, Reason.INVALID_SCHEMA),
        ({"running": 2}, Reason.INVALID_SCHEMA),
        ({"running": "perhaps"}, Reason.INVALID_SCHEMA),
        ({"running": 0.5}, Reason.INVALID_SCHEMA),
        ({"trip_code": 1.5}, Reason.INVALID_SCHEMA),
        ({"trip_code": 2**31}, Reason.INVALID_SCHEMA),
        ({"trip_code": -(2**31)}, Reason.INVALID_SCHEMA),
        ({"frequency_khz": 1}, Reason.UNKNOWN_CHANNEL),
        ({"time": ...}, Reason.INVALID_TIME),
        ({"time": None}, Reason.INVALID_TIME),
        ({"time": 1_767_268_800}, Reason.INVALID_TIME),
        ({"time": "2026-01-01T12:00:00"}, Reason.INVALID_TIME),
        ({"time": "2026-02-30T12:00:00Z"}, Reason.INVALID_TIME),
        ({"time": "2026-01-01T12:05:01Z"}, Reason.TIME_IN_FUTURE),
        ({"time": "1999-12-31T23:59:59Z"}, Reason.TIME_TOO_OLD),
        ({"pump_id": "P8"}, Reason.UNKNOWN_PUMP),
        ({"pump_id": "P9"}, Reason.FOREIGN_GATEWAY),
        ({"frequency_hz": 400.1}, Reason.OUT_OF_RANGE),
        ({"frequency_hz": 1e308}, Reason.OUT_OF_RANGE),
        ({"frequency_hz": 2**63}, Reason.OUT_OF_RANGE),
        ({"wellhead_pressure_psi": -1}, Reason.OUT_OF_RANGE),
        ({"frequency_hz": None}, Reason.NO_CHANNELS),
        ({"frequency_hz": ...}, Reason.NO_CHANNELS),
    ],
)
def test_a_bad_reading_is_refused_for_its_reason_and_its_neighbours_pass(sent: Any, reason: Reason) -> None:
    before, after = reading(time="2026-01-01T11:59:58Z"), reading(time="2026-01-01T11:59:59Z")
    outcome = run(before, reading(**sent), after)
    assert [(each.index, each.row.reason) for each in outcome.rejected] == [(1, reason)]
    assert len(outcome.accepted) == 2
    assert outcome.rejected[0].row.payload == reading(**sent)


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-01T12:05:00Z",
        "2000-01-01T00:00:00Z",
        "2026-01-01T12:00:00.123456789Z",
        "2026-01-01t12:00:00z",
        "2026-01-01 12:00:00+00:00",
        "2026-01-01T14:00:00+02:00",
    ],
)
def test_times_of_every_rfc_3339_form_pass(time: str) -> None:
    assert run(reading(time=time)).rejected == []


def test_offsets_and_fractions_are_kept() -> None:
    outcome = run(reading(time="2026-01-01T14:00:00.25+02:00"), reading(time="2026-01-01T12:00:01.1234567Z"))
    assert (outcome.accepted.time_us - NOW_US).tolist() == [250_000, 1_123_456]


def test_an_unknown_gateway_is_refused_and_the_api_may_report_every_pump() -> None:
    assert [each.row.reason for each in run(reading(), gateway_id="gw-0").rejected] == [
        Reason.UNKNOWN_GATEWAY
    ]
    assert run(reading(), reading(pump_id="P9"), gateway_id=API_GATEWAY).rejected == []


def test_null_and_absent_are_not_measured() -> None:
    outcome = run(reading(motor_current_a=None, running=True))
    assert np.isnan(outcome.accepted.values[0, CHANNEL_INDEX["motor_current_a"]])
    assert outcome.accepted.running.tolist() == [1]


def test_the_state_alone_is_a_reading() -> None:
    assert (
        run(reading(frequency_hz=..., running=False), reading(frequency_hz=..., trip_code=0)).rejected == []
    )


@pytest.mark.parametrize(
    ("channel", "value"),
    [
        ("intake_pressure_psi", 94906.9),
        ("discharge_pressure_psi", 0),
        ("discharge_pressure_psi", -0.000002),
        ("intake_temp_c", 0.0),
        ("motor_temp_c", 0),
    ],
)
def test_gauge_fault_codes_are_stored_with_their_bit(channel: str, value: float) -> None:
    outcome = run(reading(**{channel: value}))
    assert outcome.rejected == []
    assert outcome.accepted.fault_mask.tolist() == [1 << CHANNEL_INDEX[channel]]
    assert outcome.accepted.values[0, CHANNEL_INDEX[channel]] == value


@pytest.mark.parametrize(
    "sent", [{"wellhead_pressure_psi": 0}, {"flow_rate_bpd": 0}, {"intake_temp_c": 0.01}]
)
def test_what_may_be_zero_is_no_fault(sent: dict[str, float]) -> None:
    assert run(reading(**sent)).accepted.fault_mask.tolist() == [0]


def test_tags_and_units_of_a_gateway_are_mapped() -> None:
    sent = {
        "pump_id": "P7",
        "time": "2026-01-01T12:00:00Z",
        "PIP": 100.0,
        "TI": 212.0,
        "RUN": True,
        "note": "x",
    }
    outcome = run(sent, gateway_id="gw-tags")
    assert outcome.rejected == []
    assert outcome.accepted.values[0, CHANNEL_INDEX["intake_pressure_psi"]] == 1450.0
    assert outcome.accepted.values[0, CHANNEL_INDEX["intake_temp_c"]] == pytest.approx(100.0)
    assert outcome.accepted.running.tolist() == [1]


def test_32_fahrenheit_is_the_fault_code_in_any_unit() -> None:
    outcome = run({"pump_id": "P7", "time": "2026-01-01T12:00:00Z", "TI": 32.0}, gateway_id="gw-tags")
    assert outcome.accepted.fault_mask.tolist() == [1 << CHANNEL_INDEX["intake_temp_c"]]


def test_two_tags_that_disagree_about_a_channel_are_refused() -> None:
    same = {"pump_id": "P7", "time": "2026-01-01T12:00:00Z", "PIP": 10.0, "PIP2": 145.0}
    outcome = run(same, same | {"PIP2": 146.0}, gateway_id="gw-tags")
    assert [(each.index, each.row.reason) for each in outcome.rejected] == [(1, Reason.INVALID_SCHEMA)]


def test_a_tag_of_another_gateway_is_unknown() -> None:
    outcome = run(reading(PIP=1.0))
    assert [each.row.reason for each in outcome.rejected] == [Reason.UNKNOWN_CHANNEL]
    assert "PIP" in outcome.rejected[0].row.detail


def test_gateways_with_and_without_tag_maps_share_a_flush() -> None:
    bodies = [
        Body(orjson.dumps(reading()), None, "gw-7"),
        Body(orjson.dumps({"pump_id": "P9", "time": "2026-01-01T12:00:00Z", "PIP": 1}), None, "gw-tags"),
        Body(orjson.dumps(reading(PIP=1)), None, "gw-7"),
    ]
    outcome = screen(decode(bodies), REGISTRY, NOW_US)
    assert [each.body for each in outcome.rejected] == [2]
    assert outcome.accepted.pump_no.tolist() == [7, 9]


def test_the_same_reading_has_the_same_quarantine_id_whatever_the_order_of_its_keys() -> None:
    bad = reading(frequency_hz=-1)
    one, two = run(bad), run(dict(reversed(bad.items())))
    assert one.rejected[0].row.id == two.rejected[0].row.id
    assert run(bad, gateway_id="gw-9").rejected[0].row.id != one.rejected[0].row.id


def test_refused_readings_name_their_pump_only_where_it_is_the_gateways() -> None:
    outcome = run(reading(frequency_hz=-1), reading(pump_id="P9"), reading(pump_id="P8"))
    assert [each.pump_no for each in outcome.rejected] == [7, None, None]
    assert [each.row.pump_id for each in outcome.rejected] == ["P7", "P9", "P8"]


@given(st.dictionaries(st.sampled_from(CHANNELS), st.floats(-1e6, 1e6), min_size=1))
def test_a_reading_passes_exactly_when_every_value_is_within_its_limits(sent: dict[Any, float]) -> None:
    outcome = run(
        reading(**{"frequency_hz": ..., **{channel.name: value for channel, value in sent.items()}})
    )
    flagged = int(outcome.accepted.fault_mask[0]) if len(outcome.accepted) else None
    within = all(
        channel.low <= value <= channel.high
        or (flagged is not None and flagged >> CHANNEL_INDEX[channel.name] & 1)
        for channel, value in sent.items()
    )
    assert (len(outcome.accepted) == 1) == within
