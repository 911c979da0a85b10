"""From the bodies that gateways sent to single readings, many bodies at a time.

Parsing is separate from screening so that a body is parsed once, even when it is screened again
after the registry was reloaded.
"""

import codecs
import json
import struct
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from esp_common.contracts.readings import Int64Array

from esp_ingest.domain.readings import Reason
from esp_ingest.domain.repeated_keys import loads, may_repeat

JSON_TYPE: Final = "application/json"
ARROW_TYPE: Final = "application/vnd.apache.arrow.stream"

MAX_READINGS_PER_BODY: Final = 200_000
"""More than any honest body of 4 MiB can hold; a few bytes of JSON or Arrow can claim millions."""

_PLAIN: Final = (None, "", "identity")
_CONTINUATION: Final = b"\xff\xff\xff\xff"
"""The first bytes of an Arrow stream."""
_FORMS: Final = (
    (codecs.BOM_UTF16_LE, "it is UTF-16, send UTF-8"),
    (codecs.BOM_UTF16_BE, "it is UTF-16, send UTF-8"),
    (b"\x1f\x8b", "it is compressed with gzip, send it as it is"),
)
_END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"
_TOO_MANY: Final = f"the body holds more than {MAX_READINGS_PER_BODY} readings"


@dataclass(frozen=True, slots=True)
class Body:
    """One message as it arrived: an AMQP delivery, or one HTTP request, of `gateway_id`.

    `judged_us`: the time at which the ingest API answered for it; its readings are judged as of then.
    """

    content: bytes
    content_type: str | None
    gateway_id: str
    message_id: str | None = None
    judged_us: int | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A body, or one element of it (`index`), that is not a reading at all; `content` is its bytes."""

    body: int
    index: int
    reason: Reason
    detail: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """What m bodies hold: N readings, numbered JSON ones first, and the faults.

    `rows`: the JSON readings. `tables`: the Arrow ones, with the body each came from. `body_of`,
    `index_of`: (N,) where a reading was found. `counts`: (m,) readings and faults of each body.
    """

    bodies: Sequence[Body]
    rows: list[dict[str, Any]]
    tables: list[tuple[int, pa.Table]]
    faults: list[Fault]
    body_of: Int64Array
    index_of: Int64Array
    counts: Int64Array
    table_starts: list[int]

    def __len__(self) -> int:
        """Return N."""
        return len(self.body_of)

    def gateway_of(self, number: int) -> str:
        """Return the gateway that sent reading `number`."""
        return self.bodies[int(self.body_of[number])].gateway_id

    def clock(self, now_us: int) -> Int64Array:
        """Return (N,): when each reading is judged, `now_us` unless its body was judged before."""
        clocks = [now_us if body.judged_us is None else body.judged_us for body in self.bodies]
        return np.array(clocks, dtype=np.int64)[self.body_of]

    def sent(self, number: int) -> dict[str, Any]:
        """Return reading `number` as its gateway sent it."""
        if number < len(self.rows):
            return self.rows[number]
        place = bisect_right(self.table_starts, number) - 1
        table, row = self.tables[place][1], number - self.table_starts[place]
        return {
            name: _as_sent(column[row])
            for name, column in zip(table.column_names, table.columns, strict=True)
            if column[row].is_valid
        }


class _Collector:
    """Gathers what `decode` finds, body by body."""

    def __init__(self, bodies: Sequence[Body]) -> None:
        self.bodies = bodies
        self.rows: list[dict[str, Any]] = []
        self.row_body: list[int] = []
        self.row_index: list[int] = []
        self.tables: list[tuple[int, pa.Table]] = []
        self.faults: list[Fault] = []

    def add_fault(self, body: int, reason: Reason, detail: str) -> None:
        self.faults.append(Fault(body, 0, reason, detail, self.bodies[body].content))

    def add_json(self, body: int, value: Any) -> None:
        if type(value) is dict and not (len(value) == 1 and type(value.get("readings")) is list):
            self.rows.append(value)
            self.row_body.append(body)
            self.row_index.append(0)
            return
        self.add_list(body, value["readings"] if type(value) is dict else value)

    def add_list(self, body: int, value: Any) -> None:
        if type(value) is not list:
            self.add_fault(body, Reason.INVALID_SCHEMA, "neither a reading nor an array of readings")
            return
        if len(value) > MAX_READINGS_PER_BODY:
            self.add_fault(
                body, Reason.UNDECODABLE, f"the body holds more than {MAX_READINGS_PER_BODY} readings"
            )
            return
        junk: dict[bytes, list[int]] = {}
        for index, row in enumerate(value):
            if type(row) is dict:
                self.rows.append(row)
                self.row_body.append(body)
                self.row_index.append(index)
            else:
                junk.setdefault(self._element(body, row), []).append(index)
        self._add_junk(body, junk)

    def _add_junk(self, body: int, junk: dict[bytes, list[int]]) -> None:
        """Refuse elements that are no objects, equal ones together: thousands take a few bytes to send."""
        for content, places in junk.items():
            detail = "a reading must be an object"
            if len(places) > 1:
                detail += f"; the body holds this element {len(places)} times"
            self.faults.append(Fault(body, places[0], Reason.INVALID_SCHEMA, detail, content))

    def _element(self, body: int, value: Any) -> bytes:
        try:
            return json.dumps(value).encode()
        except RecursionError:  # nested deeper than Python writes: the whole body, to the byte
            return self.bodies[body].content

    def add_arrow(self, body: int) -> None:
        try:
            table = _arrow_table(self.bodies[body].content)
        except (pa.ArrowException, OSError, ValueError, MemoryError, struct.error) as error:
            self.add_fault(body, Reason.UNDECODABLE, f"not an Arrow stream: {_first_line(error)}")
            return
        if table.num_rows:
            self.tables.append((body, table))

    def decoded(self) -> Decoded:
        lengths = [table.num_rows for _, table in self.tables]
        bodies_of_tables = [np.full(n, body) for (body, _), n in zip(self.tables, lengths, strict=True)]
        body_of = np.concatenate([np.array(self.row_body, dtype=np.int64), *bodies_of_tables]).astype(
            np.int64
        )
        index_of = np.concatenate([np.array(self.row_index, dtype=np.int64), *map(np.arange, lengths)])
        counts = np.bincount(body_of, minlength=len(self.bodies))
        for fault in self.faults:
            counts[fault.body] += 1
        starts = list(accumulate(lengths[:-1], initial=len(self.rows))) if lengths else []
        return Decoded(
            self.bodies,
            self.rows,
            self.tables,
            self.faults,
            body_of,
            index_of.astype(np.int64),
            counts.astype(np.int64),
            starts,
        )


def decode(bodies: Sequence[Body]) -> Decoded:
    """Parse `bodies`; never raises for what a gateway sent, since that becomes a fault."""
    found = _Collector(bodies)
    for number, body in enumerate(bodies):
        media_type = _media_type(body)
        if body.content_encoding not in _PLAIN:
            detail = f"the body is compressed ({body.content_encoding[:100]!r}): send it as it is"
            found.add_fault(number, Reason.UNSUPPORTED_MEDIA_TYPE, detail)
        elif media_type == JSON_TYPE:
            _add_json(found, number)
        elif media_type == ARROW_TYPE:
            found.add_arrow(number)
        else:
            detail = f"{media_type[:100]!r} is not {JSON_TYPE} or {ARROW_TYPE}"
            found.add_fault(number, Reason.UNSUPPORTED_MEDIA_TYPE, detail)
    return found.decoded()


def _media_type(body: Body) -> str:
    """Return the media type; MQTT gives none, and no JSON begins as an Arrow stream does."""
    if body.content_type == JSON_TYPE:
        return JSON_TYPE
    if not body.content_type:
        return ARROW_TYPE if body.content.startswith(_CONTINUATION) else JSON_TYPE
    return body.content_type.partition(";")[0].strip().lower() or JSON_TYPE


def _add_json(found: _Collector, number: int) -> None:
    content = found.bodies[number].content
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        _add_lenient_json(found, number)
        return
    if may_repeat(content, value):
        # Nested too deep for Python's parser it is no reading, whatever its keys.
        with suppress(RecursionError):
            value = loads(content.decode(), _integer)
    found.add_json(number, value)


def _add_lenient_json(found: _Collector, number: int) -> None:
    """Take a body that is JSON but for NaN and Infinity, so that only the channels with them are refused.

    A byte order mark before it and NUL characters after it are ignored: editors and controllers leave them.
    """
    content = found.bodies[number].content.removeprefix(codecs.BOM_UTF8).rstrip(b"\0")
    try:
        value = loads(content.decode(), _integer)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates are no text
    except (ValueError, TypeError, RecursionError) as error:
        found.add_fault(number, Reason.UNDECODABLE, f"not JSON: {_known_form(content) or _first_line(error)}")
        return
    found.add_json(number, value)


def _known_form(content: bytes) -> str | None:
    """Return what a body is that is not UTF-8 text, where its first bytes say so."""
    for magic, form in _FORMS:
        if content.startswith(magic):
            return form
    return None


def _integer(text: str) -> int | float:
    """Return what orjson takes an integer for: a float beyond 64 bits."""
    value = int(text) if len(text) <= 20 else float(text)
    return value if -(2**63) <= value < 2**64 else float(text)


def _arrow_table(content: bytes) -> pa.Table:
    """Read the whole stream, and check it down to its last offset: it comes from outside."""
    batches, rows = [], 0
    _refuse_compressed(content)
    source = pa.BufferReader(content)
    with pa.ipc.open_stream(source) as stream:
        for batch in stream:
            rows += batch.num_rows
            if rows > MAX_READINGS_PER_BODY:
                raise ValueError(_TOO_MANY)
            batch.validate(full=True)
            batches.append(batch)
        for field in stream.schema:
            getattr(field.type, "tz", None)  # raises ValueError where a time zone is no text
        if len(set(stream.schema.names)) != len(stream.schema.names):
            raise ValueError("two columns of one name")
        # Cut off between two batches, or with another stream after it, it would pass for a whole one.
        if not content.endswith(_END_OF_STREAM) or source.tell() != len(content):
            raise ValueError("the stream does not end with its end marker")
        return pa.Table.from_batches(batches, stream.schema)


def _refuse_compressed(content: bytes) -> None:
    """Raise ValueError if a batch is compressed: 4 MiB could claim, and be given, gigabytes."""
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(content)):
        if message.type in ("record batch", "dictionary"):
            metadata = message.metadata.to_pybytes()
            batch = _flatbuffer_table(metadata, _flatbuffer_table(metadata, 0), _HEADER)
            if message.type == "dictionary":
                batch = _flatbuffer_table(metadata, batch, _DICTIONARY_DATA)
            if _flatbuffer_field(metadata, batch, _COMPRESSION):
                raise ValueError("its buffers are compressed: send them as they are")


# Numbers of fields in Arrow's Message.fbs: Message.header, DictionaryBatch.data, RecordBatch.compression.
_HEADER, _DICTIONARY_DATA, _COMPRESSION = 2, 1, 3


def _flatbuffer_field(buffer: bytes, table: int, number: int) -> int:
    """Return where a field of the table at `table` lies, 0 where it is not set (pyarrow shows none of it)."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    slot = 4 + 2 * number
    if slot >= struct.unpack_from("<H", buffer, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", buffer, vtable + slot)[0]
    return table + offset if offset else 0


def _flatbuffer_table(buffer: bytes, table: int, number: int | None = None) -> int:
    at = table if number is None else _flatbuffer_field(buffer, table, number)
    return at + int(struct.unpack_from("<I", buffer, at)[0])


def _as_sent(scalar: Any) -> Any:
    """Return an Arrow value in Python, a time that Python cannot hold as its ticks."""
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return f"{scalar.cast(pa.int64()).as_py()} {scalar.type.unit}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
