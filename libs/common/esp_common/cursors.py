"""Cursors of paged lists: opaque text with the typed values at which a page ended.

A cursor comes back from a client, so the type and range of every value are checked before use, in constant
time for each field.
"""

import base64
import math
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

import orjson

from esp_common.errors import InvalidInput
from esp_common.times import parse_time

Value = str | int | float | datetime | date | UUID
Field = Callable[[object], Any]
"""Return the value of a JSON scalar; raise ValueError if it is not of the field's type."""

MAX_CURSOR_LENGTH: Final = 500
MAX_SERIAL: Final = 2**63 - 1
"""Largest PostgreSQL bigint."""
MIN_YEAR: Final = 1900
MAX_YEAR: Final = 2999
_MAX_DAY_LENGTH: Final = 40
_FIX: Final = "start from the first page"


def text_field(value: object) -> str:
    """Return a text that PostgreSQL can store."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not a text without NUL")
    return value


def time_field(value: object) -> datetime:
    """Return a time in UTC."""
    return plausible(parse_time(value))


def day_field(value: object) -> date:
    """Return a day."""
    if not isinstance(value, str) or len(value) > _MAX_DAY_LENGTH:
        raise ValueError("not a day")
    return date.fromisoformat(value)


def uuid_field(value: object) -> UUID:
    """Return a UUID."""
    if not isinstance(value, str):
        raise ValueError("not a UUID")  # noqa: TRY004 - every refusal is a ValueError
    return UUID(value)


def float_field(value: object) -> float:
    """Return a finite number."""
    if not _is_number(value) or not math.isfinite(number := float(value)):  # type: ignore[arg-type]
        raise ValueError("not a finite number")
    return number


def integer_field(least: int, greatest: int) -> Field:
    """Return a field for integers from `least` to `greatest`."""

    def field(value: object) -> int:
        # Compared with the limits, never searched for: `range(2**63).index("x")` never ends.
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= greatest:
            raise ValueError(f"not an integer from {least} to {greatest}")
        return value

    return field


serial_field: Final = integer_field(0, MAX_SERIAL)


def plausible(time: datetime) -> datetime:
    """Return the time; raise ValueError if arithmetic on it may overflow."""
    if not MIN_YEAR <= time.year <= MAX_YEAR:
        raise ValueError(f"the time is outside of the years {MIN_YEAR} to {MAX_YEAR}")
    return time


def encode_cursor(*values: Value) -> str:
    """Return the opaque cursor for `values`."""
    return base64.urlsafe_b64encode(orjson.dumps([*map(_scalar, values)])).rstrip(b"=").decode()


def decode_cursor(cursor: str, *fields: Field) -> tuple[Any, ...]:
    """Return the values of a cursor, one for each field; raise InvalidInput if it is malformed."""
    try:
        values = _scalars(cursor)
        return tuple(field(value) for field, value in zip(fields, values, strict=True))
    except ValueError:
        fields_wrong = [{"where": ["query", "cursor"], "what": "invalid cursor"}]
        raise InvalidInput("invalid cursor", fix=_FIX, fields=fields_wrong) from None


def _scalar(value: Value) -> str | int | float:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value if isinstance(value, str | int | float) else str(value)


def _scalars(cursor: str) -> list[object]:
    if len(cursor) > MAX_CURSOR_LENGTH:
        raise ValueError("too long")
    padded = cursor + "=" * (-len(cursor) % 4)
    values = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    if not isinstance(values, list):
        raise ValueError("not a list")  # noqa: TRY004 - every refusal is a ValueError
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
