"""What the routes of every API share: pages with cursors, and the problems they answer with."""

from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, BeforeValidator

from esp_common.database import OUTAGES
from esp_common.errors import InvalidInput, Unavailable
from esp_common.http import PROBLEM_TYPE, decode_cursor, encode_cursor, problem_response
from esp_common.times import parse_time

Item = TypeVar("Item")
Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of the page.")]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; none: the first page.")
]

UtcTime = Annotated[datetime, BeforeValidator(parse_time)]
"""A time in a query or a body: RFC 3339 only. pydantic's own type also takes numbers and other forms."""

BODY: Final = (400, 413)
"""How a body is refused that is no text, or is too large."""

_PROBLEM: Final = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


class Page(BaseModel, Generic[Item]):
    """Some of a list; `next_cursor` is null on its last page."""

    items: list[Item]
    next_cursor: str | None


def page(rows: Sequence[Row], limit: int, key: Callable[[Row], Sequence[object]]) -> dict[str, Any]:
    """Return a page of `limit` of `rows`, of which one more was read to see whether there is a next page.

    `key`: what the next page's rows come after.
    """
    items = rows[:limit]
    following = encode_cursor(*map(_as_text, key(items[-1]))) if len(rows) > limit else None
    return {"items": items, "next_cursor": following}


def position(cursor: str | None, *parts: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """Return the key a page starts after, each part made by its function; None for the first page."""
    if cursor is None:
        return None
    try:
        texts = decode_cursor(cursor, len(parts))
        if "\0" in "".join(texts):
            raise ValueError("no database has such a key")  # noqa: TRY301
        return tuple(part(text) for part, text in zip(parts, texts, strict=True))
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidInput("this cursor was not given out here", fix="start from the first page") from error


def as_time(text: str) -> datetime:
    """Return the time that a cursor holds."""
    return parse_time(text)


def _as_text(part: object) -> str:
    return part.isoformat() if isinstance(part, datetime) else str(part)


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
