"""AMQP properties that anybody may have written are read whatever they hold, and can be sent on."""

import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import orjson
from esp_common.contracts.events import decode_event
from esp_common.errors import InvalidInput
from esp_common.messaging import Delivery
from esp_diagnostics.notifications.dead_letters import DeadLetters as Notifications
from esp_ingest.dead_letters import DeadLetters
from esp_ingest.domain.decode import decode
from esp_ingest.domain.registry import Registry
from esp_ingest.domain.screen import screen
from esp_ingest.intake import body_of_delivery, trace_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.header import ContentHeader

SHORT = st.binary(max_size=255)
NO_REGISTRY = Registry({}, {}, {})


def short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def sized(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def table_of(fields: list[tuple[bytes, bytes]]) -> bytes:
    return sized(b"".join(short(name[:255]) + value for name, value in fields))


NAMES = SHORT | st.sampled_from(
    [b"x-death", b"x-delivery-count", b"esp-reason", b"esp-routing-key", b"traceparent", b"cloudEvents_time"]
)
SCALARS = st.one_of(
    st.binary(max_size=40).map(lambda raw: b"S" + sized(raw)),
    st.binary(max_size=40).map(lambda raw: b"x" + sized(raw)),
    st.binary(min_size=8, max_size=8).map(lambda raw: b"T" + raw),
    st.binary(min_size=8, max_size=8).map(lambda raw: b"l" + raw),
    st.binary(min_size=8, max_size=8).map(lambda raw: b"d" + raw),
    st.binary(min_size=5, max_size=5).map(lambda raw: b"D" + raw),
    st.binary(min_size=1, max_size=1).map(lambda raw: b"t" + raw),
    st.just(b"V"),
    st.binary(max_size=12),
)
FIELDS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: b"A" + sized(b"".join(items)))
        | st.lists(st.tuples(NAMES, inner), max_size=3).map(lambda fields: b"F" + table_of(fields))
    ),
    max_leaves=8,
)
TABLES = st.lists(st.tuples(NAMES, FIELDS), max_size=5).map(table_of)

# In the order of the protocol, with the bit that says a property is there.
PROPERTIES: dict[str, tuple[int, st.SearchStrategy[bytes]]] = {
    "content_type": (15, SHORT.map(short)),
    "content_encoding": (14, SHORT.map(short)),
    "headers": (13, TABLES | st.binary(max_size=60).map(sized)),
    "delivery_mode": (12, st.binary(min_size=1, max_size=1)),
    "priority": (11, st.binary(min_size=1, max_size=1)),
    "correlation_id": (10, SHORT.map(short)),
    "reply_to": (9, SHORT.map(short)),
    "message_id": (7, SHORT.map(short)),
    "timestamp": (6, st.binary(min_size=8, max_size=8)),
    "message_type": (5, SHORT.map(short)),
    "app_id": (3, SHORT.map(short)),
}


@st.composite
def deliveries(draw: Callable[..., bytes]) -> Delivery:
    """A delivery as its frames arrive."""
    flags, values = 0, b""
    for bit, strategy in PROPERTIES.values():
        if draw(st.booleans()):  # type: ignore[arg-type]
            flags |= 1 << bit
            values += draw(strategy)
    key = short(draw(SHORT))
    method = (
        struct.pack(">HH", 60, 60) + short(b"tag") + struct.pack(">QB", 1, 1) + short(b"esp.ingest") + key
    )
    header = struct.pack(">HHQH", 60, 0, 2, flags) + values
    frames = [_frame(1, method), _frame(2, header)]
    return Delivery(frames[0], frames[1], b"[]")


def _frame(kind: int, payload: bytes) -> object:
    return frame.unmarshal(struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce")[2]


@settings(max_examples=200, deadline=None)
@given(deliveries())
def test_whatever_a_sender_puts_into_properties_is_read_shown_and_sent_on(delivery: Delivery) -> None:
    texts = (delivery.routing_key, delivery.message_id or "", delivery.content_type or "")
    assert all(text.isprintable() and len(text.encode()) <= 255 for text in texts)
    assert delivery.delivery_count >= 0 or isinstance(delivery.headers["x-delivery-count"], int)
    for letters in (DeadLetters("amqp://nowhere"), Notifications("amqp://nowhere")):
        letter = letters.read(delivery)
        orjson.dumps(letters.told(letter))
    again = commands.Basic.Properties(
        content_type=delivery.content_type, message_id=delivery.message_id, headers=trace_of([delivery])
    )
    assert ContentHeader(properties=again).marshal()
    commands.Basic.Publish(exchange="esp.ingest", routing_key=delivery.routing_key).marshal()


@settings(max_examples=100, deadline=None)
@given(deliveries())
def test_a_body_with_odd_properties_becomes_rows_that_the_database_takes(delivery: Delivery) -> None:
    body = body_of_delivery(delivery)
    spoiled = Delivery(delivery._method, delivery._header, b"{}")
    for each in screen(decode([body, body_of_delivery(spoiled)]), NO_REGISTRY, 0).rejected:
        row = each.row
        texts = (row.gateway_id, row.message_id or "", row.detail, orjson.dumps(row.payload).decode())
        assert not any("\0" in text or "\\u0000" in text for text in texts)
        assert all(text.encode() for text in texts if text)


@settings(max_examples=100, deadline=None)
@given(deliveries())
def test_an_event_with_odd_headers_is_read_or_refused(delivery: Delivery) -> None:
    with suppress(InvalidInput):
        assert decode_event(delivery.headers, delivery.body).type


def header_of(flags: int, values: bytes) -> commands.Basic.Properties:
    decoded = _frame(2, struct.pack(">HHQH", 60, 0, 2, flags) + values)
    assert isinstance(decoded, ContentHeader)
    return decoded.properties


def test_text_that_is_not_utf8_is_escaped_and_plain_text_is_not() -> None:
    assert header_of(1 << 7, short(b"\xff\xfeid")).message_id == r"\xff\xfeid"
    assert header_of(1 << 7, short("Förderpumpe-7".encode())).message_id == "Förderpumpe-7"
    assert header_of(1 << 7, short(b"a\0b\x1b[2J")).message_id == r"a\x00b\x1b[2J"


def test_long_text_that_is_escaped_still_fits_and_stays_distinct() -> None:
    one, other = (header_of(1 << 7, short(b"\xff" * 254 + end)).message_id for end in (b"a", b"b"))
    assert one != other
    assert max(len(one.encode()), len(other.encode())) <= 255


def test_a_table_of_every_type_is_read() -> None:
    death = table_of(
        [(b"count", b"l" + struct.pack(">q", 1)), (b"time", b"T" + struct.pack(">Q", 1_700_000_000))]
    )
    fields = [
        (b"deaths", b"A" + sized(b"F" + death)),
        (b"text", b"S" + sized(b"words")),
        (b"odd", b"S" + sized(b"\xff")),
        (b"flag", b"t\1"),
        (b"decimal", b"D" + struct.pack(">Bi", 2, 314)),
        (b"far", b"T" + b"\xff" * 8),
        (b"nothing", b"V"),
    ]
    assert header_of(1 << 13, table_of(fields)).headers == {
        "deaths": [{"count": 1, "time": datetime.fromtimestamp(1_700_000_000, UTC)}],
        "text": "words",
        "odd": r"\xff",
        "flag": True,
        "decimal": 3.14,
        "far": None,
        "nothing": None,
    }


def test_tables_nested_a_thousand_deep_are_read_to_a_depth() -> None:
    nested = b""
    for _ in range(1000):
        nested = b"A" + sized(nested)
    headers = header_of(1 << 13, table_of([(b"deep", nested), (b"after", b"t\1")])).headers
    assert headers["after"] is True


def test_a_header_full_of_tiny_fields_is_read_field_by_field() -> None:
    headers = header_of(1 << 13, table_of([(b"many", b"A" + sized(b"V" * 65_000))])).headers
    assert len(headers["many"]) == 65_000
