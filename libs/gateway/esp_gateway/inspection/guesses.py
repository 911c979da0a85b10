"""Guess the format of time and number columns."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, Final

from esp_gateway.numbers import NumberFormat
from esp_gateway.times import EPOCHS, SERIALS, TimeColumn, TimeUnreadable

_NAME: Final = re.compile(r"time|date|zeit|datum|stamp|\bts\b|\btid\b|heure|fecha|hora|\bt\b", re.IGNORECASE)
_ZONE_NAME: Final = re.compile(r"\b(utc|gmt|zulu)\b", re.IGNORECASE)
_CLOCKS: Final = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H.%M.%S", "%H.%M", "%I:%M:%S %p", "%I:%M %p")
_DAYS: Final = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%d-%b-%Y", "%d-%b-%y"),
    *("%d %b %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%Y.%m.%d"),
)
_FORMATS: Final[Sequence[str | None]] = (None, *(f"{day} {clock}" for day in _DAYS for clock in _CLOCKS))
_NUMBER_FORMATS: Final = (
    NumberFormat(),
    NumberFormat(","),
    NumberFormat(",", "."),
    NumberFormat(".", ","),
    NumberFormat(",", " "),
    NumberFormat(".", " "),
    NumberFormat(".", "'"),
)
_MOST: Final = 0.6
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)


def number_format(columns: Iterable[Sequence[Any]]) -> NumberFormat:
    """Return the format that parses most texts as numbers; the plain one if no other is better."""
    texts = [value for values in columns for value in values if isinstance(value, str)]
    return max(_NUMBER_FORMATS, key=lambda each: sum(each.parse(text) is not None for text in texts))


def time_column(
    columns: dict[str, list[Any]], numbers: NumberFormat
) -> tuple[str, str | None, list[datetime], str] | None:
    """Return name, format, first times and a remark of the column with times, or None."""
    names = sorted(columns, key=lambda name: not _NAME.search(name))
    for formats in (_FORMATS, (*EPOCHS, *SERIALS)):
        for position, name in enumerate(names):
            is_likely = bool(_NAME.search(name)) or (position == 0 and name == next(iter(columns)))
            if formats is not _FORMATS and not is_likely:
                continue
            fitting = [
                (each, times) for each in formats if (times := _times(name, each, columns[name], numbers))
            ]
            if fitting:
                format_, times = min(fitting, key=lambda each: _disorder(each[1]))
                return name, format_, times, _remark(format_, [each for each, _ in fitting])
    return None


def zone_in(text: str) -> str | None:
    """Return UTC if a header or a unit says so."""
    return "UTC" if _ZONE_NAME.search(text) else None


def _times(name: str, format_: str | None, values: Sequence[Any], numbers: NumberFormat) -> list[datetime]:
    """Return the times in a column if most of its values parse in that format, else nothing."""
    column, times = TimeColumn(column=name, format=format_), []
    for value in values[:100]:
        if format_ is None and not isinstance(value, str | datetime | date | bytes):
            return []
        try:
            time = column.read(value, numbers)
        except TimeUnreadable:
            continue
        if time.replace(tzinfo=time.tzinfo or UTC) >= _EARLIEST:
            times.append(time)
    return times if times and len(times) >= _MOST * len(values[:100]) else []


def _disorder(times: Sequence[datetime]) -> tuple[int, float]:
    """Return how often times go back and their span: both are larger if day and month are exchanged."""
    plain = [time.replace(tzinfo=None) for time in times]
    turns = sum(later < earlier for earlier, later in pairwise(plain))
    return min(turns, len(plain) - 1 - turns), abs((plain[-1] - plain[0]).total_seconds())


def _remark(chosen: str | None, fitting: Sequence[str | None]) -> str:
    others = [
        each
        for each in fitting
        if each and chosen and each.startswith("%") and each.split()[0] != chosen.split()[0]
    ]
    return f"day and month may be the other way round ({others[0]}): check" if others else ""
