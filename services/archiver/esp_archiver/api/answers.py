"""What the routes share: pages with cursors, and the problems they answer with."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar

from esp_common.database import OUTAGES
from esp_common.errors import EspError, InvalidInput, Unavailable
from esp_common.http import PROBLEM_TYPE, decode_cursor, encode_cursor, problem_response
from fastapi import FastAPI, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel

Item = TypeVar("Item")

NO_NUL: Final = r"^[^\x00]*$"
BODY: Final = (400, 413)
"""How a body is refused that is no text, or is too large."""

_PROBLEM: Final = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("beyond what there are years for") from None


Time = Annotated[AwareDatetime, AfterValidator(_utc)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of the page.")]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; none: the first page.")
]


class NotAcceptable(EspError):
    """The answer does not exist in a form that the caller takes."""

    code, status, title = "not-acceptable", 406, "No such form"


class Page(BaseModel, Generic[Item]):
    """Some of a list; `next_cursor` is null on its last page."""

    items: list[Item]
    next_cursor: str | None


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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route's errors: `statuses`, and those that every route has."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }


def answer_outages(application: FastAPI) -> None:
    """Have the application answer 503 while the database is away."""

    async def answer(request: Request, _: Exception) -> Response:
        away = Unavailable("the database does not answer", retry_after_s=2)
        return problem_response(away, request.url.path)

    for kind in OUTAGES:
        application.add_exception_handler(kind, answer)
