"""Who calls a route."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from esp_common.auth import Principal, authenticated
from esp_common.errors import Forbidden
from fastapi import Depends, Request

from esp_auth.changes import Actor
from esp_auth.granting import limits_of


def actor_of(request: Request, caller: Principal | None = None) -> Actor:
    """Return who acts in this request."""
    address = request.state.source_address
    if caller is None:
        return Actor(None, "anonymous", address)
    return Actor(caller.id, caller.kind, address, limits_of(caller))


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
