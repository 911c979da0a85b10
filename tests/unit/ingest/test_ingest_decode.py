import base64
import gzip
import io
import json
import math
from typing import Any

import orjson
import pyarrow as pa
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_ingest.domain.decode import ARROW_TYPE, JSON_TYPE, Body, decode
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Pump, Registry
from esp_ingest.domain.screen import Screened, screen
from hypothesis import given
from hypothesis import strategies as st

NOW_US = 1_800_000_000_000_000
REGISTRY = Registry.of([Pump(1, "P1", "W1", "north")], {"gw-1": [1]})


def reading(**values: Any) -> dict[str, Any]:
    return {"pump_id": "P1", "time": "2026-01-01T00:00:00Z", "frequency_hz": 50.0} | values


def screened(*contents: bytes, content_type: str | None = JSON_TYPE) -> Screened:
    return screen(decode([Body(content, content_type, "gw-1") for content in contents]), REGISTRY, NOW_US)


def reasons(outcome: Screened) -> list[tuple[int, int, Reason]]:
    return [(each.body, each.index, each.row.reason) for each in outcome.rejected]


def arrow_body(compression: str | None = None, **columns: Any) -> bytes:
    table = pa.table(columns)
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


TIMES = pa.array([1_767_225_600_000_000, 1_767_225_601_000_000], pa.timestamp("us", "UTC"))


@pytest.mark.parametrize(
    "content",
    [
        orjson.dumps(reading()),
        orjson.dumps([reading()]),
        orjson.dumps({"readings": [reading()]}),
    ],
)
def test_every_json_shape_is_read(content: bytes) -> None:
    outcome = screened(content)
    assert outcome.rejected == []
    assert outcome.accepted.time_us.tolist() == [1_767_225_600_000_000]
    assert outcome.counts.tolist() == [1]


@pytest.mark.parametrize("content_type", [None, "", "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_the_default_and_may_have_parameters(content_type: str | None) -> None:
    assert screened(orjson.dumps(reading()), content_type=content_type).rejected == []


def test_an_empty_array_holds_nothing() -> None:
    outcome = screened(b"[]")
    assert (len(outcome.accepted), outcome.rejected, outcome.counts.tolist()) == (0, [], [0])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1,", b"\xff\xfe", b'{"a":"\\ud800"}', b"[" * 100_000, b"\0"]
)
def test_a_broken_body_is_one_row_to_the_byte_and_its_neighbours_pass(content: bytes) -> None:
    outcome = screened(orjson.dumps(reading()), content, orjson.dumps(reading()))
    assert len(outcome.accepted) == 2
    assert reasons(outcome) == [(1, 0, Reason.UNDECODABLE)]
    payload = outcome.rejected[0].row.payload
    assert base64.b64decode(payload["body_base64"]) == content
    assert payload["content_type"] == JSON_TYPE


def test_bodies_that_only_together_are_json_are_both_refused() -> None:
    outcome = screened(b'{"a":1},[{"b":2}', b'{"c":3}]')
    assert [reason for _, _, reason in reasons(outcome)] == [Reason.UNDECODABLE] * 2


def test_another_media_type_is_refused() -> None:
    outcome = screened(b"a;b", content_type="text/csv")
    assert reasons(outcome) == [(0, 0, Reason.UNSUPPORTED_MEDIA_TYPE)]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_literals_refuse_only_their_reading(literal: str) -> None:
    bad = json.dumps(reading(frequency_hz=7)).replace("7", literal)
    good = json.dumps(reading(time="2026-01-01T00:00:01Z"))
    outcome = screened(f"[{good}, {bad}]".encode())
    assert len(outcome.accepted) == 1
    assert reasons(outcome) == [(0, 1, Reason.NOT_FINITE)]
    orjson.loads(orjson.dumps(outcome.rejected[0].row.payload))


def test_a_huge_integer_beside_nan_refuses_only_its_reading() -> None:
    huge = json.dumps(reading(frequency_hz=10**29))
    nan = json.dumps(reading(frequency_hz=7)).replace("7", "NaN")
    outcome = screened(f"[{json.dumps(reading())}, {huge}, {nan}]".encode())
    assert len(outcome.accepted) == 1
    assert reasons(outcome) == [(0, 1, Reason.OUT_OF_RANGE), (0, 2, Reason.NOT_FINITE)]


@pytest.mark.parametrize("depth", [40, 500, 990, 1005, 1020])
def test_deep_nesting_is_refused_and_kept_to_the_byte(depth: int) -> None:
    for content in (
        b"[" * depth + b"]" * depth,
        b'{"a":' + b"[" * depth + b"]" * depth + b"}",
        b'{"a":' * depth + b"1" + b"}" * depth,
    ):
        outcome = screened(content, orjson.dumps(reading()))
        assert len(outcome.accepted) == 1
        [refused] = outcome.rejected
        assert base64.b64decode(refused.row.payload["body_base64"]) in content


def test_elements_that_are_no_objects_refuse_only_themselves() -> None:
    outcome = screened(orjson.dumps([5, reading(), "x", None]))
    assert len(outcome.accepted) == 1
    assert {index for _, index, _ in reasons(outcome)} == {0, 2, 3}
    assert {reason for _, _, reason in reasons(outcome)} == {Reason.INVALID_SCHEMA}


@pytest.mark.parametrize("content", [b"5", b'"x"', b"null", b"true"])
def test_a_body_that_is_no_reading_is_refused(content: bytes) -> None:
    assert reasons(screened(content)) == [(0, 0, Reason.INVALID_SCHEMA)]


def test_a_body_claiming_millions_of_readings_is_one_refusal() -> None:
    assert reasons(screened(b"[" + b"{}," * 300_000 + b"{}]")) == [(0, 0, Reason.UNDECODABLE)]
    empty = arrow_body(pump_id=pa.nulls(2_000_000))
    assert reasons(screened(empty, content_type=ARROW_TYPE)) == [(0, 0, Reason.UNDECODABLE)]


def test_arrow_of_every_sensible_type_is_read() -> None:
    content = arrow_body(
        pump_id=pa.array(["P1", "P1"]).dictionary_encode(),
        time=TIMES.cast(pa.timestamp("ns", "Europe/Berlin")),
        frequency_hz=pa.array([50, None], pa.int16()),
        motor_current_a=pa.array([None, 1.5], pa.float32()),
        running=pa.array([True, None]),
        trip_code=pa.array([None, 7], pa.int64()),
    )
    outcome = screened(content, content_type=ARROW_TYPE)
    assert outcome.rejected == []
    assert outcome.accepted.time_us.tolist() == [1_767_225_600_000_000, 1_767_225_601_000_000]
    assert outcome.accepted.values[0, 8] == 50.0
    assert outcome.accepted.values[1, 9] == 1.5
    assert outcome.accepted.running.tolist() == [1, -1]
    assert outcome.accepted.trip_code.tolist()[1] == 7


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"time": TIMES.cast(pa.int64()).cast(pa.timestamp("us"))}, Reason.INVALID_TIME),
        ({"time": pa.array([2**62, 1], pa.timestamp("s", "UTC"))}, Reason.INVALID_TIME),
        ({"frequency_hz": pa.array([True, False])}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": pa.array(["a", "b"])}, Reason.INVALID_SCHEMA),
        ({"frequency_hz": pa.array([float("nan"), 1.0])}, Reason.NOT_FINITE),
        ({"frequency_hz": pa.array([float("inf"), 1.0])}, Reason.NOT_FINITE),
        ({"trip_code": pa.array([2**31, 1])}, Reason.INVALID_SCHEMA),
        ({"spin": pa.array([1.0, None])}, Reason.UNKNOWN_CHANNEL),
        ({"pump_id": pa.array([1, 2])}, Reason.INVALID_SCHEMA),
    ],
)
def test_arrow_columns_of_the_wrong_kind_refuse_what_carries_them(
    columns: dict[str, Any], reason: Reason
) -> None:
    defaults = {"pump_id": pa.array(["P1", "P1"]), "time": TIMES, "motor_current_a": pa.array([1.0, 2.0])}
    outcome = screened(arrow_body(**defaults | columns), content_type=ARROW_TYPE)
    assert reasons(outcome)[0] == (0, 0, reason)
    whole = [each for each in outcome.rejected if each.row.channel is None]
    assert len(outcome.accepted) + len(whole) == 2
    assert bool(whole) == (columns.keys() <= {"pump_id", "time"})
    orjson.dumps(outcome.rejected[0].row.payload)


@given(cut=st.integers(0, 700))
def test_truncated_arrow_is_one_refusal_or_a_whole_stream(cut: int) -> None:
    content = arrow_body(pump_id=["P1", "P1"], time=TIMES, frequency_hz=[1.0, 2.0])
    outcome = screened(content[: max(0, len(content) - 1 - cut)], content_type=ARROW_TYPE)
    assert reasons(outcome) == [(0, 0, Reason.UNDECODABLE)]


def test_a_second_stream_behind_the_first_is_not_lost_silently() -> None:
    content = arrow_body(pump_id=["P1", "P1"], time=TIMES, frequency_hz=[1.0, 2.0])
    assert reasons(screened(content + content, content_type=ARROW_TYPE)) == [(0, 0, Reason.UNDECODABLE)]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_a_stream_that_could_inflate_is_refused_unread(compression: str, dictionary: bool) -> None:
    ids = pa.array(["P1"] * 1_000_000)
    pumps = ids.dictionary_encode() if dictionary else ids
    outcome = screened(arrow_body(compression, pump_id=pumps), content_type=ARROW_TYPE)
    assert reasons(outcome) == [(0, 0, Reason.UNDECODABLE)]
    assert "compressed" in outcome.rejected[0].row.detail


def test_a_time_zone_that_is_no_text_is_one_refusal() -> None:
    content = arrow_body(pump_id=["P1", "P1"], time=TIMES).replace(b"UTC", b"U\xffC")
    assert reasons(screened(content, content_type=ARROW_TYPE)) == [(0, 0, Reason.UNDECODABLE)]


@given(place=st.integers(0, 600), value=st.integers(0, 255))
def test_no_flipped_byte_breaks_the_decoder(place: int, value: int) -> None:
    content = bytearray(arrow_body(pump_id=["P1", "P1"], time=TIMES, frequency_hz=[1.0, 2.0]))
    content[place % len(content)] = value
    outcome = screened(bytes(content), content_type=ARROW_TYPE)
    assert len(outcome.accepted) + len(outcome.rejected) == outcome.counts.sum()


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(content: bytes) -> None:
    for content_type in (JSON_TYPE, ARROW_TYPE):
        outcome = screened(content, content_type=content_type)
        assert len(outcome.accepted) + len(outcome.rejected) == outcome.counts.sum()
        for each in outcome.rejected:
            orjson.dumps(each.row.payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
KEYS = st.sampled_from(["pump_id", "time", "frequency_hz", "running", "trip_code", "intake_temp_c", "x"])


@given(
    st.lists(JSON | st.dictionaries(KEYS, JSON | st.just("P1") | st.just("2026-01-01T00:00:00Z")), max_size=6)
)
def test_whatever_json_says_every_reading_is_accepted_or_refused_once(values: list[Any]) -> None:
    good = orjson.dumps(reading())
    outcome = screened(good, *(json.dumps(value).encode() for value in values), good)
    assert len(outcome.accepted) + len(outcome.rejected) == outcome.counts.sum()
    assert {0, len(values) + 1} <= set(outcome.decoded.body_of[outcome.accepted.number].tolist())
    for each in outcome.rejected:
        kept = orjson.dumps(each.row.payload)
        assert b"\\u0000" not in kept.replace(b"\\\\u0000", b"")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + orjson.dumps(reading()),
        orjson.dumps(reading()) + b"\0",
        b"\xef\xbb\xbf[" + orjson.dumps(reading()) + b"]\0\0\0",
    ],
)
def test_a_byte_order_mark_and_trailing_nul_characters_are_ignored(content: bytes) -> None:
    outcome = screened(content)
    assert (len(outcome.accepted), outcome.rejected) == (1, [])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps(reading()).encode("utf-16"), "UTF-16"),
        (gzip.compress(orjson.dumps(reading()), mtime=0), "gzip"),
        (b"\0" + orjson.dumps(reading()), "not JSON"),
    ],
)
def test_a_body_in_a_known_other_form_is_refused_by_its_name(content: bytes, told: str) -> None:
    [refused] = screened(content).rejected
    assert (refused.row.reason, told in refused.row.detail) == (Reason.UNDECODABLE, True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP", "br", r"\xff"])
def test_a_compressed_message_is_refused_with_the_remedy_and_kept_to_the_byte(encoding: str) -> None:
    content = gzip.compress(orjson.dumps(reading()))
    body = Body(content, JSON_TYPE, "gw-1", content_encoding=encoding)
    plain = Body(orjson.dumps(reading()), JSON_TYPE, "gw-1", content_encoding="identity")
    outcome = screen(decode([body, plain]), REGISTRY, NOW_US)
    [refused] = outcome.rejected
    assert refused.row.reason == Reason.UNSUPPORTED_MEDIA_TYPE
    assert "send it as it is" in refused.row.detail
    assert base64.b64decode(refused.row.payload["body_base64"]) == content
    assert len(outcome.accepted) == 1


def test_arrow_without_a_media_type_is_known_by_its_first_bytes() -> None:
    """As MQTT brings it."""
    body = arrow_body(pump_id=["P1", "P1"], time=TIMES, frequency_hz=[50.0, 50.0])
    assert len(screened(body, content_type=None).accepted) == 2


@pytest.mark.parametrize(
    "text", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize(
    "number", [pa.float32(), pa.dictionary(pa.int8(), pa.float64()), pa.dictionary(pa.int32(), pa.int16())]
)
def test_arrow_text_and_numbers_of_every_encoding_are_taken(text: pa.DataType, number: pa.DataType) -> None:
    times = pa.array([f"2026-01-01T00:00:0{second}Z" for second in range(3)])
    values = pa.array([50, None, 51], number.value_type if pa.types.is_dictionary(number) else number)
    outcome = screened(
        arrow_body(
            pump_id=pa.array(["P1", "P1", "P9"], pa.string()).cast(text),
            time=times.cast(text),
            frequency_hz=values.dictionary_encode().cast(number)
            if pa.types.is_dictionary(number)
            else values,
            running=[True, True, True],
        ),
        content_type=ARROW_TYPE,
    )
    frequency = outcome.accepted.values[:, CHANNEL_INDEX["frequency_hz"]].tolist()
    assert (frequency[0], math.isnan(frequency[1]), len(frequency)) == (50, True, 2)
    assert [each.row.reason for each in outcome.rejected] == [Reason.UNKNOWN_PUMP]
    assert outcome.decoded.sent(2)["pump_id"] == "P9"


def test_equal_elements_that_are_no_readings_are_refused_together() -> None:
    junk = [1] * 5000
    outcome = screened(orjson.dumps([*junk, reading(), "1", None]))
    assert [(each.index, each.row.reason) for each in outcome.rejected] == [
        (0, Reason.INVALID_SCHEMA),
        (5001, Reason.INVALID_SCHEMA),
        (5002, Reason.INVALID_SCHEMA),
    ]
    assert "5000 times" in outcome.rejected[0].row.detail
    assert (outcome.counts.tolist(), len(outcome.accepted)) == ([4], 1)
