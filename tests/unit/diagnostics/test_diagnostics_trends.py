"""Trends: choice of resolution, and encodings."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from esp_common.errors import InvalidInput
from esp_diagnostics.trends.encoding import ARROW, CSV, JSON, to_arrow, to_csv, to_json
from esp_diagnostics.trends.media import NotAcceptable, negotiate
from esp_diagnostics.trends.resolution import (
    GRAIN_S,
    Plan,
    Resolution,
    Span,
    TooManyPoints,
    Trend,
    bucketed,
    checked_span,
    plan,
)
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 10, 12, 34, 56, tzinfo=UTC)
DAY = timedelta(days=1)
RAW_SINCE = NOW - 29 * DAY

spans = st.builds(
    lambda start_s, length_s: Span(
        NOW - timedelta(seconds=start_s), NOW - timedelta(seconds=start_s) + timedelta(seconds=length_s)
    ),
    st.integers(0, 3_000 * 86_400),
    st.integers(1, 3_000 * 86_400),
)


def planned(
    span: Span, resolution: Resolution = Resolution.AUTO, points: int = 1000, interval_s: float | None = 10
) -> Plan:
    return plan(span, resolution, points, interval_s=interval_s, raw_since=RAW_SINCE)


def last(length: timedelta) -> Span:
    return Span(NOW - length, NOW)


@pytest.mark.parametrize(
    ("length", "points", "source", "resolution"),
    [
        (timedelta(hours=2), 1000, "raw", "raw"),
        (timedelta(hours=12), 1000, "1min", "1min"),
        (2 * DAY, 1000, "1min", "5min"),
        (7 * DAY, 1000, "1min", "15min"),
        (7 * DAY, 300, "1hour", "1hour"),
        (30 * DAY, 1000, "1hour", "1hour"),
        (30 * DAY, 2000, "1hour", "1hour"),
        (365 * DAY, 1000, "1day", "1day"),
        (365 * DAY, 2000, "1hour", "6hour"),
        (3650 * DAY, 1000, "1day", "7day"),
    ],
    ids=str,
)
def test_auto_uses_the_finest_resolution_that_fits_or_a_sufficient_stored_one(
    length: timedelta, points: int, source: str, resolution: str
) -> None:
    found = planned(last(length), points=points)
    assert (found.source, found.resolution) == (source, resolution)


@given(spans, st.integers(2, 20_000))
def test_buckets_stay_within_max_points_and_cover_the_span(span: Span, points: int) -> None:
    try:
        found = bucketed(span, points)
    except TooManyPoints:
        assert points < 6
        return
    assert found.bucket_s is not None
    count = found.span.seconds / found.bucket_s
    assert count == int(count)
    assert count <= points
    assert found.span.start <= span.start
    assert found.span.end >= span.end
    assert found.bucket_s % GRAIN_S[found.source] == 0


def test_auto_does_not_plan_dropped_readings() -> None:
    old = Span(NOW - 40 * DAY, NOW - 40 * DAY + timedelta(minutes=10))
    assert planned(old).source is Resolution.MINUTE
    assert planned(old, Resolution.RAW).source is Resolution.RAW


def test_a_pump_without_interval_is_planned_at_one_reading_per_second() -> None:
    assert planned(last(timedelta(seconds=900)), interval_s=None).source is Resolution.RAW
    assert planned(last(timedelta(seconds=1100)), interval_s=None).source is Resolution.MINUTE


def test_too_many_stored_points_are_rejected_with_their_number() -> None:
    with pytest.raises(TooManyPoints, match=r"^720 points of 1hour|^721 points of 1hour") as refused:
        planned(last(30 * DAY), Resolution.HOUR, points=700)
    assert "resolution=auto" in str(refused.value.fix)


@pytest.mark.parametrize(
    "length", [timedelta(0), -DAY, 11 * 365 * DAY], ids=["empty", "reversed", "too-long"]
)
def test_an_invalid_span_is_rejected(length: timedelta) -> None:
    with pytest.raises(InvalidInput):
        checked_span(NOW, NOW + length, timedelta(days=3700))


@pytest.fixture
def trend() -> Trend:
    """Two buckets; nothing was measured of the second channel in the first."""
    wanted = Plan(Resolution.MINUTE, Span(NOW, NOW + timedelta(minutes=10)), 300)
    times = [datetime(2026, 3, 10, 12, 30, tzinfo=UTC), datetime(2026, 3, 10, 12, 35, tzinfo=UTC)]
    columns = {
        "intake_pressure_psi": {
            "avg": np.array([900.123456789, 901.0]),
            "min": np.array([899.0, 900.0]),
            "max": np.array([902.0, 903.05]),
        },
        "motor_temp_c": {name: np.array([np.nan, 120.0]) for name in ("avg", "min", "max")},
    }
    return Trend("P-1", wanted, times, columns, {"readings": [30, 30], "running_share": [1.0, None]})


def test_json_has_one_column_per_statistic_and_null_for_missing_values(trend: Trend) -> None:
    answer = orjson.loads(to_json(trend))
    assert (answer["resolution"], answer["source"], answer["bucket_s"], answer["points"]) == (
        "5min",
        "1min",
        300,
        2,
    )
    assert answer["time"] == ["2026-03-10T12:30:00Z", "2026-03-10T12:35:00Z"]
    assert answer["channels"]["intake_pressure_psi"] == {
        "unit": "psi",
        "avg": [900.1235, 901],
        "min": [899, 900],
        "max": [902, 903.05],
    }
    assert answer["channels"]["motor_temp_c"]["max"] == [None, 120]
    assert answer["running_share"] == [1, None]


def test_csv_has_one_row_per_point(trend: Trend) -> None:
    first, second = csv.DictReader(io.StringIO(to_csv(trend).decode()))
    assert datetime.fromisoformat(first["time"]) == trend.times[0]
    assert (float(second["intake_pressure_psi_max"]), first["motor_temp_c"]) == (903.05, "")


def test_arrow_has_one_column_per_statistic(trend: Trend) -> None:
    table = pa.ipc.open_stream(to_arrow(trend)).read_all()
    assert table.schema.metadata[b"resolution"] == b"5min"
    assert table["time"].to_pylist() == list(trend.times)
    assert table["motor_temp_c_min"].to_pylist() == [None, 120]


@pytest.mark.parametrize("write", [to_json, to_csv, to_arrow], ids=["json", "csv", "arrow"])
def test_an_empty_trend_is_encoded(trend: Trend, write: Any) -> None:
    empty = {name: {"avg": np.array([])} for name in trend.channels}
    assert write(Trend("P-1", trend.plan, [], empty, {"readings": []}))


def test_channels_without_values_can_be_dropped(trend: Trend) -> None:
    for values in trend.channels["motor_temp_c"].values():
        values[:] = np.nan
    assert list(trend.measured().channels) == ["intake_pressure_psi"]


@pytest.mark.parametrize(
    ("accept", "sent"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("text/csv", CSV),
        ("text/*", CSV),
        ("application/json;q=0.5, text/csv", CSV),
        (f"{ARROW}, application/json;q=0.9", ARROW),
        ("text/html, */*;q=0.1", JSON),
        ("application/json;q=0, */*", CSV),
    ],
    ids=lambda value: str(value).replace("/", "-"),
)
def test_the_preferred_media_type_is_chosen(accept: str | None, sent: str) -> None:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    assert negotiate(Request({"type": "http", "headers": headers}), (JSON, CSV, ARROW)) == sent


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/json;q=x"])
def test_unacceptable_media_types_are_rejected(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        negotiate(Request({"type": "http", "headers": [(b"accept", accept.encode())]}), (JSON,))
