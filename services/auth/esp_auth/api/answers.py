"""What the routes share: who calls, pages with cursors, and the problems they answer with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from uuid import UUID

from esp_common.auth import Principal, authenticated
from esp_common.errors import Forbidden, InvalidInput
from esp_common.http import decode_cursor, encode_cursor, source_address
from fastapi import Depends, Request

from esp_auth.changes import Actor

Row = TypeVar("Row")


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
