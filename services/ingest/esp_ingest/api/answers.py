"""What the routes share: pages with cursors, and the problems they answer with."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar

from esp_common.http import PROBLEM_TYPE, decode_cursor, encode_cursor
from fastapi import Path, Query
from pydantic import AwareDatetime, BaseModel

Item = TypeVar("Item")

Id = Annotated[str, Path(min_length=1, max_length=64)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of the page.")]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; none: the first page.")
]
FieldFilter = Annotated[str | None, Query(max_length=64, description="Only those of this field.")]
Since = Annotated[AwareDatetime | None, Query(alias="from", description="Only those at or after this time.")]
Until = Annotated[AwareDatetime | None, Query(alias="to", description="Only those before this time.")]

_PROBLEM: Final = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


class Page(BaseModel, Generic[Item]):
    """Some of a list; `next_cursor` is null on its last page."""

    items: list[Item]
    next_cursor: str | None


def page(
    rows: Sequence[Mapping[str, Any]], limit: int, key: Callable[[Mapping[str, Any]], Sequence[Any]]
) -> dict[str, Any]:
    """Return a page of `limit` of `rows`, of which one more was read to see whether there is a next page."""
    items = rows[:limit]
    following = encode_cursor(*map(_as_text, key(items[-1]))) if len(rows) > limit else None
    return {"items": items, "next_cursor": following}


def position(cursor: str | None, size: int) -> list[Any] | None:
    """Return the key of the last row of the page before, None for the first page."""
    return None if cursor is None else decode_cursor(cursor, size)


def _as_text(part: Any) -> str:
    return part.isoformat() if isinstance(part, datetime) else str(part)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of a route's errors: `statuses`, and those that every route has."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
        for status in sorted({401, 403, 422, 503, *statuses})
    }
