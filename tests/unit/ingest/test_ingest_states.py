"""Flags and codes mean the same in JSON and in every Arrow type; a tag map may have words of its own."""

from typing import Any

import orjson
import pyarrow as pa
import pytest
from esp_common.contracts.readings import RUNNING_ABSENT
from esp_ingest.domain.decode import ARROW_TYPE, Body, decode
from esp_ingest.domain.registry import Pump, Registry, Tag
from esp_ingest.domain.screen import Screened, screen

NOW_US = 1_767_268_800 * 1_000_000
REGISTRY = Registry.of(
    [Pump(7, "P7", "W7", "north")],
    {"gw-7": [7], "gw-words": [7]},
    {
        "gw-words": {
            "Status": Tag("running", states={"läuft": True, "2": True, "0": False, "1": False}),
            "Fault": Tag("trip_code", states={"overload": 16}),
        }
    },
)


def judge(body: Body) -> Screened:
    return screen(decode([body]), REGISTRY, NOW_US)


def in_json(column: str, values: list[Any], gateway_id: str) -> Screened:
    rows = [
        {"pump_id": "P7", "time": f"2026-01-01T11:00:{n:02d}Z", column: value}
        for n, value in enumerate(values)
    ]
    return judge(Body(orjson.dumps(rows), None, gateway_id))


def in_arrow(column: str, values: pa.Array, gateway_id: str) -> Screened:
    times = pa.array(
        [(NOW_US - 3_600_000_000) + n * 1_000_000 for n in range(len(values))], pa.timestamp("us", "UTC")
    )
    table = pa.table({"pump_id": ["P7"] * len(values), "time": times, column: values})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return judge(Body(sink.getvalue().to_pybytes(), ARROW_TYPE, gateway_id))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([True, False, True]),
        pa.array([1, 0, 1], pa.int8()),
        pa.array([1, 0, 1], pa.uint64()),
        pa.array([1.0, 0.0, 1.0]),
        pa.array([1.0, 0.0, 1.0], pa.float32()),
        pa.array(["ON", "OFF", "Running"]),
        pa.array(["1.0", "0", "TRUE"], pa.large_string()),
        pa.array(["ON", "OFF", "ON"]).dictionary_encode(),
    ],
    ids=str,
)
def test_running_is_the_same_in_every_type(values: pa.Array) -> None:
    for outcome in (
        in_arrow("running", values, "gw-7"),
        in_json("running", values.to_pylist(), "gw-7"),
    ):
        assert outcome.rejected == []
        assert outcome.accepted.running.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([16, 0, -3], pa.int64()),
        pa.array([16.0, 0.0, -3.0]),
        pa.array(["16.0", "0", "-3"]),
        pa.array(["16", "0", "-3.0"]).dictionary_encode(),
    ],
    ids=str,
)
def test_trip_codes_are_the_same_in_every_type(values: pa.Array) -> None:
    for outcome in (
        in_arrow("trip_code", values, "gw-7"),
        in_json("trip_code", values.to_pylist(), "gw-7"),
    ):
        assert outcome.rejected == []
        assert outcome.accepted.trip_code.tolist() == [16, 0, -3]


def test_absent_values_stay_absent_and_others_are_refused() -> None:
    values = [1, None, 2, "ON", "Bad", 1.0]
    outcome = in_json("running", values, "gw-7")
    assert {each.index for each in outcome.rejected} >= {2, 4}
    assert RUNNING_ABSENT not in outcome.accepted.running.tolist()
    arrow = in_arrow("running", pa.array([1, None, 2, 1, 5, 1]), "gw-7")
    assert {each.index for each in arrow.rejected} >= {2, 4}


def test_the_state_map_of_a_tag_comes_before_the_common_words() -> None:
    values = ["Läuft", "ON", 2, 1, "0"]
    outcome = in_json("Status", values, "gw-words")
    assert outcome.rejected == []
    assert outcome.accepted.running.tolist() == [1, 1, 1, 0, 0]
    texts = in_arrow("Status", pa.array([str(value) for value in values]).dictionary_encode(), "gw-words")
    assert texts.accepted.running.tolist() == [1, 1, 1, 0, 0]
    numbers = in_arrow("Status", pa.array([2.0, 1.0, 0.0]), "gw-words")
    assert numbers.accepted.running.tolist() == [1, 0, 0]
    assert in_json("Fault", ["Overload", 7], "gw-words").accepted.trip_code.tolist() == [16, 7]
