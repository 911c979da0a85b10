"""Parse times in files: ISO 8601, strptime formats, and named numeric formats."""

import re
from datetime import UTC, datetime, time, timedelta, tzinfo
from datetime import date as calendar_date
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, field_validator

from esp_gateway.numbers import NumberFormat

EPOCHS: Final = {"epoch-s": 1_000_000, "epoch-ms": 1_000, "epoch-us": 1}
"""Microseconds in a unit of each format that counts from 1970 UTC."""

SERIALS: Final = {"excel": datetime(1899, 12, 30), "excel-1904": datetime(1904, 1, 1)}
"""Day 0 of each format that counts days of local time."""

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Earlier times are an unset clock or a number in another unit; the platform refuses them."""

_ISO: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})"
    r"(?:[T ](\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?) ?(Z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?",
    re.IGNORECASE | re.ASCII,
)
_NUMBER: Final = re.compile(r"[0-9]{1,20}([.,][0-9]{1,20})?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SERIAL: Final = 2_958_466
_DAY_MS: Final = 86_400_000


class TimeUnreadable(ValueError):
    """The value is not a time; the message gives the reason."""


class TimeColumn(BaseModel):
    """Column and format of a record's time.

    `format`: None for ISO 8601, a strptime format, or by name `epoch-s`, `epoch-ms`, `epoch-us`, `excel` or
    `excel-1904`: bare numbers are never guessed. `timezone` applies to times without an offset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    format: str | None = None
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {name!r}, say e.g. Europe/Oslo or UTC") from error
        return name

    @field_validator("format")
    @classmethod
    def _complete(cls, format_: str | None) -> str | None:
        if format_ is not None and format_ not in EPOCHS and format_ not in SERIALS:
            _check_format(format_)
        return format_

    def read(self, value: object, numbers: NumberFormat) -> datetime:
        """Return the time in `value` (text, number or time), naive if it has no offset.

        Raises TimeUnreadable.
        """
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if value is None or (isinstance(value, str) and not value.strip()):
            raise TimeUnreadable("empty")
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, calendar_date):
            found = datetime.combine(value, time())
        elif self.format in EPOCHS or self.format in SERIALS:
            found = self._from_number(value, numbers)
        else:
            found = self._from_text(value)
        if not 1900 <= found.year <= 2200:
            raise TimeUnreadable(f"the year {found.year}")
        return found

    def _from_number(self, value: object, numbers: NumberFormat) -> datetime:
        number = numbers.parse(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TimeUnreadable(f"no number, and the format is {self.format}")
        try:
            if self.format in EPOCHS:
                return _EPOCH + timedelta(microseconds=round(number * EPOCHS[self.format]))
            if not 1 <= number < _LAST_SERIAL:
                raise TimeUnreadable(f"no day number of {self.format}")
            # Ten decimals are 9 µs: anything finer is noise.
            return SERIALS[str(self.format)] + timedelta(milliseconds=round(number * _DAY_MS))
        except (OverflowError, ValueError) as error:
            if isinstance(error, TimeUnreadable):
                raise
            raise TimeUnreadable(f"out of range for {self.format}{_other_epoch(number)}") from None

    def _from_text(self, value: object) -> datetime:
        if not isinstance(value, str):
            raise TimeUnreadable(f"a bare number{_number_hint(value)}")
        text = value.strip()
        try:
            if self.format:
                return datetime.strptime(text, self.format)
            if found := _ISO.fullmatch(text):
                day, clock, offset = found.groups()
                return datetime.fromisoformat(f"{day}T{clock or '00:00'}{offset or ''}".upper())
        except ValueError:
            raise TimeUnreadable("") from None
        if _NUMBER.fullmatch(text):
            raise TimeUnreadable(f"a bare number{_number_hint(float(text.replace(',', '.')))}")
        raise TimeUnreadable("")


def is_clear(local: datetime, zone: tzinfo) -> bool:
    """Return whether the naive `local` occurs exactly once in `zone`."""
    first = local.replace(tzinfo=zone)
    return first.utcoffset() == first.replace(fold=1).utcoffset()


def is_skipped(local: datetime, zone: tzinfo) -> bool:
    """Return whether the naive `local` does not occur in `zone`: clocks were put forward over it."""
    there = local.replace(tzinfo=zone)
    return there.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local


def _check_format(format_: str) -> None:
    """Raise ValueError for a strptime format that is unknown or does not determine a day."""
    try:
        datetime.strptime("", format_)
    except ValueError as error:
        if "directive" in str(error) or "stray" in str(error):
            names = ", ".join((*EPOCHS, *SERIALS))
            raise ValueError(f"{format_!r}: {error}; numbers are read by name: {names}") from error
    directives = set(re.findall(r"%(.)", format_.replace("%%", "")))
    if not directives & set("YyGcxD"):
        names = ", ".join((*EPOCHS, *SERIALS))
        raise ValueError(f"{format_!r} has no year; use strptime's directives, or one of {names}")
    if not (directives & set("cxDjV") or ("d" in directives and directives & set("mbB"))):
        raise ValueError(f"{format_!r} has no day and month")
    if "I" in directives and "p" not in directives:
        raise ValueError(f"{format_!r} has hours up to 12 without %p: use %H, or add %p")


def _number_hint(value: object) -> str:
    """Return the named format that a bare number may have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    for name, low, high in (
        ("excel", 36_526, 73_051),
        ("epoch-s", 946_684_800, 4_102_444_800),
        ("epoch-ms", 946_684_800_000, 4_102_444_800_000),
        ("epoch-us", 946_684_800_000_000, 4_102_444_800_000_000),
    ):
        if low <= value < high:
            return f"; is it format: {name}?"
    return ""


def _other_epoch(number: float) -> str:
    hint = _number_hint(number)
    return hint or ""
