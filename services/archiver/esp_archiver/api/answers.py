"""What the routes share: pages with cursors, and the problems they answer with."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final

from esp_common.answers import UtcTime
from esp_common.errors import EspError, InvalidInput
from esp_common.http import decode_cursor, encode_cursor
from pydantic import AfterValidator

NO_NUL: Final = r"^[^\x00]*$"


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("beyond what there are years for") from None


Time = Annotated[UtcTime, AfterValidator(_utc)]


class NotAcceptable(EspError):
    """The answer does not exist in a form that the caller takes."""

    code, status, title = "not-acceptable", 406, "No such form"


def page(rows: Sequence[Any], limit: int) -> tuple[Sequence[Any], Any]:
    """Return `limit` of `rows`, of which one more was read, and the last of them if there is a next page."""
    return rows[:limit], rows[limit - 1] if len(rows) > limit else None


def position(cursor: str | None) -> tuple[date, str] | None:
    """Return the day and name a page starts after; None for the first page."""
    if cursor is None:
        return None
    try:
        day, name = decode_cursor(cursor, 2)
        if "\0" in name:
            raise ValueError("no database has such a name")  # noqa: TRY301
        return date.fromisoformat(day), str(name)
    except (TypeError, ValueError) as error:
        raise InvalidInput("this cursor was not given out here", fix="start from the first page") from error


def cursor_at(day: date, name: str) -> str:
    """Return the cursor of the page that starts after a day and name."""
    return encode_cursor(day.isoformat(), name)
