"""The audit chain: whatever is done to one of its records is found, and where."""

import random
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from esp_auth.domain.chain import (
    EMPTY,
    MAX_FINDINGS,
    Finding,
    Head,
    Kind,
    Link,
    Record,
    Verifier,
    canonical,
    extend,
    microseconds,
    verify,
)
from hypothesis import given
from hypothesis import strategies as st

KEY = b"k" * 32
LENGTH = st.integers(1, 12)


def record(number: int) -> Record:
    return Record(
        id=UUID(int=number),
        time_us=1_700_000_000_000_000 + number,
        service="ingest",
        actor_id="gw-01",
        actor_kind="key",
        action="GET /api/v1/pumps",
        object=f"/api/v1/pumps/{number}",
        outcome="success",
        status=200,
        source_address="10.0.0.1",
        trace_id="t",
        count=1,
        detail={"n": number},
    )


def chain(length: int, key: bytes = KEY) -> list[Link]:
    return extend(key, EMPTY, [record(number) for number in range(1, length + 1)])


def head_of(links: list[Link]) -> Head:
    return Head(links[-1].seq, links[-1].hash) if links else EMPTY


def found(links: list[Link], head: Head | None, **noted: Any) -> list[Finding]:
    """What verifying finds in rows as the database gives them: by number, whatever else they are."""
    shuffled = random.Random(7).sample(links, len(links))
    verdict = verify(KEY, sorted(shuffled, key=lambda link: link.seq), head, **noted)
    assert verdict.intact == (not verdict.findings)
    return list(verdict.findings)


def kinds(findings: list[Finding]) -> list[tuple[Kind, int, int]]:
    return [(finding.kind, finding.seq, finding.until_seq) for finding in findings]


@given(LENGTH | st.just(0))
def test_an_untouched_chain_is_intact(length: int) -> None:
    links = chain(length)
    assert found(links, head_of(links)) == []


OTHER_VALUES: dict[str, Any] = {
    "id": UUID(int=99),
    "time_us": 1,
    "status": None,
    "count": 2,
    "detail": {"n": 1.5},
    "actor_id": None,
}


@given(LENGTH, st.data())
def test_a_changed_record_is_found_at_its_number_and_nowhere_else(length: int, data: st.DataObject) -> None:
    links = chain(length)
    head = head_of(links)
    at = data.draw(st.integers(0, length - 1))
    name = data.draw(st.sampled_from([field.name for field in fields(Record)]))
    changed = replace(links[at].record, **{name: OTHER_VALUES.get(name, "other")})
    links[at] = links[at]._replace(record=changed)
    assert kinds(found(links, head)) == [(Kind.CHANGED, at + 1, at + 1)]


@given(LENGTH, st.data(), st.binary(min_size=0, max_size=40))
def test_a_changed_seal_is_found_at_its_number(length: int, data: st.DataObject, hash_: bytes) -> None:
    links = chain(length)
    head = head_of(links)
    at = data.draw(st.integers(0, length - 1))
    links[at] = links[at]._replace(hash=hash_)
    expected = [(Kind.CHANGED, at + 1, at + 1)]
    if at == length - 1:
        expected.append((Kind.TRUNCATED, length, length))
    assert sorted(kinds(found(links, head))) == sorted(expected)


@given(LENGTH, st.data())
def test_removed_records_are_found_at_their_numbers(length: int, data: st.DataObject) -> None:
    links = chain(length)
    first = data.draw(st.integers(1, length))
    last = data.draw(st.integers(first, length))
    left = links[: first - 1] + links[last:]
    kind = Kind.TRUNCATED if last == length else Kind.MISSING
    assert kinds(found(left, head_of(links))) == [(kind, first, last)]


@given(st.integers(2, 12), st.data())
def test_two_records_that_changed_places_are_told_to_be_reordered(length: int, data: st.DataObject) -> None:
    links = chain(length)
    head = head_of(links)
    first = data.draw(st.integers(1, length - 1))
    second = data.draw(st.integers(first + 1, length))
    one, other = links[first - 1], links[second - 1]
    links[first - 1], links[second - 1] = other._replace(seq=first), one._replace(seq=second)
    findings = found(links, head)
    expected = [(Kind.REORDERED, first, first), (Kind.REORDERED, second, second)]
    if second == length:  # the head is now another record's
        expected.append((Kind.TRUNCATED, length, length))
    assert sorted(kinds(findings)) == sorted(expected)
    assert [finding.detail for finding in findings if finding.kind is Kind.REORDERED] == [
        f"this is record {second}",
        f"this is record {first}",
    ]


@given(LENGTH, st.data())
def test_an_added_record_is_found_at_the_number_it_takes(length: int, data: st.DataObject) -> None:
    links = chain(length)
    at = data.draw(st.integers(1, length))
    forged = extend(b"another key", EMPTY, [record(77)])[0]._replace(seq=at)
    assert [finding[:4] for finding in found([*links, forged], head_of(links))] == [
        (Kind.FORGED, at, at, "one of 2 records with this number")
    ]


@given(LENGTH, st.data())
def test_an_added_record_that_shifts_the_others_is_found(length: int, data: st.DataObject) -> None:
    links = chain(length)
    at = data.draw(st.integers(1, length + 1))
    forged = extend(b"another key", EMPTY, [record(77)])[0]
    shifted = [*links[: at - 1], forged, *links[at - 1 :]]
    shifted = [link._replace(seq=number) for number, link in enumerate(shifted, 1)]
    findings = found(shifted, head_of(shifted))
    assert findings
    assert min(finding.seq for finding in findings) == at


@given(LENGTH)
def test_a_record_beyond_the_head_is_found(length: int) -> None:
    links = chain(length)
    head = head_of(links)
    forged = extend(b"another key", head, [record(77)])
    assert (Kind.FORGED, length + 1, length + 1) in kinds(found([*links, *forged], head))


@given(LENGTH, st.integers(-5, 0))
def test_a_number_the_chain_does_not_give_is_found(length: int, seq: int) -> None:
    links = chain(length)
    forged = links[0]._replace(seq=seq)
    assert kinds(found([forged, *links], head_of(links))) == [(Kind.FORGED, seq, seq)]


@given(st.integers(2, 12), st.data())
def test_a_chain_cut_together_with_its_head_is_found_by_a_head_noted_before(
    length: int, data: st.DataObject
) -> None:
    links = chain(length)
    left = links[: data.draw(st.integers(0, length - 1))]
    assert found(left, head_of(left)) == []
    witnesses = [head_of(links)]
    assert kinds(found(left, head_of(left), witnesses=witnesses)) == [(Kind.TRUNCATED, length, length)]
    assert found(links, head_of(links), witnesses=witnesses) == []


def test_a_chain_made_anew_with_the_key_is_found_by_a_head_noted_before() -> None:
    noted = head_of(chain(3))
    links = extend(KEY, EMPTY, [record(number) for number in (1, 2, 4, 5)])
    assert kinds(found(links, head_of(links), witnesses=[noted])) == [(Kind.TRUNCATED, 3, 3)]


@given(LENGTH)
def test_another_key_makes_no_seal_that_fits(length: int) -> None:
    links = chain(length, b"another")
    assert [finding.seq for finding in found(links, head_of(links))] == list(range(1, length + 1))


def test_a_chain_without_its_head_is_not_intact() -> None:
    assert kinds(found(chain(2), None)) == [(Kind.TRUNCATED, 3, 3)]


@given(st.integers(2, 12), st.data())
def test_a_part_of_the_chain_is_verified_by_itself(length: int, data: st.DataObject) -> None:
    links = chain(length)
    first = data.draw(st.integers(2, length))
    last = data.draw(st.integers(first, length))
    changed = data.draw(st.integers(1, length))
    links[changed - 1] = links[changed - 1]._replace(record=record(77))
    verifier = Verifier(KEY, first_seq=first, before=links[first - 2].hash)
    for link in links[first - 1 : last]:
        verifier.feed([link])
    verdict = verifier.finish(head_of(links), last)
    expected = [(Kind.CHANGED, changed, changed)] if first <= changed <= last else []
    assert kinds(list(verdict.findings)) == expected
    assert verdict.records == last - first + 1


def test_findings_beyond_the_first_hundred_are_counted() -> None:
    links = [link._replace(hash=b"") for link in chain(500)]
    verdict = verify(KEY, links, head_of(links))
    assert (len(verdict.findings), verdict.findings_total) == (MAX_FINDINGS, 500)
    assert [finding.seq for finding in verdict.findings] == list(range(1, MAX_FINDINGS + 1))


def test_many_records_of_one_number_do_not_hide_the_genuine_one_for_long() -> None:
    links = chain(3)
    forged = [links[1]._replace(record=record(number)) for number in range(100, 140)]
    findings = verify(KEY, [links[0], links[1], *forged, links[2]], head_of(links))
    assert findings.findings_total == 40
    assert {finding.kind for finding in findings.findings} == {Kind.FORGED}
    assert {finding.seq for finding in findings.findings} == {2}


@pytest.mark.parametrize("offset_h", [-11, 0, 14])
def test_the_canonical_form_has_every_field_sorted_and_utc_microseconds(offset_h: int) -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC).astimezone(timezone(timedelta(hours=offset_h)))
    detail = {"b": {"d": 1, "c": 2}, "a": 3}
    form = canonical(5, replace(record(1), time_us=microseconds(time), detail=detail))
    names = list(orjson.loads(form))
    assert names == sorted(names)
    assert set(names) == {"seq"} | {field.name for field in fields(Record)}
    assert b'"time_us":1767323045678901' in form
    assert b'"detail":{"a":3,"b":{"c":2,"d":1}}' in form
    assert b" " not in form.replace(b"GET /", b"GET/")
