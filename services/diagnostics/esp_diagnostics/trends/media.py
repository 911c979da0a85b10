"""Content negotiation and conditional responses."""

from collections.abc import Sequence
from typing import Final

from esp_common.auth import Principal
from esp_common.errors import EspError
from fastapi import Request, Response

from esp_diagnostics.common.cache import Answer

# Browsers must revalidate: the data may have changed, or the permission may have been revoked.
_CACHING: Final = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization, X-API-Key"}


class NotAcceptable(EspError):
    """None of the offered media types is acceptable to the client."""

    code, status, title = "not-acceptable", 406, "Not acceptable"


def cache_rights(caller: Principal, permission: str) -> str:
    """Return the part of a cache key that separates callers with different permissions."""
    return f"{permission}/{caller.gateway_id or ''}"


def negotiate(request: Request, offered: Sequence[str]) -> str:
    """Return the media type of `offered` that `Accept` prefers; the first one on a tie.

    Raise NotAcceptable. RFC 9110, 12.5.1: `type/subtype;q=0.5`, `type/*`, `*/*`; the most specific entry
    counts.
    """
    accepted = [_entry(part) for part in request.headers.get("accept", "*/*").split(",") if part.strip()]
    quality = {media_type: _quality(media_type, accepted) for media_type in offered}
    best = max(offered, key=quality.__getitem__)
    if accepted and not quality[best]:
        raise NotAcceptable(f"available media types: {', '.join(offered)}", fix="accept one of them")
    return best


def _entry(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return name.lower(), float(quality)
    except ValueError:
        return name.lower(), 0.0


def _quality(media_type: str, accepted: Sequence[tuple[str, float]]) -> float:
    group = media_type.partition("/")[0]
    for pattern in (media_type, f"{group}/*", "*/*"):
        for name, quality in accepted:
            if name == pattern:
                return quality
    return 0.0


def respond(request: Request, answer: Answer, media_type: str) -> Response:
    """Return the response, or 304 if the client's copy is current."""
    headers = {**_CACHING, "ETag": f'"{answer.etag}"', "Age": str(int(answer.age_s))}
    known = [
        tag.strip().removeprefix("W/").strip('"')
        for tag in request.headers.get("if-none-match", "").split(",")
    ]
    if answer.etag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    content_type = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    return Response(answer.body, media_type=content_type, headers=headers)
