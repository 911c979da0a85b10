"""What the routes share: who calls, pages with cursors, and the problems they answer with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

from esp_common.auth import Principal, authenticated
from esp_common.database import OUTAGES
from esp_common.errors import Forbidden, InvalidInput, Unavailable
from esp_common.http import PROBLEM_TYPE, decode_cursor, encode_cursor, problem_response, source_address
from fastapi import Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel

from esp_auth.changes import Actor

Item = TypeVar("Item")
Row = TypeVar("Row")

Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of the page.")]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; none: the first page.")
]

BODY: Final = (400, 413)
"""How a body is refused that is no text, or is too large."""

_PROBLEM: Final = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


class Page(BaseModel, Generic[Item]):
    """Some of a list; `next_cursor` is null on its last page."""

    items: list[Item]
    next_cursor: str | None


def page(rows: Sequence[Row], limit: int, key: Callable[[Row], str]) -> dict[str, Any]:
    """Return a page of `limit` of `rows`, of which one more was read to see whether there is a next page.

    `key`: what the next page's rows come after.
    """
    items = rows[:limit]
    return {"items": items, "next_cursor": encode_cursor(key(items[-1])) if len(rows) > limit else None}


def position(cursor: str | None) -> str | None:
    """Return the key a page starts after; None for the first page."""
    if cursor is None:
        return None
    (after,) = decode_cursor(cursor, 1)
    if not isinstance(after, str) or "\0" in after:
        raise InvalidInput("this cursor was not given out here", fix="start from the first page")
    return after


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


def actor_of(request: Request, caller: Principal | None = None) -> Actor:
    """Return who acts in this request."""
    address = source_address(request.scope)
    if caller is None:
        return Actor(None, "anonymous", address)
    return Actor(caller.id, caller.kind, address)


@dataclass(frozen=True, slots=True)
class Person:
    """A caller who is a user in a session, and not a machine with a key."""

    user_id: UUID
    session_id: UUID
    principal: Principal


async def person(caller: Annotated[Principal, Depends(authenticated)]) -> Person:
    """FastAPI dependency: the user who calls; Forbidden for an API key."""
    if caller.kind != "user" or caller.session_id is None:
        raise Forbidden("this is for users, not for API keys", fix="log in and use the access token")
    return Person(UUID(caller.id), UUID(caller.session_id), caller)
