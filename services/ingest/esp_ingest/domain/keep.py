"""What quarantine keeps of a refused reading, and the id that follows from it."""

import base64
import json
import math
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

import orjson

_MAX_DEPTH: Final = 32
_JSON_TYPE: Final = "application/json"
BODY: Final = "body_base64"
CONTENT_TYPE: Final = "content_type"


def keep_reading(sent: dict[str, Any]) -> dict[str, Any] | None:
    """Return `sent` as PostgreSQL's jsonb can hold it.

    Not-a-number and infinities become text, bytes and NUL characters are escaped. What is nested deeper than
    a reading has any reason to be is kept as the bytes of its JSON, which do not depend on the message it
    came in. None for what is nested deeper than Python can write: its body is to be kept instead.
    """
    try:
        kept: dict[str, Any] = _keep(sent, 0)
    except RecursionError:
        return _keep_deep(sent)
    return kept


def _keep_deep(sent: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return keep_body(json.dumps(sent, default=str, separators=(",", ":")).encode(), _JSON_TYPE)
    except RecursionError:
        return None


def keep_body(content: bytes, content_type: str | None) -> dict[str, Any]:
    """Return a body that is no reading, to the byte."""
    return {BODY: base64.b64encode(content).decode(), CONTENT_TYPE: _keep(content_type, 0)}


def quarantine_id(gateway_id: str, payload: dict[str, Any]) -> UUID:
    """Return the id of `payload` from `gateway_id`: the same reading sent again has the same id."""
    canonical = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    digest = blake2b(gateway_id.encode(errors="replace") + b"\0" + canonical, digest_size=16)
    return UUID(bytes=digest.digest())


def _keep(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RecursionError
    match value:
        case None | bool():
            return value
        case str():
            return value.replace("\0", "\\u0000") if "\0" in value else value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case dict():
            return {_keep(str(key), depth): _keep(each, depth + 1) for key, each in value.items()}
        case list() | tuple():
            return [_keep(each, depth + 1) for each in value]
        case datetime():
            return value.isoformat()
    return _keep(str(value), depth)
