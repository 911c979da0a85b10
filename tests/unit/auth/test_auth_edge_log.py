"""What the reverse proxy refuses: reading its lines, and choosing which of them become audit records."""

import json
from collections import Counter

from esp_auth.edge_log import MAX_SOURCES, Refusal, Sampler, parse
from hypothesis import given
from hypothesis import strategies as st

LINE = {
    "time": "2026-11-28T16:00:00+00:00",
    "action": "POST",
    "object": "/api/v1/telemetry",
    "status": "413",
    "source_address": "192.0.2.7",
    "trace_id": "0123456789abcdef0123456789abcdef",
}

TEXTS = st.binary(max_size=40).map(lambda given: given.decode(errors="replace"))


def datagram(**changed: object) -> bytes:
    return b"<190>Nov 28 16:00:00 edge: " + json.dumps({**LINE, **changed}).encode()


def test_a_line_of_the_proxy_is_read():
    expected = Refusal("POST", "/api/v1/telemetry", 413, "192.0.2.7", "0123456789abcdef0123456789abcdef")
    assert parse(datagram()) == expected


def test_what_cannot_be_read_is_none():
    for unreadable in (
        b"",
        b"<190>edge: ",
        b"{",
        datagram(status="none"),
        datagram(status="200"),
        b"{" * 9999,
    ):
        assert parse(unreadable) is None


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(given_bytes):
    parse(given_bytes)
    parse(b"<190>edge: {" + given_bytes)


@given(st.dictionaries(st.sampled_from(sorted(LINE)), TEXTS | st.integers() | st.none()))
def test_no_fields_break_the_reader_or_reach_a_record_unchecked(changed):
    refusal = parse(datagram(**changed))
    if refusal:
        assert refusal.path.isprintable()
        assert len(refusal.path) <= 300
        assert 400 <= refusal.status <= 599


def test_many_refusals_of_a_source_are_two_records_that_count_all_of_them():
    recorded: list[tuple[Refusal, int]] = []
    sampler = Sampler(lambda refusal, count: recorded.append((refusal, count)))
    refusal = Refusal("GET", "/x", 429, "192.0.2.7", None)
    for _ in range(1000):
        sampler.add(refusal)
    sampler.add(Refusal("GET", "/y", 404, "192.0.2.7", None))
    sampler.end_window()
    sampler.add(refusal)
    assert [(each.status, count) for each, count in recorded] == [(429, 1), (404, 1), (429, 999), (429, 1)]


def test_refusals_of_any_number_of_addresses_make_a_bounded_number_of_records():
    recorded: list[tuple[Refusal, int]] = []
    sampler = Sampler(lambda refusal, count: recorded.append((refusal, count)))
    for number in range(5 * MAX_SOURCES):
        sampler.add(Refusal("GET", "/", 404, f"10.0.{number // 256}.{number % 256}", None))
    sampler.end_window()
    counted = Counter[int]()
    for refusal, count in recorded:
        counted[refusal.status] += count
    assert counted == {404: 5 * MAX_SOURCES}
    assert len(recorded) <= MAX_SOURCES + 2
