"""Batches and events: what one side writes the other reads, and nothing else."""

import numpy as np
import pyarrow as pa
import pytest
from esp_common.contracts import arrow
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_NAMES
from esp_common.contracts.events import Event, decode_event
from esp_common.contracts.readings import Readings
from esp_common.errors import InvalidInput
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@st.composite
def batches(draw: st.DrawFn) -> Readings:
    n = draw(st.integers(0, 5))
    values = hnp.arrays(np.float64, (n, CHANNEL_COUNT), elements=st.floats(allow_infinity=False))
    return Readings(
        pump_id=np.array(draw(st.lists(st.text("ab-", min_size=1), min_size=n, max_size=n)), dtype=object),
        time_us=draw(hnp.arrays(np.int64, n, elements=st.integers(-(2**50), 2**50))),
        values=draw(values),
        running=draw(hnp.arrays(np.int8, n, elements=st.sampled_from([-1, 0, 1]))),
        trip_code=draw(hnp.arrays(np.int32, n)),
    )


@given(readings=batches())
def test_a_batch_comes_back_as_it_was(readings: Readings) -> None:
    masks = np.arange(len(readings), dtype=np.int32)
    sent = arrow.encode(readings, fault_mask=masks, refused_mask=masks, clamped_mask=2 * masks)
    back, fault, frozen, refused, clamped = arrow.decode_accepted(sent)
    assert list(back.pump_id) == list(readings.pump_id)
    for column in ("time_us", "values", "running", "trip_code"):
        np.testing.assert_array_equal(getattr(back, column), getattr(readings, column))
    np.testing.assert_array_equal(fault, masks)
    np.testing.assert_array_equal(refused, masks)
    np.testing.assert_array_equal(clamped, 2 * masks)
    assert not frozen.any()


def test_only_channels_that_carry_a_value_travel() -> None:
    values = np.full((1, CHANNEL_COUNT), np.nan)
    values[0, 3] = 1.0
    readings = Readings(
        np.array(["P"], dtype=object),
        np.zeros(1, np.int64),
        values,
        np.full(1, -1, np.int8),
        np.full(1, -(2**31), np.int32),
    )
    names = pa.ipc.open_stream(arrow.encode(readings)).schema.names
    assert names == ["pump_id", "time", CHANNEL_NAMES[3]]


def stream(**columns: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def twice(name: str) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays([*GOOD.values(), GOOD[name]], names=[*GOOD, name])
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


TIME = pa.array([0], pa.timestamp("us", "UTC"))
NULL_TEXT = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([None], pa.string()))
GOOD = {"pump_id": pa.array(["P"]), "time": TIME}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no arrow",
        stream(**GOOD)[:-40],
        stream(time=TIME),
        stream(**GOOD | {"pump_id": pa.array([None], pa.string())}),
        stream(**GOOD | {"time": pa.array([0], pa.timestamp("us"))}),
        stream(**GOOD, pressure=pa.array([1.0])),
        stream(**GOOD, motor_temp_c=pa.array(["hot"])),
        stream(**GOOD | {"pump_id": NULL_TEXT}),
        twice("time"),
    ],
    ids=[
        *("empty", "text", "truncated", "no pump", "null pump", "no zone", "unknown column", "wrong type"),
        *("null in the dictionary", "column twice"),
    ],
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        arrow.decode(body)


def test_stream_of_several_batches_is_one_batch() -> None:
    sink = pa.BufferOutputStream()
    pumps = pa.array(["P", "Q", "P"]).dictionary_encode()
    times = pa.array([1, 2, 3], pa.timestamp("us", "UTC"))
    whole = pa.RecordBatch.from_pydict(
        {"pump_id": pumps, "time": times, "running": pa.array([True, None, False])}
    )
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        for row in range(3):
            writer.write_batch(whole.slice(row, 1))
    back = arrow.decode(bytes(sink.getvalue()))
    assert back.pump_id.tolist() == ["P", "Q", "P"]
    assert back.time_us.tolist() == [1, 2, 3]
    assert back.running.tolist() == [1, -1, 0]


def test_an_event_comes_back_as_it_was() -> None:
    event = Event("asset.pump-changed", "ingest", "P-1", {"model": "AN550"})
    assert decode_event(event.headers(), event.body()) == event


def test_the_other_prefix_of_the_binding_is_read_too() -> None:
    event = Event("asset.pump-changed", "ingest", "P-1", None)
    headers = {name.replace("cloudEvents_", "cloudEvents:"): value for name, value in event.headers().items()}
    assert decode_event(headers, event.body()) == event


@pytest.mark.parametrize(
    "change", [{"cloudEvents_id": None}, {"cloudEvents_specversion": "2.0"}, {"cloudEvents_time": "noon"}]
)
def test_what_is_no_event_is_refused(change: dict[str, str | None]) -> None:
    headers = Event("a.b", "ingest", "x", 1).headers() | change
    with pytest.raises(InvalidInput):
        decode_event({name: value for name, value in headers.items() if value}, b"1")
