"""Client and server messages of the live stream."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final

import orjson
from esp_common.errors import EspError, Forbidden, RateLimited, Unauthenticated, Unavailable
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from esp_diagnostics.common.answers import NO_NUL

_BAD_MESSAGE, _AUTHENTICATION_TIMEOUT, _TRY_AGAIN = 4400, 4408, 1013
_CODES: Final = ((Unauthenticated, 4401), (Forbidden, 4403), (RateLimited, 4429), (Unavailable, _TRY_AGAIN))

Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]

Secret = Annotated[str, StringConstraints(min_length=1, max_length=8192)]

MAX_IDS: Final = 10_000


class AuthenticationTimeout(EspError):
    """The client did not authenticate in time."""

    code, status, title = "no-credential-in-time", 408, "No credential in time"


class Ticket(BaseModel):
    """Single-use ticket, valid for `expires_in` seconds."""

    ticket: str = Field(repr=False)
    expires_in: int


class Subscription(BaseModel):
    """Pumps and fields by id."""

    model_config = ConfigDict(extra="forbid")

    pumps: Annotated[list[Id], Field(max_length=MAX_IDS)] = []
    fields: Annotated[list[Id], Field(max_length=MAX_IDS)] = []


class ClientMessage(BaseModel):
    """One client message."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    token: Secret | None = Field(None, repr=False)
    ticket: Secret | None = Field(None, repr=False)
    subscribe: Subscription | None = None
    unsubscribe: Subscription | None = None
    ping: int | float | str | None = None


def close_code(error: EspError) -> int:
    """Return the WebSocket close code of an error."""
    if isinstance(error, AuthenticationTimeout):
        return _AUTHENTICATION_TIMEOUT
    return next((code for kind, code in _CODES if isinstance(error, kind)), _BAD_MESSAGE)


def error_message(error: EspError) -> dict[str, Any]:
    """Return the server message of an error."""
    return {
        "kind": "error",
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
        "fix": error.fix,
        "error_id": error.error_id,
    }


def encode(message: Mapping[str, Any]) -> str:
    """Return a server message as text."""
    return orjson.dumps(message).decode()


def shortened(ids: Collection[str]) -> list[str]:
    """Return at most 20 ids for an audit record, and the number of further ones."""
    shown = sorted(ids)[:20]
    return shown if len(shown) == len(ids) else [*shown, f"and {len(ids) - len(shown)} more"]
