"""Cursors: what comes back is what was given out, and anything else is refused at once."""

import base64
import faulthandler
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from esp_common.cursors import (
    MAX_SERIAL,
    day_field,
    decode_cursor,
    encode_cursor,
    float_field,
    integer_field,
    serial_field,
    text_field,
    time_field,
    uuid_field,
)
from esp_common.errors import InvalidInput
from hypothesis import given
from hypothesis import strategies as st

FIELDS = [text_field, time_field, day_field, uuid_field, float_field, serial_field, integer_field(-5, 5)]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.sampled_from(["2026-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "x"])
    | st.uuids().map(str)
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner), max_leaves=6
)


def cursor_of(value: object) -> str:
    """Return a cursor as a client could make it."""
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """End the whole run, with the stack, if one test takes a minute: a thread cannot stop a loop in C."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


VALUES = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    st.datetimes(datetime(1900, 1, 1), datetime(2999, 12, 31), timezones=st.just(UTC)),
    st.dates(),
    st.uuids(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, MAX_SERIAL),
    st.integers(-5, 5),
)


@given(VALUES)
def test_a_cursor_comes_back_as_it_was(values: tuple[Any, ...]) -> None:
    assert decode_cursor(encode_cursor(*values), *FIELDS) == values


def test_a_time_comes_back_in_utc() -> None:
    time = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    (back,) = decode_cursor(encode_cursor(time), time_field)
    assert (back, back.tzinfo) == (time, UTC)


@given(JSON, st.lists(st.sampled_from(FIELDS), max_size=4))
def test_any_other_document_is_refused_or_gives_typed_values(value: object, fields: list[Any]) -> None:
    try:
        values = decode_cursor(cursor_of(value), *fields)
    except InvalidInput:
        return
    assert len(values) == len(fields)
    for each in values:
        assert isinstance(each, str | float | int | date | UUID)
        assert not isinstance(each, float) or math.isfinite(each)
        assert not isinstance(each, datetime) or each.tzinfo is UTC


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_other_text_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="invalid cursor"):
        decode_cursor(cursor, uuid_field, serial_field)


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (["2026-01-01", "x"], [time_field, serial_field]),
        (["2026-01-01T00:00:00", 1], [time_field, serial_field]),
        (["0001-01-01T00:00:00+14:00", 1], [time_field, serial_field]),
        (["2026-01-01T00:00:00Z", -1], [time_field, serial_field]),
        (["2026-01-01T00:00:00Z", 2**63], [time_field, serial_field]),
        (["2026-01-01T00:00:00Z", 1.0], [time_field, serial_field]),
        (["2026-01-01T00:00:00Z", True], [time_field, serial_field]),
        (["2026-01-01T00:00:00Z"], [time_field, serial_field]),
        (["a\0b"], [text_field]),
        ([None], [text_field]),
        (["x" * 600], [text_field]),
        ([6], [integer_field(-5, 5)]),
        ([["x"]], [text_field]),
        ({"0": "x"}, [text_field]),
        ([7], [uuid_field]),
        ([20260101], [day_field]),
        (["nan"], [float_field]),
    ],
)
def test_a_value_of_another_type_or_range_is_refused(value: object, fields: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="invalid cursor") as refused:
        decode_cursor(cursor_of(value), *fields)
    assert refused.value.fix == "start from the first page"
