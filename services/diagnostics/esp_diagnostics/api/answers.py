"""What the routes share: ids, pages with cursors, and the problems they answer with."""

from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar

from esp_common.errors import InvalidInput
from esp_common.http import PROBLEM_TYPE, decode_cursor, encode_cursor
from fastapi import Path, Query
from pydantic import AwareDatetime, BaseModel

Item = TypeVar("Item")
Row = TypeVar("Row")

NO_NUL: Final = "^[^\\u0000]+$"
PumpId = Annotated[
    str, Path(alias="id", min_length=1, max_length=64, pattern=NO_NUL, description="The pump.")
]
FieldId = Annotated[
    str, Path(alias="id", min_length=1, max_length=64, pattern=NO_NUL, description="The field.")
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of the page.")]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; none: the first page.")
]
FieldFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this field.")
]
PumpFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this pump.")
]
Since = Annotated[AwareDatetime | None, Query(alias="from", description="Only those at or after this time.")]
Until = Annotated[AwareDatetime | None, Query(alias="to", description="Only those before this time.")]

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
    return datetime.fromisoformat(text)


def as_serial(text: str) -> int:
    """Return the number of a row that a cursor holds; raise ValueError for one that no row can have."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError("no row has such a number")
    return number


def _as_text(part: object) -> str:
    return part.isoformat() if isinstance(part, datetime) else str(part)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route's errors: `statuses`, and those that every route has."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }
