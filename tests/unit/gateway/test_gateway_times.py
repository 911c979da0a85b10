"""Times in files: formats that are stated, local times that occur twice or never, and any text at all."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from esp_gateway.local_times import MAX_PENDING, LocalTimes
from esp_gateway.mapping import FileMap, Mapped, Mapper
from esp_gateway.numbers import NumberFormat
from esp_gateway.times import TimeColumn, TimeUnreadable
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

OSLO = ZoneInfo("Europe/Oslo")


def resolve(rows: list[tuple[str, dict[str, Any]]], **changes: Any) -> list[Mapped]:
    """Map rows of (local time, cells) in order."""
    base = {
        "pump_id": "P",
        "time": {"column": "t", "timezone": "Europe/Oslo"},
        "columns": {"a": "A", "b": "B"},
    }
    mapper, times = Mapper(FileMap.model_validate({**base, **changes})), LocalTimes[Mapped]()
    found = [row for time, cells in rows for row in times.push(mapper.map({"t": time, **cells}))]
    return [*found, *times.flush()]


def utc(rows: list[Mapped]) -> list[str | None]:
    return [row.time.astimezone(UTC).strftime("%H:%M") if row.time else None for row in rows]


def night(*clocks: str, **cells: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(f"2026-10-25 {clock}", cells or {"a": number}) for number, clock in enumerate(clocks)]


def test_both_passes_of_the_hour_follow_from_the_order() -> None:
    assert utc(resolve(night("01:30", "02:00", "02:30", "02:00", "02:30", "03:00"))) == [
        "23:30", "00:00", "00:30", "01:00", "01:30", "02:00",
    ]  # fmt: skip
    assert utc(resolve(night("03:00", "02:30", "02:00", "02:30", "02:00", "01:30"))) == [
        "02:00", "01:30", "01:00", "00:30", "00:00", "23:30",
    ]  # fmt: skip


def test_a_file_that_begins_or_ends_in_the_hour_is_resolved_where_both_passes_are_there() -> None:
    assert utc(resolve(night("02:30", "02:10", "03:00"))) == ["00:30", "01:10", "02:00"]
    assert utc(resolve(night("01:00", "02:30", "02:10"))) == ["23:00", "00:30", "01:10"]
    assert utc(resolve(night("02:10", "02:30", "02:10", "02:30"))) == ["00:10", "00:30", "01:10", "01:30"]


def test_hourly_rows_are_told_apart_by_their_values() -> None:
    assert utc(resolve(night("01:00", "02:00", "02:00", "03:00"))) == ["23:00", "00:00", "01:00", "02:00"]


@pytest.mark.parametrize(
    "clocks",
    [
        ("01:00", "02:00", "02:30", "03:00"),  # the hour is there once
        ("02:15",),
        ("02:10", "02:50", "02:20", "02:40", "02:30", "02:10"),  # in no order
    ],
)
def test_what_the_order_does_not_tell_is_refused_with_the_reason(clocks: tuple[str, ...]) -> None:
    for row, clock in zip(resolve(night(*clocks)), clocks, strict=True):
        if clock < "02" or clock >= "03":
            assert row.problem is None
        else:
            assert row.time is None
            assert "occurs twice in Europe/Oslo" in (row.problem or "")
            assert row.reading["time"] == row.problem  # so that quarantine shows why


def test_the_same_row_twice_is_no_second_pass() -> None:
    rows = resolve(night("01:00", "02:00", "02:00", "03:00", a=1))
    assert utc(rows) == ["23:00", None, None, "02:00"]


def test_pumps_in_one_file_are_resolved_each_for_itself() -> None:
    clocks = ["01:30", "02:30", "02:30", "03:00"]
    rows = [
        (f"2026-10-25 {clock}", {"w": pump, "a": number})
        for number, clock in enumerate(clocks)
        for pump in ("P-1", "P-2")
    ]
    found = resolve(rows, pump_id=None, pump_column="w")
    assert [row.pump for row in found] == ["P-1", "P-2"] * 4
    assert utc(found) == ["23:30", "23:30", "00:30", "00:30", "01:30", "01:30", "02:00", "02:00"]


def test_a_row_without_a_possible_pump_stays_reported_in_the_repeated_hour() -> None:
    rows = [
        (f"2026-10-25 {clock}", {"w": "no pump", "a": 1}) for clock in ("01:30", "02:30", "02:10", "03:00")
    ]
    assert all(row.problem for row in resolve(rows, pump_id=None, pump_column="w"))


def test_a_local_time_that_does_not_exist_is_refused_and_not_moved() -> None:
    before, never, after = resolve(
        [("2026-03-29 01:59", {"a": 1}), ("2026-03-29 02:30", {"a": 1}), ("2026-03-29 03:00", {"a": 1})]
    )
    assert utc([before, after]) == ["00:59", "01:00"]
    assert never.time is None
    assert "does not exist in Europe/Oslo" in (never.problem or "")
    assert never.reading["time"] == never.problem


def test_a_time_with_an_offset_is_never_ambiguous() -> None:
    rows = resolve([("2026-10-25T02:30:00+01:00", {"a": 1}), ("2026-10-25T02:30:00+02:00", {"a": 2})])
    assert utc(rows) == ["01:30", "00:30"]


def test_rows_in_no_order_of_time_do_not_fill_memory() -> None:
    mapper = Mapper(
        FileMap.model_validate(
            {"pump_id": "P", "time": {"column": "t", "timezone": "Europe/Oslo"}, "columns": {"a": "A"}}
        )
    )
    times = LocalTimes[Mapped]()
    held = 0
    for _ in range(MAX_PENDING + 1):
        held += 1 - len(list(times.push(mapper.map({"t": "2026-10-25 02:30", "a": 1}))))
        assert held <= MAX_PENDING
    assert held == 0


@given(
    st.lists(st.integers(0, 4 * 60 - 1), unique=True, min_size=1).map(sorted),
    st.booleans(),
    st.sampled_from(["Europe/Oslo", "America/Chicago", "Australia/Lord_Howe", "UTC"]),
)
def test_a_resolved_time_is_always_the_true_one(minutes: list[int], descending: bool, zone: str) -> None:
    starts = {
        "Europe/Oslo": datetime(2026, 10, 24, 23, tzinfo=UTC),
        "America/Chicago": datetime(2026, 11, 1, 5, tzinfo=UTC),
        "Australia/Lord_Howe": datetime(2026, 4, 4, 14, tzinfo=UTC),
        "UTC": datetime(2026, 1, 1, tzinfo=UTC),
    }
    instants = [starts[zone] + timedelta(minutes=minute) for minute in minutes]
    if descending:
        instants.reverse()
    rows = [
        (f"{instant.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M}", {"a": number})
        for number, instant in enumerate(instants)
    ]
    found = resolve(rows, time={"column": "t", "timezone": zone})
    assert len(found) == len(rows)
    for row, instant in zip(found, instants, strict=True):
        assert row.time is None or row.time.astimezone(UTC) == instant
        assert (row.time is None) == bool(row.problem)


@pytest.mark.parametrize(
    "text",
    ["20261120", "20261120T100000", "2026-W47-5", "2026-324", "2026-11-20T10", "2026-11-20 25:00",
     "2026-11-20T10:00:00+02:60", "2026-11-20T10:00:00+24:00", "2026-11-20x10:00", "1612111512345", "2026",
     "2026-11-20T10:00:00+0x:00", "٢٠٢٦-11-20"],
)  # fmt: skip
def test_other_forms_than_a_date_and_a_clock_are_no_time(text: str) -> None:
    with pytest.raises(TimeUnreadable):
        TimeColumn(column="t").read(text, NumberFormat())


@given(
    st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary(), st.datetimes()),
    st.sampled_from([None, "epoch-s", "epoch-ms", "epoch-us", "excel", "excel-1904", "%d.%m.%Y %H:%M"]),
    st.sampled_from([NumberFormat(), NumberFormat(",", "."), NumberFormat(".", " ")]),
)
def test_any_value_is_a_time_or_refused(value: object, format_: str | None, numbers: NumberFormat) -> None:
    with suppress(TimeUnreadable):
        assert isinstance(TimeColumn(column="t", format=format_).read(value, numbers), datetime)


@pytest.mark.parametrize(
    ("format_", "complaint"),
    [
        ("%s", "numbers are read by name: epoch-s"),
        ("%H:%M", "no year"),
        ("epoch", "no year; use strptime's directives, or one of epoch-s"),
        ("%Y %H:%M", "no day and month"),
        ("%d.%m.%Y %I:%M", "without %p"),
    ],
)
def test_a_format_that_cannot_tell_the_time_is_refused(format_: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TimeColumn(column="t", format=format_)


@pytest.mark.parametrize(
    ("numbers", "text", "expected"),
    [
        (NumberFormat(), "812.4", 812.4), (NumberFormat(), " -1e3 ", -1000.0), (NumberFormat(), ".5", 0.5),
        (NumberFormat(), "5.", 5.0), (NumberFormat(), "\u22125", -5.0), (NumberFormat(), "1,041.5", None),
        (NumberFormat(), "0,5", None), (NumberFormat(), "1_000", None), (NumberFormat(), "0x10", None),
        (NumberFormat(), "٣", None), (NumberFormat(), "1 000", None), (NumberFormat(), "9" * 100, None),
        (NumberFormat(",", "."), "1.041,5", 1041.5), (NumberFormat(",", "."), "1.04,5", None),
        (NumberFormat(",", "."), "812.4", None), (NumberFormat(",", "."), "1041,5", 1041.5),
        (NumberFormat(",", " "), "1\u202f041,5", 1041.5), (NumberFormat(",", " "), "1 041 000", 1041000.0),
        (NumberFormat(".", ","), "1,041.5", 1041.5), (NumberFormat(".", "'"), "1'041.5", 1041.5),
    ],
)  # fmt: skip
def test_a_number_is_read_in_its_own_format_only(
    numbers: NumberFormat, text: str, expected: float | None
) -> None:
    assert numbers.parse(text) == expected


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(".,' "))
def test_a_written_number_reads_back(value: float, thousands: str) -> None:
    decimal = "," if thousands == "." else "."
    text = f"{value:,.6f}".replace(",", "T").replace(".", decimal).replace("T", thousands)
    if len(text) <= 60:
        assert NumberFormat(decimal, thousands).parse(text) == pytest.approx(value, abs=1e-6)
