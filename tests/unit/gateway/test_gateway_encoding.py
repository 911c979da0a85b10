import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from esp_common.contracts import arrow
from esp_gateway.encoding import MAX_BYTES, MAX_READINGS, Encoding, decode, encode
from esp_gateway.errors import ReadingTooLarge
from hypothesis import given
from hypothesis import strategies as st

TIME = "2026-03-01T12:00:00+00:00"

names = st.sampled_from(["intake_pressure_psi", "Vendor.Tag", "motor_temp_c"])
readings = st.lists(
    st.fixed_dictionaries(
        {
            "pump_id": st.text(max_size=8),
            "time": st.sampled_from([TIME, "2026-03-01T12:00:00.123456+00:00", "late"]),
        },
        optional={"running": st.booleans(), "trip_code": st.integers(-5, 5)},
    ).flatmap(
        lambda base: st.dictionaries(names, st.floats(width=64)).map(lambda values: {**base, **values})
    ),
    max_size=40,
)


def plain(reading: dict[str, Any]) -> str:
    return json.dumps(reading, sort_keys=True)


@given(readings, st.sampled_from(Encoding))
def test_every_reading_comes_out_as_it_went_in(
    given_readings: list[dict[str, Any]], encoding: Encoding
) -> None:
    batches = encode(given_readings, encoding)
    received = [reading for batch in batches for reading in decode(batch.content_type, batch.body)]
    assert sorted(map(plain, received)) == sorted(map(plain, given_readings))
    assert sum(batch.readings for batch in batches) == len(given_readings)


@pytest.mark.parametrize("encoding", Encoding)
def test_batches_hold_at_most_what_a_message_may(encoding: Encoding) -> None:
    tags = {f"tag-{number}-{'x' * 30}": number * 1.1 for number in range(200)}
    many = [{"pump_id": "P", "time": TIME, **tags} for _ in range(1200)]
    batches = encode(many, encoding)
    assert sum(batch.readings for batch in batches) == 1200
    assert max(batch.readings for batch in batches) <= MAX_READINGS
    assert max(len(batch.body) for batch in batches) <= MAX_BYTES
    assert len({batch.message_id for batch in batches}) == len(batches)


@pytest.mark.parametrize("encoding", Encoding)
def test_a_reading_larger_than_a_message_is_refused(encoding: Encoding) -> None:
    with pytest.raises(ReadingTooLarge, match="'P'"):
        encode([{"pump_id": "P", "time": TIME, "note": "x" * MAX_BYTES}], encoding)


def test_what_arrow_cannot_hold_travels_as_json_beside_it() -> None:
    good = {"pump_id": "P", "time": TIME, "intake_pressure_psi": 1.5, "trip_code": 3, "running": True}
    bad = [
        {**good, "time": "yesterday"},
        {**good, "intake_pressure_psi": "1,5"},
        {**good, "trip_code": 2**40},
        {**good, "running": 1},
        {**good, "pump_id": None},
    ]
    typed, others = encode([good, *bad], Encoding.ARROW)
    assert (typed.content_type, typed.readings) == (arrow.MEDIA_TYPE, 1)
    assert decode(others.content_type, others.body) == bad


def test_arrow_columns_have_the_contracts_types() -> None:
    offset = datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    (batch,) = encode(
        [
            {"pump_id": "P", "time": offset, "intake_pressure_psi": 5, "running": True, "trip_code": 1},
            {"pump_id": "Q", "time": TIME},
        ],
        Encoding.ARROW,
    )
    readings = arrow.decode(batch.body)  # the platform's strict reader takes it
    assert list(readings.pump_id) == ["P", "Q"]
    assert (
        readings.time_us[0] == readings.time_us[1] == datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1e6
    )
    with pa.ipc.open_stream(batch.body) as reader:
        assert reader.schema.field("intake_pressure_psi").type == pa.float64()


def test_numbers_that_are_none_reach_the_platform() -> None:
    (batch,) = encode([{"pump_id": "P", "time": TIME, "a": math.nan, "b": -math.inf, "c": None}])
    assert b'"a":NaN' in batch.body
    assert b'"b":-Infinity' in batch.body
