import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNELS, MASK_BIT
from esp_common.contracts.readings import API_GATEWAY, RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_ingest.domain.codes import SENTINELS
from esp_ingest.domain.decode import JSON_TYPE, Body, decode
from esp_ingest.domain.readings import Reason, Refusals
from esp_ingest.domain.registry import Pump, Registry, Tag
from esp_ingest.domain.screen import MAX_REFUSALS_PER_BODY, Screened, screen
from esp_ingest.domain.verdicts import MAX_UNKNOWN_NAMES
from esp_ingest.quarantine import body_of
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
            "TRIP": Tag("trip_code"),
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
        ({"pump_id": ["P7"]}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": "50"}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": "Bad"}, Reason.STATUS_TEXT),
        ({"frequency_hz": True}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": [50]}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": ..., "running": 2}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": ..., "running": "perhaps"}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": ..., "running": 0.5}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": ..., "trip_code": 1.5}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": ..., "trip_code": 2**31}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": ..., "trip_code": -(2**31)}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": ..., "frequency_khz": 1}, Reason.UNKNOWN_CHANNEL),
        ({"time": ...}, Reason.INVALID_TIME),
        ({"time": None}, Reason.INVALID_TIME),
        ({"time": 1_767_268_800}, Reason.INVALID_TIME),
        ({"time": "2026-01-01T12:00:00"}, Reason.INVALID_TIME),
        ({"time": "2026-02-30T12:00:00Z"}, Reason.INVALID_TIME),
        ({"time": "2026-01-01T12:05:01Z"}, Reason.TIME_IN_FUTURE),
        ({"time": "1999-06-01T00:00:00Z"}, Reason.TIME_TOO_OLD),
        ({"time": "2000-01-01T00:00:00Z"}, Reason.CLOCK_NOT_SET),
        ({"time": "2000-01-01T23:59:59.9Z"}, Reason.CLOCK_NOT_SET),
        ({"time": "2000-01-01T00:10:00+05:00"}, Reason.CLOCK_NOT_SET),
        ({"time": "1970-01-01T00:00:00Z"}, Reason.CLOCK_NOT_SET),
        ({"time": "1980-01-06T00:00:17Z"}, Reason.CLOCK_NOT_SET),
        ({"time": "1980-02-06T00:00:17Z"}, Reason.TIME_TOO_OLD),
        ({"pump_id": "P8"}, Reason.UNKNOWN_PUMP),
        ({"pump_id": "P9"}, Reason.FOREIGN_GATEWAY),
        ({"frequency_hz": 400.1}, Reason.OUT_OF_RANGE),
        ({"frequency_hz": 1e308}, Reason.OUT_OF_RANGE),
        ({"frequency_hz": 2**63}, Reason.OUT_OF_RANGE),
        ({"frequency_hz": ..., "wellhead_pressure_psi": -12.5}, Reason.OUT_OF_RANGE),
        ({"frequency_hz": -9999}, Reason.SENTINEL_VALUE),
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
        "2000-01-02T00:00:00Z",
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
    assert [(each.body, each.row.channel) for each in outcome.rejected] == [(2, "PIP")]
    assert outcome.accepted.pump_no.tolist() == [7, 9, 7]


def test_the_same_reading_has_the_same_quarantine_id_whatever_the_order_of_its_keys() -> None:
    bad = reading(frequency_hz=-2)
    one, two = run(bad), run(dict(reversed(bad.items())))
    assert one.rejected[0].row.id == two.rejected[0].row.id
    assert run(bad, gateway_id="gw-9").rejected[0].row.id != one.rejected[0].row.id


def test_refused_readings_name_their_pump_only_where_it_is_the_gateways() -> None:
    outcome = run(reading(frequency_hz=-1), reading(pump_id="P9"), reading(pump_id="P8"))
    assert [each.pump_no for each in outcome.rejected] == [7, None, None]
    assert [each.row.pump_id for each in outcome.rejected] == ["P7", "P9", "P8"]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"wellhead_pressure_psi": -9999}, Reason.SENTINEL_VALUE),
        ({"wellhead_pressure_psi": 1e38}, Reason.SENTINEL_VALUE),
        ({"wellhead_pressure_psi": 65535}, Reason.SENTINEL_VALUE),
        ({"wellhead_pressure_psi": 32767.0}, Reason.SENTINEL_VALUE),
        ({"flow_rate_bpd": 65535}, Reason.SENTINEL_VALUE),
        ({"insulation_resistance_mohm": 32767}, Reason.SENTINEL_VALUE),
        ({"wellhead_pressure_psi": -12.5}, Reason.OUT_OF_RANGE),
        ({"wellhead_pressure_psi": 10_001}, Reason.OUT_OF_RANGE),
        ({"water_cut_pct": 101}, Reason.OUT_OF_RANGE),
        ({"wellhead_temp_c": -61}, Reason.OUT_OF_RANGE),
        ({"wellhead_pressure_psi": "Bad"}, Reason.STATUS_TEXT),
        ({"wellhead_pressure_psi": "Inp OutRange"}, Reason.STATUS_TEXT),
        ({"wellhead_pressure_psi": "No Data"}, Reason.STATUS_TEXT),
        ({"wellhead_pressure_psi": "120"}, Reason.INVALID_SCHEMA),
        ({"wellhead_pressure_psi": True}, Reason.INVALID_SCHEMA),
        ({"wellhead_pressure_psi": [1]}, Reason.INVALID_SCHEMA),
        ({"running": "perhaps"}, Reason.INVALID_SCHEMA),
        ({"running": "Bad"}, Reason.STATUS_TEXT),
        ({"trip_code": 1.5}, Reason.INVALID_SCHEMA),
        ({"wellhead_psi": 120}, Reason.UNKNOWN_CHANNEL),
    ],
)
def test_a_bad_channel_is_refused_alone(sent: dict[str, Any], reason: Reason) -> None:
    good = reading(motor_temp_c=120, motor_current_a=41.5)
    outcome = run(good, good | sent)
    [refused] = outcome.rejected
    (channel, value), *_ = sent.items()
    assert (refused.index, refused.pump_no, refused.row.channel) == (1, 7, channel)
    assert (refused.row.reason, refused.row.pump_id) == (reason, "P7")
    assert channel in refused.row.detail
    assert refused.row.payload == {"pump_id": "P7", "time": good["time"], channel: value}
    bit = 1 << MASK_BIT[channel] if channel in MASK_BIT else 0
    assert outcome.accepted.refused_mask.tolist() == [0, bit]
    assert outcome.accepted.values[1].tolist() == pytest.approx(
        outcome.accepted.values[0].tolist(), nan_ok=True
    )
    assert outcome.accepted.running.tolist() == [RUNNING_ABSENT] * 2


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_costs_its_channel(number: str) -> None:
    body = orjson.dumps(reading(choke_pct=77)).replace(b"77", number.encode())
    outcome = screen(decode([Body(body, None, "gw-7")]), REGISTRY, NOW_US)
    assert [(each.row.channel, each.row.reason) for each in outcome.rejected] == [
        ("choke_pct", Reason.NOT_FINITE)
    ]
    assert len(outcome.accepted) == 1


def test_a_reading_with_no_channel_left_is_refused_whole_for_the_reasons_of_its_channels() -> None:
    outcome = run(reading(frequency_hz="Bad", choke_pct=300, water_cut_pct=None, foo=1))
    [refused] = outcome.rejected
    assert (refused.row.channel, len(outcome.accepted)) == (None, 0)
    for name in ("frequency_hz", "choke_pct", "foo"):
        assert name in refused.row.detail
    assert refused.row.payload["choke_pct"] == 300


def test_a_channel_sent_alone_has_the_id_it_was_refused_under() -> None:
    [channel] = run(reading(wellhead_pressure_psi=-9999)).rejected
    [whole] = run(channel.row.payload).rejected
    assert (whole.row.id, whole.row.channel) == (channel.row.id, None)


def test_made_up_names_cannot_multiply_what_quarantine_keeps() -> None:
    names = {f"made-up-{n}": n for n in range(1000)}
    outcome = run(reading(**names))
    assert len(outcome.accepted) == 1
    assert len(outcome.rejected) == MAX_UNKNOWN_NAMES
    kept = [each.row.payload for each in outcome.rejected]
    assert {name: value for payload in kept for name, value in payload.items()}.items() >= names.items()


@pytest.mark.parametrize(
    ("channel", "value", "stored"),
    [
        ("wellhead_pressure_psi", -0.4, 0),
        ("intake_pressure_psi", -4.9, 0),
        ("water_cut_pct", 100.3, 100),
        ("choke_pct", 100.1, 100),
        ("choke_pct", -0.2, 0),
        ("power_factor", 1.0003, 1),
        ("power_factor", -1.001, -1),
        ("motor_current_a", -0.1, 0),
        ("flow_rate_bpd", -3, 0),
    ],
)
def test_drift_at_a_physical_limit_is_clamped_and_flagged(channel: str, value: float, stored: float) -> None:
    outcome = run(reading(**{channel: value}))
    assert outcome.rejected == []
    assert outcome.accepted.values[0, CHANNEL_INDEX[channel]] == stored
    assert outcome.accepted.clamped_mask.tolist() == [1 << CHANNEL_INDEX[channel]]
    assert outcome.accepted.refused_mask.tolist() == [0]


@pytest.mark.parametrize("raw", [0, -0.0000015, 0.0])
def test_a_gauge_code_is_recognised_in_the_unit_it_was_sent_in(raw: float) -> None:
    sent = {"pump_id": "P7", "time": "2026-01-01T12:00:00Z", "TI": raw, "PIP": 94906.9}
    outcome = run(sent, gateway_id="gw-tags")
    assert outcome.rejected == []
    assert outcome.accepted.fault_mask.tolist() == [
        1 << CHANNEL_INDEX["intake_temp_c"] | 1 << CHANNEL_INDEX["intake_pressure_psi"]
    ]


def test_a_sentinel_is_recognised_in_the_unit_it_was_sent_in() -> None:
    sent = reading(PIP=65535, TI=-999.25, frequency_hz=50)
    outcome = run(sent, gateway_id="gw-tags")
    assert {(each.row.channel, each.row.reason) for each in outcome.rejected} == {
        ("intake_pressure_psi", Reason.SENTINEL_VALUE),
        ("intake_temp_c", Reason.SENTINEL_VALUE),
    }
    assert outcome.rejected[0].row.payload.keys() <= {"pump_id", "time", "PIP", "TI"}


@pytest.mark.parametrize(
    ("one", "other", "channel"),
    [
        ("RUN", "running", "running"),
        ("TRIP", "trip_code", "trip_code"),
        ("PIP2", "PIP", "intake_pressure_psi"),
    ],
)
def test_two_names_that_disagree_about_a_channel_cost_that_channel(
    one: str, other: str, channel: str
) -> None:
    sent = reading(**{one: True, other: False} if channel == "running" else {one: 1, other: 2})
    for each in (sent, dict(reversed(sent.items()))):
        outcome = run(each, gateway_id="gw-tags")
        [refused] = outcome.rejected
        assert (refused.row.channel, refused.row.reason) == (channel, Reason.INVALID_SCHEMA)
        assert refused.row.payload == {name: sent[name] for name in ("pump_id", "time", one, other)}
        assert outcome.accepted.running.tolist() == [RUNNING_ABSENT]
        assert outcome.accepted.trip_code.tolist() == [TRIP_CODE_ABSENT]
        assert np.isnan(outcome.accepted.values[0, CHANNEL_INDEX["intake_pressure_psi"]])


@pytest.mark.parametrize("space", ["", " ", "\n", "\t"])
def test_a_key_that_is_given_twice_costs_its_channel_and_both_values_are_kept(space: str) -> None:
    text = orjson.dumps(reading(choke_pct=40)).decode().replace(":40", f':40,"choke_pct"{space}:41')
    outcome = screen(decode([Body(text.encode(), None, "gw-7")]), REGISTRY, NOW_US)
    [refused] = outcome.rejected
    assert (refused.row.channel, refused.row.reason) == ("choke_pct", Reason.INVALID_SCHEMA)
    assert "2 times" in refused.row.detail
    assert refused.row.payload["choke_pct"] == [40, 41]
    assert len(outcome.accepted) == 1


@pytest.mark.parametrize("key", ["pump_id", "time"])
def test_an_identity_that_is_given_twice_refuses_the_reading(key: str) -> None:
    text = orjson.dumps(reading()).decode()[:-1] + f',"{key}":"x"}}'
    outcome = screen(decode([Body(f"[{text}]".encode(), None, "gw-7")]), REGISTRY, NOW_US)
    assert [each.row.channel for each in outcome.rejected] == [None]
    assert len(outcome.accepted) == 0


KEYS = st.sampled_from(["choke_pct", "water_cut_pct", 'a"b', "a:b", "\\", "é"])
SPACES = st.sampled_from(["", " ", "\n", "\t\r"])


@given(st.lists(st.lists(st.tuples(KEYS, SPACES, st.sampled_from([1, 'x":1', "a: b", None])))))
def test_a_repeated_key_is_found_however_the_body_is_written(rows: list[list[tuple[str, str, Any]]]) -> None:
    texts = [
        ",".join(f"{json.dumps(key)}{space}:{json.dumps(value)}" for key, space, value in row) for row in rows
    ]
    body = ("[" + ",".join("{" + text + "}" for text in texts) + "]").encode()
    decoded = decode([Body(body, None, "gw-7")])
    for row, sent in zip(decoded.rows, rows, strict=True):
        for key, values in row.items():
            given_values = [value for name, _, value in sent if name == key]
            assert values == (given_values if len(given_values) > 1 else given_values[0])


def test_a_body_that_was_judged_is_judged_as_of_then() -> None:
    late = orjson.dumps(reading(time="2026-01-01T12:05:01Z"))
    judged = [Body(late, None, "gw-7", judged_us=NOW_US + 1_500_000), Body(late, None, "gw-7")]
    assert [each.body for each in screen(decode(judged), REGISTRY, NOW_US).rejected] == [1]
    assert [each.body for each in screen(decode(judged), REGISTRY, NOW_US + 10**7).rejected] == []
    early = [Body(late, None, "gw-7", judged_us=NOW_US)]
    assert len(screen(decode(early), REGISTRY, NOW_US + 10**7).rejected) == 1


@pytest.mark.parametrize("sent", [{}, {"a": [[[[1]]]]}, {"pump_id": "P7", "frequency_hz": 50.0}])
def test_a_refused_reading_has_one_id_alone_and_in_company(sent: dict[str, Any]) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    for row in (sent, sent | {"deep": deep}):
        alone = screen(decode([Body(orjson.dumps(row), JSON_TYPE, "gw-7")]), REGISTRY, NOW_US)
        content = orjson.dumps([reading(), row])
        company = screen(decode([Body(content, JSON_TYPE, "gw-7")]), REGISTRY, NOW_US)
        assert [each.row.id for each in company.rejected] == [each.row.id for each in alone.rejected]
        [refused] = alone.rejected
        assert body_of(refused.row.payload)[0] == orjson.dumps(row)


@given(st.dictionaries(st.sampled_from(CHANNELS), st.floats(-1e6, 1e6), min_size=1))
def test_a_channel_is_stored_exactly_when_it_is_within_its_limits_or_near(sent: dict[Any, float]) -> None:
    outcome = run(reading(running=True, **{channel.name: value for channel, value in sent.items()}))
    accepted = outcome.accepted
    refused = {each.row.channel for each in outcome.rejected}
    for channel, value in sent.items():
        bit = CHANNEL_INDEX[channel.name]
        stored = accepted.values[0, bit]
        assert (int(accepted.refused_mask[0]) >> bit & 1) == (channel.name in refused) == np.isnan(stored)
        coded = int(accepted.fault_mask[0]) >> bit & 1
        near = channel.low - channel.tolerance <= value <= channel.high + channel.tolerance_above
        near = near and value not in SENTINELS
        assert (channel.name not in refused) == bool(near or coded)
        if near and not coded:
            assert stored == min(max(value, channel.low), channel.high)
            assert (int(accepted.clamped_mask[0]) >> bit & 1) == (stored != value)


def test_refusals_beyond_the_limit_share_a_row_that_keeps_the_body() -> None:
    bad = [reading(frequency_hz=1000 + i, motor_temp_c=70, colour=1) for i in range(60)]
    junk = [*range(300)]
    sent = orjson.dumps([*bad, *junk, reading()])
    bodies = [Body(sent, JSON_TYPE, "gw-7", "m1"), Body(b"[1]", JSON_TYPE, "gw-7")]
    outcome = screen(decode(bodies), REGISTRY, NOW_US)
    listed = [each for each in outcome.rejected if each.body == 0]
    assert len(listed) == MAX_REFUSALS_PER_BODY
    assert max(each.index for each in listed) == 49
    [summary] = outcome.summaries.values()
    assert summary.rest == Refusals(readings=300, channels=20)
    assert body_of(summary.payload) == (sent, JSON_TYPE)
    assert summary.reason is Reason.TOO_MANY_REFUSED
    assert "300 invalid-schema, 10 unknown-channel, 10 out-of-range" in summary.detail
    assert len(outcome.accepted) == 61
    assert [each.body for each in outcome.rejected].count(1) == 1
    again = screen(decode(bodies), REGISTRY, NOW_US)
    assert [row.id for row in again.summaries.values()] == [summary.id]


def test_as_many_refusals_as_the_limit_need_no_summary() -> None:
    outcome = run(*range(MAX_REFUSALS_PER_BODY))
    assert (len(outcome.rejected), dict(outcome.summaries)) == (MAX_REFUSALS_PER_BODY, {})


def test_a_pump_that_a_newer_registry_may_know_is_noticed_beyond_the_limit() -> None:
    assert not run(*range(MAX_REFUSALS_PER_BODY), {}).has_unknown
    assert run(*range(MAX_REFUSALS_PER_BODY), reading(pump_id="P8")).has_unknown
