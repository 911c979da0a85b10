"""What services say happened, read as records: complete or refused, bounded, without secrets."""

import random
import string
from typing import Any
from uuid import UUID

import orjson
import pytest
from esp_auth.domain.records import (
    CUT,
    DETAIL_TEXT,
    TEXT_LIMITS,
    Unfit,
    bodies_of,
    may_hold_secret,
    record_of,
)
from esp_common.contracts.events import Event
from esp_common.errors import InvalidInput
from esp_common.telemetry import mask, mask_secrets
from hypothesis import given
from hypothesis import strategies as st

ID = "0b0e7f0e-7f0e-4f0e-8f0e-7f0e7f0e7f0e"


def fields(**changed: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "id": ID,
        "time": "2026-11-23T14:00:00.123456Z",
        "service": "ingest",
        "actor_id": "gw-01",
        "actor_kind": "key",
        "action": "POST /api/v1/telemetry",
        "object": "/api/v1/telemetry",
        "outcome": "success",
        "status": 202,
        "source_address": "10.0.0.1",
        "trace_id": "abc",
        "count": 3,
        "detail": {},
    }
    return {name: value for name, value in (whole | changed).items() if value is not ...}


def test_a_record_is_read_as_it_was_sent() -> None:
    record = record_of(fields())
    assert (record.id, record.time.isoformat()) == (UUID(ID), "2026-11-23T14:00:00.123456+00:00")
    assert (record.actor_id, record.status, record.count, record.detail) == ("gw-01", 202, 3, {})


def test_what_may_be_absent_is() -> None:
    record = record_of(
        fields(actor_id=None, status=None, source_address=..., trace_id=..., count=..., detail=...)
    )
    assert (record.actor_id, record.status, record.source_address, record.trace_id) == (None,) * 4
    assert (record.count, record.detail) == (1, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", ...),
        ("id", "x"),
        ("id", 7),
        ("time", ...),
        ("time", "yesterday"),
        ("time", "2026-11-23T14:00:00"),
        ("time", "0001-01-01T00:00:00+14:00"),
        ("time", "9999-12-31T23:59:59-14:00"),
        ("time", 1700000000),
        ("service", None),
        ("service", ""),
        ("action", 5),
        ("object", ...),
        ("actor_id", 5),
        ("actor_kind", "robot"),
        ("actor_kind", []),
        ("outcome", "maybe"),
        ("outcome", None),
        ("status", "200"),
        ("status", -1),
        ("status", 2**31),
        ("count", 0),
        ("count", True),
        ("count", 1.5),
        ("trace_id", {}),
    ],
)
def test_a_bad_field_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Unfit, match=name):
        record_of(fields(**{name: value}))


@pytest.mark.parametrize("body", [None, 5, "x", [], True])
def test_what_is_no_object_is_no_record(body: Any) -> None:
    with pytest.raises(Unfit):
        record_of(body)


def test_details_nested_beyond_writing_are_refused() -> None:
    deep: Any = {}
    for _ in range(600):
        deep = {"a": deep}
    with pytest.raises(Unfit, match="detail"):
        record_of(fields(detail=deep))


@pytest.mark.parametrize("name", sorted(TEXT_LIMITS))
def test_texts_that_are_too_long_are_cut(name: str) -> None:
    cut = getattr(record_of(fields(**{name: "ü" * 5000})), name)
    assert len(cut) == TEXT_LIMITS[name]
    assert cut.endswith(CUT)


def test_details_that_are_too_long_are_cut() -> None:
    detail = record_of(fields(detail={"a": "x" * 5000, "b": 1})).detail
    assert len(detail["a"]) == DETAIL_TEXT
    assert detail["b"] == 1
    cut = record_of(fields(detail={"a": ["x" * 100] * 1000})).detail
    assert set(cut) == {"cut"}
    assert len(cut["cut"]) == DETAIL_TEXT


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "fields_with_secret",
    [
        {"object": f"/login?password={SECRET}"},
        {"object": f"amqp://guest:{SECRET}@host/"},
        {"action": f"used Bearer {SECRET}"},
        {"actor_id": f"esp_live_{SECRET}"},
        {"object": "x" * 495 + f" esp_live_{SECRET}"},
        {"object": "x" * 480 + f"?token={SECRET}"},
        {"detail": {"password": SECRET}},
        {"detail": {"deep": [{"Api_Key": SECRET}]}},
        {"detail": {"key": SECRET}},
        {"detail": {"text": f"eyJ{SECRET}.{SECRET}.{SECRET}"}},
        {"detail": {"text": f"PASSWORD: {SECRET}", "pad": "x" * 2000}},
        {"detail": {"pad": ["x"] * 9000, "secret": SECRET}},
        {"detail": [f"token={SECRET}"]},
    ],
    ids=str,
)
def test_secrets_are_masked(fields_with_secret: dict[str, Any]) -> None:
    assert SECRET[:6] not in str(record_of(fields(**fields_with_secret)))


@given(st.text(max_size=300))
def test_any_text_comes_out_storable_and_bounded(text: str) -> None:
    text = orjson.loads(orjson.dumps(text.encode("utf-8", "ignore").decode()))
    record = record_of(fields(object=text, detail={"text": text, text: 1}))
    assert "\0" not in record.object
    assert b"\\u0000" not in orjson.dumps(record.detail)


WORDS = [
    "password",
    "Bearer ",
    "TOKEN",
    "=",
    ":",
    "x7Hq",
    "esp_live_",
    "://u",
    "@h",
    "eyJ",
    ".",
    "api-key",
    " ",
]


@given(st.lists(st.sampled_from(WORDS), max_size=8).map("".join))
def test_the_quick_look_overlooks_nothing_that_is_masked(text: str) -> None:
    for spelt in (text, text.upper(), text.lower()):
        assert may_hold_secret(spelt) or mask(spelt) == spelt
        detail = {spelt: 1}
        assert (
            may_hold_secret(orjson.dumps(detail).decode()) or mask_secrets(None, "", dict(detail)) == detail
        )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.printable, max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(string.ascii_letters, max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(string.ascii_letters, max_size=3), JSON, max_size=4))
def test_details_have_no_number_of_which_there_are_two_forms(detail: dict[str, Any]) -> None:
    def numbers(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [number for item in value.values() for number in numbers(item)]
        if isinstance(value, list):
            return [number for item in value for number in numbers(item)]
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []

    for number in numbers(record_of(fields(detail=detail)).detail):
        assert -(2**63) <= number < 2**63 if isinstance(number, int) else not number.is_integer()


def test_a_batch_has_its_records_as_they_came() -> None:
    assert bodies_of({}, orjson.dumps({"records": [fields(), 5]})) == [fields(), 5]


def test_an_event_of_an_outbox_is_one_record_completed_by_its_envelope() -> None:
    said = fields(id=..., time=..., service=...)
    event = Event("audit.recorded", "diagnostics", "alert-1", said)
    (whole,) = bodies_of(event.headers(), event.body())
    record = record_of(whole)
    assert (record.id.hex, record.service, record.time) == (event.id, "diagnostics", event.time)
    assert record.action == said["action"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"\xff", b'"x"'])
def test_a_message_in_neither_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        bodies_of({}, body)


def test_any_bytes_are_read_or_refused() -> None:
    noise = random.Random(3)
    for _ in range(300):
        body = bytearray(orjson.dumps({"records": [fields()]}))
        body[noise.randrange(len(body))] = noise.randrange(256)
        try:
            for source in bodies_of({}, bytes(body)):
                record_of(source)
        except (InvalidInput, Unfit):
            continue
