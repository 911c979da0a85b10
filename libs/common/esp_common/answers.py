"""What the routes of every API share: pages with cursors, and the problems they answer with."""

from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import FastAPI, Query, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator

from esp_common.cursors import MAX_CURSOR_LENGTH, Field, decode_cursor, encode_cursor, plausible
from esp_common.database import OUTAGES
from esp_common.errors import Unavailable
from esp_common.http import PROBLEM_TYPE, problem_response
from esp_common.times import parse_time

Item = TypeVar("Item")
Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum page size.")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=MAX_CURSOR_LENGTH, description="`next_cursor` of the page before; none: the first page."
    ),
]

UtcTime = Annotated[datetime, BeforeValidator(parse_time), AfterValidator(plausible)]
"""A time in a query or a body: RFC 3339 only. pydantic's own type also takes numbers and other forms.

Refused as well where a span from it would overflow.
"""
Since = Annotated[UtcTime | None, Query(alias="from", description="Only those at or after this time.")]
Until = Annotated[UtcTime | None, Query(alias="to", description="Only those before this time.")]

BODY: Final = (400, 413)
"""How a body is refused that is no text, or is too large."""

_PROBLEM: Final = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


class Page(BaseModel, Generic[Item]):
    """Some of a list; `next_cursor` is null on its last page."""

    items: list[Item]
    next_cursor: str | None


def page(rows: Sequence[Row], limit: int, key: Callable[[Row], Sequence[Any]]) -> dict[str, Any]:
    """Return a page of `limit` of `rows`, of which one more was read to see whether there is a next page.

    `key`: what the next page's rows come after.
    """
    items = rows[:limit]
    following = encode_cursor(*key(items[-1])) if len(rows) > limit else None
    return {"items": items, "next_cursor": following}


def position(cursor: str | None, *fields: Field) -> tuple[Any, ...] | None:
    """Return the key a page starts after, one value for each field; None for the first page."""
    return None if cursor is None else decode_cursor(cursor, *fields)


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
