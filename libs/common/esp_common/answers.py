"""Shared pieces of API routes: pages with cursors, and documented problem responses."""

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
"""A time in a query or a body: RFC 3339 only.

pydantic's own type also accepts numbers and other formats. Times near the ends of the range are refused,
because arithmetic on them would overflow.
"""
Since = Annotated[UtcTime | None, Query(alias="from", description="Only those at or after this time.")]
Until = Annotated[UtcTime | None, Query(alias="to", description="Only those before this time.")]

BODY: Final = (400, 413)
"""Responses to a body that is not text or is too large."""

_PROBLEM: Final = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next_cursor` is null on the last page."""

    items: list[Item]
    next_cursor: str | None


def page(rows: Sequence[Row], limit: int, key: Callable[[Row], Sequence[Any]]) -> dict[str, Any]:
    """Return a page of at most `limit` of `rows`; one extra row tells whether another page follows.

    `key` returns a row's cursor values; the next page starts after them.
    """
    items = rows[:limit]
    following = encode_cursor(*key(items[-1])) if len(rows) > limit else None
    return {"items": items, "next_cursor": following}


def position(cursor: str | None, *fields: Field) -> tuple[Any, ...] | None:
    """Return the key to start after, one value for each field; None for the first page."""
    return None if cursor is None else decode_cursor(cursor, *fields)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's errors: `statuses` and those common to all routes."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }


def answer_outages(application: FastAPI) -> None:
    """Make the application answer 503 while the database is unavailable."""

    async def answer(request: Request, _: Exception) -> Response:
        away = Unavailable("the database does not answer", retry_after_s=2)
        return problem_response(away, request.url.path)

    for kind in OUTAGES:
        application.add_exception_handler(kind, answer)
