"""Encode readings as message bodies and decode them: JSON or Arrow batches within the size limits."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import uuid4

import orjson
import pyarrow as pa
from esp_common.contracts import arrow
from esp_common.contracts.channels import RUNNING, TRIP_CODE
from esp_common.times import parse_time

from esp_gateway.errors import ReadingTooLarge

MAX_READINGS: Final = 500
MAX_BYTES: Final = 1 << 20
JSON_TYPE: Final = "application/json"

Reading = Mapping[str, Any]
"""One pump at one instant: `pump_id`, `time`, and values by channel name or vendor tag."""

_TIME: Final = pa.timestamp("us", tz="UTC")
_INT32: Final = range(-(1 << 31) + 1, 1 << 31)


class Encoding(StrEnum):
    """Encoding of the readings in a message."""

    JSON = "json"
    ARROW = "arrow"


class Batch(NamedTuple):
    """A message with `readings` readings in `body`; `message_id` is the same for every attempt."""

    message_id: str
    content_type: str
    readings: int
    body: bytes


def encode(readings: Iterable[Reading], encoding: Encoding = Encoding.JSON) -> list[Batch]:
    """Return `readings` as batches of at most MAX_READINGS readings and MAX_BYTES, in order.

    Readings that do not fit Arrow's columns (an unreadable time, text for a number) are sent as JSON in
    either encoding, so that the platform sees the original value and quarantines it. Raises ReadingTooLarge.
    """
    if encoding is Encoding.JSON:
        return list(_json_batches(readings))
    typed: list[dict[str, Any]] = []
    others: list[Reading] = []
    for reading in readings:
        row = _typed(reading)
        if row is None:
            others.append(reading)
        else:
            typed.append(row)
    return [*_arrow_batches(typed), *_json_batches(others)]


def decode(batch_type: str, body: bytes) -> list[dict[str, Any]]:
    """Return the readings in a batch made by `encode`, times as text."""
    if batch_type == JSON_TYPE:
        return json.loads(body)  # type: ignore[no-any-return]  # unlike orjson it reads NaN
    with pa.ipc.open_stream(body) as reader:
        rows = reader.read_all().to_pylist()
    return [{name: _text(value) for name, value in row.items() if value is not None} for row in rows]


def to_json(value: Any) -> bytes:
    """Return `value` as JSON; unlike orjson it keeps NaN and infinities, for the platform to refuse."""
    if _has_non_finite(value):
        return json.dumps(value, default=_text, separators=(",", ":")).encode()
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_non_finite(inner) for inner in value.values())
    return isinstance(value, list) and any(_has_non_finite(inner) for inner in value)


def _text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _json_batches(readings: Iterable[Reading]) -> Iterator[Batch]:
    parts: list[bytes] = []
    size = 0
    for reading in readings:
        part = to_json(reading)
        if len(part) + 2 > MAX_BYTES:
            raise ReadingTooLarge(
                f"reading of pump {reading.get('pump_id')!r} at {reading.get('time')!r} has"
                f" {len(part)} bytes, a message holds {MAX_BYTES}"
            )
        if len(parts) == MAX_READINGS or size + len(part) + 2 > MAX_BYTES:
            yield _json_batch(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield _json_batch(parts)


def _json_batch(parts: Sequence[bytes]) -> Batch:
    return Batch(uuid4().hex, JSON_TYPE, len(parts), b"[" + b",".join(parts) + b"]")


def _typed(reading: Reading) -> dict[str, Any] | None:
    """Return `reading` with its time parsed if it fits Arrow's columns, else None."""
    row = {name: value for name, value in reading.items() if value is not None}
    time = _instant(row.get("time"))
    if time is None or not isinstance(row.get("pump_id"), str):
        return None
    for name, value in row.items():
        if name not in ("pump_id", "time") and not _fits(name, value):
            return None
    return {**row, "time": time}


def _fits(name: str, value: Any) -> bool:
    if name == RUNNING:
        return isinstance(value, bool)
    if name == TRIP_CODE:
        return isinstance(value, int) and not isinstance(value, bool) and value in _INT32
    return isinstance(value, int | float) and not isinstance(value, bool)


def _instant(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            return parse_time(value)
        except ValueError:
            return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    return None


def _arrow_batches(rows: Sequence[dict[str, Any]]) -> Iterator[Batch]:
    for start in range(0, len(rows), MAX_READINGS):
        yield from _fitting(rows[start : start + MAX_READINGS])


def _fitting(rows: Sequence[dict[str, Any]]) -> Iterator[Batch]:
    """Yield `rows` as one batch, or halved until each is small enough."""
    body = _arrow_body(rows)
    if len(body) <= MAX_BYTES:
        yield Batch(uuid4().hex, arrow.MEDIA_TYPE, len(rows), body)
    elif len(rows) == 1:
        raise ReadingTooLarge(f"reading of pump {rows[0]['pump_id']!r} has {len(body)} bytes in Arrow")
    else:
        yield from _fitting(rows[: len(rows) // 2])
        yield from _fitting(rows[len(rows) // 2 :])


def _arrow_body(rows: Sequence[dict[str, Any]]) -> bytes:
    types = {"pump_id": pa.string(), "time": _TIME, RUNNING: pa.bool_(), TRIP_CODE: pa.int32()}
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table(
        {name: pa.array([row.get(name) for row in rows], types.get(name, pa.float64())) for name in names}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
