"""One parser of times for every door: RFC 3339 is taken, anything else is refused with the reason."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from esp_auth.domain.records import Unfit
from esp_auth.domain.records import _time_us as audit_time_us
from esp_backup.cli import _moment as backup_moment
from esp_common.answers import UtcTime
from esp_common.errors import InvalidInput
from esp_common.times import parse_time
from esp_gateway.encoding import _instant as gateway_instant
from esp_ingest.domain.columns import take_times
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

_HTTP = TypeAdapter(UtcTime)
_DOORS = {
    "http": (_HTTP.validate_python, ValidationError),
    "command": (backup_moment, InvalidInput),
    "audit": (audit_time_us, Unfit),
}

REFUSED = {
    "2026-01-31T12:00:00+02:60": "RFC 3339",
    "2026-01-31T12:00:00+24:00": "RFC 3339",
    "2026-W05-6T12:00:00Z": "week dates",
    "2026W056T120000Z": "week dates",
    "20260131T120000Z": "RFC 3339",
    "2026-01-31T12:00:00,5Z": "point",
    "2026-01-31T12:00:00+0200": "RFC 3339",
    "2026-01-31T12:00:00+02": "RFC 3339",
    "2026-01-31x12:00:00Z": "RFC 3339",
    "2026-01-31T12:00Z": "RFC 3339",
    "2026-01-31T12Z": "RFC 3339",
    "2026-01-31": "RFC 3339",
    "2026-02-30T12:00:00Z": "RFC 3339",
    "2026-01-31T12:00:00": "no offset",
    "2026-01-31T12:00:00 02:00": "%2B",
    "2026-01-31T23:59:60Z": "leap second",
    "2026-01-31T24:00:00Z": "next day",
    "0001-01-01T00:00:00Z": "years",
    "9999-12-31T23:59:59Z": "years",
    "1769860800": "bare number",
    "２０２６-01-31T12:00:00Z": "RFC 3339",
    "2026-01-31T12:00:00Z\n": "RFC 3339",
    "2026-01-31T12:00:00.Z": "RFC 3339",
    "": "missing",
}


@pytest.mark.parametrize(("text", "told"), REFUSED.items())
def test_anything_but_rfc_3339_is_refused_with_the_reason(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_time(text)


@pytest.mark.parametrize("value", [None, 1769860800, 1.5, True, [], {}, b"2026-01-31T12:00:00Z"])
def test_what_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(value)


@pytest.mark.parametrize(
    ("text", "offset", "microsecond"),
    [
        ("2026-01-31T12:00:00Z", 0, 0),
        ("2026-01-31t12:00:00z", 0, 0),
        ("2026-01-31 12:00:00-00:00", 0, 0),
        ("2026-01-31T12:00:00.123456789+05:30", 330, 123456),
        ("2026-01-31T12:00:00.1-23:59", -1439, 100000),
    ],
)
def test_every_form_of_rfc_3339_is_taken(text: str, offset: int, microsecond: int) -> None:
    local = datetime(2026, 1, 31, 12, 0, 0, microsecond, timezone(timedelta(minutes=offset)))
    assert parse_time(text) == local
    assert parse_time(text).tzinfo is UTC


ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(3, 1, 1), datetime(9998, 1, 1), timezones=ZONES)


@given(MOMENTS)
def test_a_time_survives_being_written_and_read(moment: datetime) -> None:
    assert parse_time(moment.isoformat()) == moment


PARTS = st.sampled_from(
    [
        *"0123456789TtZzxW:.,+- ",
        "2026",
        "-01-31",
        "T12:00:00",
        "+02:00",
        "+02:60",
        "Z",
        "23:59:60",
        "24:00:00",
    ]
)
CLOSE = st.builds(
    lambda text, at, part, cut: text[:at] + part + text[at + cut :],
    MOMENTS.map(datetime.isoformat),
    st.integers(0, 32),
    PARTS,
    st.integers(0, 3),
)


def verdict(text: str) -> int | None:
    try:
        return (parse_time(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    except ValueError:
        return None


@settings(deadline=None)
@given(st.one_of(CLOSE, st.lists(PARTS, max_size=8).map("".join), st.text(max_size=40)))
@example("2026-01-31T12:00:00+0200")
@example("2026-01-31T12:00:00.1234567Z")
@example("0000-01-01T00:00:00Z")
def test_every_door_gives_the_same_verdict(text: str) -> None:
    expected = verdict(text)
    for column in ([text], pa.array([text]), pa.array([text]).dictionary_encode(), [text, 5]):
        time_us, missing = take_times(column)
        assert (None if missing[0] else int(time_us[0])) == expected
    good = "2026-01-31T12:00:00Z"
    time_us, missing = take_times([good, text, good])
    assert (None if missing[1] else int(time_us[1])) == expected
    assert not missing[[0, 2]].any()
    assert (gateway_instant(text) is None) == (expected is None)
    for door, (read, refusal) in _DOORS.items():
        # Queries are narrower: other years would make spans overflow.
        if expected is None or (door == "http" and not 1900 <= parse_time(text).year <= 2999):
            with pytest.raises(refusal):
                read("x" if text == "latest" else text)
        else:
            assert read(text) in (parse_time(text), expected)


def test_a_time_that_cannot_be_read_has_no_number_that_could_pass_for_one() -> None:
    time_us, missing = take_times(["rubbish", None, "0001-01-01T00:00:00Z"])
    assert missing.all()
    assert (time_us == np.iinfo(np.int64).min).all()
