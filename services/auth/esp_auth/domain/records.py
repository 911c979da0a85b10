"""Convert services' audit messages to complete, bounded records without secrets."""

from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

import orjson
from esp_common.contracts.events import decode_event
from esp_common.errors import InvalidInput
from esp_common.telemetry import mask, mask_secrets
from esp_common.times import parse_time

from esp_auth.domain.chain import Record, microseconds

ACTOR_KINDS: Final = frozenset({"user", "key", "service", "cli", "anonymous"})
OUTCOMES: Final = frozenset({"success", "denied", "failed"})

TEXT_LIMITS: Final[Mapping[str, int]] = {
    "service": 50,
    "actor_id": 200,
    "action": 200,
    "object": 500,
    "source_address": 100,
    "trace_id": 100,
}
"""Maximum characters of each text; an index entry of 500 still fits a page. Longer ones are truncated."""

DETAIL_TEXT: Final = 1000
DETAIL_BYTES: Final = 16 * 1024
DETAIL_DEPTH: Final = 8
CUT: Final = "…"

_INT64: Final = range(-(2**63), 2**63)
_INT32_MAX: Final = 2**31 - 1
_HINTS: Final = (
    *("://", "esp_live_", "eyj", "bearer", "passw", "secret", "token", "apikey", "api_key", "api-key"),
    *("authorization", "credential", '"key":'),
)
"""Texts with something to mask contain one of these; `mask` and `mask_secrets` take 100 times longer."""


class Unfit(Exception):
    """The record cannot be stored; the message names the field and the fault."""


def bodies_of(headers: Mapping[str, Any], body: bytes) -> list[Any]:
    """Return the raw records of a message; raise InvalidInput if its form is unknown.

    A batch is `{"records": [...]}`; an event of a service's outbox carries one record as its data.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("records"), list):
        records: list[Any] = content["records"]
        return records
    if not isinstance(content, dict):
        raise InvalidInput("neither a batch of audit records nor one of them")
    return [_completed(content, headers, body)]


def _completed(content: dict[str, Any], headers: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """Return an event's record, with missing fields taken from its envelope."""
    try:
        event = decode_event(headers, body)
    except InvalidInput:
        return content  # a record by itself has to be complete
    return {"id": event.id, "time": event.time.isoformat(), "service": event.source} | content


def record_of(fields: Any) -> Record:
    """Return a record in its stored form; raise Unfit naming the invalid field.

    Long texts are truncated, and secrets are masked by field name and by form.
    """
    if not isinstance(fields, dict):
        raise Unfit("a record is an object")
    try:
        written = orjson.dumps(fields).decode()
    except orjson.JSONEncodeError as error:
        raise Unfit(f"detail: {error}") from None
    suspicious = may_hold_secret(written)
    text = _TextReader(fields, suspicious)
    plain = not suspicious and len(written) <= DETAIL_TEXT and "\\u0000" not in written
    return Record(
        id=_uuid(fields.get("id")),
        time_us=_time_us(fields.get("time")),
        service=text.required("service"),
        actor_id=text.optional("actor_id"),
        actor_kind=_one_of("actor_kind", fields, ACTOR_KINDS),
        action=text.required("action"),
        object=text.required("object", may_be_empty=True),
        outcome=_one_of("outcome", fields, OUTCOMES),
        status=_integer("status", fields, 0) if fields.get("status") is not None else None,
        source_address=text.optional("source_address"),
        trace_id=text.optional("trace_id"),
        count=_integer("count", fields, 1) if "count" in fields else 1,
        detail=_detail(fields.get("detail"), plain),
    )


def _uuid(value: Any) -> UUID:
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise Unfit("id is not a UUID") from None


def _time_us(value: Any) -> int:
    try:
        return microseconds(parse_time(value))
    except ValueError as error:
        raise Unfit(f"time: {error}") from None


def _one_of(name: str, fields: Mapping[str, Any], known: frozenset[str]) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or value not in known:
        raise Unfit(f"{name} is none of {', '.join(sorted(known))}")
    return value


def _integer(name: str, fields: Mapping[str, Any], least: int) -> int:
    value = fields[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _INT32_MAX:
        raise Unfit(f"{name} is not an integer from {least}")
    return value


class _TextReader:
    """Reads texts of a record: truncated, storable and masked."""

    def __init__(self, fields: Mapping[str, Any], suspicious: bool) -> None:
        self._fields = fields
        self._suspicious = suspicious

    def required(self, name: str, *, may_be_empty: bool = False) -> str:
        """Return the text `name`."""
        value = self._fields.get(name)
        if not isinstance(value, str) or not (value or may_be_empty):
            raise Unfit(f"{name} is not a text")
        return _clean(value, TEXT_LIMITS[name], self._suspicious)

    def optional(self, name: str) -> str | None:
        """Return the text `name`, None if there is none."""
        return None if self._fields.get(name) is None else self.required(name, may_be_empty=True)


def _clean(text: str, limit: int, suspicious: bool) -> str:
    """Return `text` without NUL and secrets, up to `limit` characters."""
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if suspicious:
        # Before truncation: half a secret would not be recognised.
        text = mask(text[: 4 * limit])
    return text if len(text) <= limit else text[: limit - 1] + CUT


def may_hold_secret(text: str) -> bool:
    """Return quickly whether `mask` may find anything in `text`."""
    folded = text.casefold()
    for hint in _HINTS:  # noqa: SIM110 - half as long as any() takes
        if hint in folded:
            return True
    return False


def _detail(value: Any, plain: bool) -> Any:
    """Return the details as the database will return them; `plain`: without masking."""
    if not value:
        return {}
    if not isinstance(value, dict):
        value = {"value": value}
    if plain:
        return _plain(value, 0, _as_it_is)
    written = orjson.dumps(value)
    if len(written) > DETAIL_BYTES:
        return {"cut": _clean_text(written[: 4 * DETAIL_TEXT].decode(errors="ignore"))}
    return _plain(mask_secrets(None, "", value), 0, _clean_text)


def _plain(value: Any, depth: int, text: Callable[[str], str]) -> Any:
    """Return `value` so that jsonb returns it unchanged; `text` is applied to each text."""
    match value:
        case str():
            return text(value)
        case bool() | None:
            return value
        case int():
            return value if value in _INT64 else str(value)
        case float():
            return _plain_float(value)
    if depth == DETAIL_DEPTH:
        return CUT
    if isinstance(value, dict):
        return {text(key): _plain(item, depth + 1, text) for key, item in value.items()}
    return [_plain(item, depth + 1, text) for item in value]


def _plain_float(value: float) -> Any:
    # jsonb writes 1e16 and 16-digit whole numbers alike.
    if not value.is_integer():
        return value
    whole = int(value)
    return whole if whole in _INT64 else str(value)


def _as_it_is(text: str) -> str:
    return text


def _clean_text(text: str) -> str:
    return _clean(text, DETAIL_TEXT, suspicious=True)
