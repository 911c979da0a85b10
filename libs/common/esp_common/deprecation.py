"""Routes that will be removed: `Deprecation` (RFC 9745), `Sunset` (RFC 8594) and `Link` on every response."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import Any, Final

from starlette.types import Scope

NOTICE: Final = timedelta(days=183)
"""Minimum time between the announcement of a deprecation and the removal of the route: six months."""

_SINCE, _SUNSET, _SUCCESSOR = "x-deprecated-since", "x-sunset", "x-successor"


def deprecated(since: date, *, successor: str, notice: timedelta = NOTICE) -> dict[str, Any]:
    """Return the options that mark a route as deprecated; pass them to the route's decorator.

    `successor`: path that replaces the route. `notice` may be longer than six months, never shorter.

        @router.get("/old", **deprecated(date(2026, 12, 1), successor="/api/v1/new"))
    """
    if notice < NOTICE:
        raise ValueError(f"a deprecation is announced {NOTICE.days} days ahead, not {notice.days}")
    extra = {_SINCE: since.isoformat(), _SUNSET: (since + notice).isoformat(), _SUCCESSOR: successor}
    return {"deprecated": True, "openapi_extra": extra}


def deprecation_headers(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that announce the removal of the route of `scope`; none unless it is deprecated."""
    extra: Mapping[str, str] | None = getattr(scope.get("route"), "openapi_extra", None)
    if not extra or _SUNSET not in extra:
        return ()
    return _headers(extra[_SINCE], extra[_SUNSET], extra[_SUCCESSOR])


@lru_cache
def _headers(since: str, sunset: str, successor: str) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"deprecation", f"@{int(_midnight(since).timestamp())}".encode()),
        (b"sunset", format_datetime(_midnight(sunset), usegmt=True).encode()),
        (b"link", f'<{successor}>; rel="successor-version"'.encode()),
    )


def _midnight(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)
