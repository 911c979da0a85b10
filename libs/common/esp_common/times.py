"""The parser of all external times: RFC 3339, or refused with the reason."""

import re
from datetime import UTC, datetime
from typing import Final

RFC_3339: Final = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
"""As in section 5.6, with a space in place of T, which its note allows; field ranges are not checked.

Written for Python's `re` and for RE2, which Arrow uses.
"""

EXAMPLE: Final = "2026-01-31T12:00:00Z"

_WHOLE: Final = re.compile(RFC_3339)
_MIN_YEAR, _MAX_YEAR = 2, 9998
"""Years that every offset and every PostgreSQL column can hold: year 1 becomes -infinity."""

_SHAPES: Final = (
    (re.compile(r".*[Tt ]24:00(:00([.,]0+)?)?\D*.*"), "there is no hour 24: write 00:00:00 of the next day"),
    (
        re.compile(r".*:[0-5][0-9]:60\D*.*"),
        "leap seconds are not kept: write second 59, or 00:00:00 of the next day",
    ),
    (re.compile(r"[0-9.]+"), "a bare number is not a time"),
    (re.compile(r"[0-9]{4}-?W.*"), "week dates are not taken"),
    (re.compile(r".*,[0-9]+.*"), "the decimal sign must be a point"),
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]+"), "it has no offset: add Z or one like +02:00"),
    (re.compile(r".*:[0-9.]+ [0-9]{2}:[0-9]{2}"), "in a URL the + of an offset is written %2B"),
)


def parse_time(text: object) -> datetime:
    """Return the UTC time of RFC 3339 `text`; digits beyond microseconds are truncated.

    Raises ValueError with the reason.
    """
    if not isinstance(text, str) or not _WHOLE.fullmatch(text):
        raise ValueError(time_fault(text))
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(time_fault(text)) from None
    if not _MIN_YEAR <= moment.year <= _MAX_YEAR:
        raise ValueError(time_fault(text))
    return moment


def time_fault(text: object) -> str:
    """Return why `parse_time` refuses a time."""
    if text is None or text == "":
        return "the time is missing"
    if not isinstance(text, str):
        return f"a time must be text like {EXAMPLE}, or an Arrow timestamp with a zone"
    if re.match("000[01]|9999", text):
        return f"years must be {_MIN_YEAR} to {_MAX_YEAR}"
    hint = next((hint for shape, hint in _SHAPES if shape.fullmatch(text[:100])), None)
    return f"not an RFC 3339 time like {EXAMPLE}" + (f"; {hint}" if hint else "")
