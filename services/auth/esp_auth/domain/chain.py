"""The audit log's hash chain: sealing and verification.

Each record is sealed with HMAC-SHA256 over the previous seal and the record's canonical form, which includes
its number. Without the key nobody can create a valid seal, so changed, removed, added or moved records are
detected.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import chain as concatenated
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

GENESIS: Final = bytes(32)
"""Seal before the first record."""

MAX_FINDINGS: Final = 100
"""Findings reported individually; beyond that they are counted."""

_MAX_SUSPECTS: Final = 32
"""Mismatched records kept in memory, to find out at the end whether they were moved."""

_MAX_TWINS: Final = 16
"""Records of one number kept in memory; an attacker may have added any number of them."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Record:
    """Who did what to which object, with the outcome; `time_us` is in microseconds since 1970 UTC.

    `detail`: JSON with integers of 64 bits and no whole floats (`esp_auth.domain.records` ensures it), so
    that it is read back from the database unchanged.
    """

    id: UUID
    time_us: int | None
    service: str
    actor_id: str | None
    actor_kind: str
    action: str
    object: str
    outcome: str
    status: int | None
    source_address: str | None
    trace_id: str | None
    count: int
    detail: Any

    @property
    def time(self) -> datetime:
        """Time of the action."""
        return _EPOCH + timedelta(microseconds=self.time_us or 0)


class Link(NamedTuple):
    """A record with its number in the chain, from 1, and its seal."""

    seq: int
    record: Record
    hash: bytes


class Head(NamedTuple):
    """The end of the chain: the number of its last record, 0 if there is none, and that record's seal."""

    seq: int
    hash: bytes


EMPTY: Final = Head(0, GENESIS)


def microseconds(time: datetime) -> int:
    """Return the aware `time` in microseconds since 1970 UTC."""
    return (time - _EPOCH) // _MICROSECOND


def canonical(seq: int, record: Record) -> bytes:
    """Return the sealed form of a record: JSON with every field, keys sorted, without spaces."""
    return orjson.dumps(
        {
            "action": record.action,
            "actor_id": record.actor_id,
            "actor_kind": record.actor_kind,
            "count": record.count,
            "detail": record.detail,
            "id": str(record.id),
            "object": record.object,
            "outcome": record.outcome,
            "seq": seq,
            "service": record.service,
            "source_address": record.source_address,
            "status": record.status,
            "time_us": record.time_us,
            "trace_id": record.trace_id,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def seal(key: bytes, before: bytes, seq: int, record: Record) -> bytes:
    """Return the seal of a record that follows the seal `before`."""
    return hmac.digest(key, before + canonical(seq, record), hashlib.sha256)


def extend(key: bytes, head: Head, records: Iterable[Record]) -> list[Link]:
    """Return `records` as the links that follow `head`."""
    links = []
    seq, before = head
    for record in records:
        seq += 1
        before = seal(key, before, seq, record)
        links.append(Link(seq, record, before))
    return links


class Kind(StrEnum):
    """Kinds of faults in the chain."""

    CHANGED = "changed"
    MISSING = "missing"
    REORDERED = "reordered"
    FORGED = "forged"
    TRUNCATED = "truncated"


class Finding(NamedTuple):
    """A fault of the records `seq` to `until_seq`; `id` is that of the present record."""

    kind: Kind
    seq: int
    until_seq: int
    detail: str
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a verification: the first findings, by place, and their total."""

    records: int
    findings: Sequence[Finding]
    findings_total: int

    @property
    def intact(self) -> bool:
        """Whether the chain is intact."""
        return not self.findings_total


class _Suspect(NamedTuple):
    """A mismatched record, and the seals that could precede its place."""

    link: Link
    before: Sequence[bytes]


class Verifier:
    """Verify links in the order of their numbers, in constant memory.

    `first_seq`: number of the first link, `before`: the seal before it; None: unknown, and the first link
    cannot be checked. `witnesses`: heads noted elsewhere, which the chain must contain.
    """

    def __init__(
        self,
        key: bytes,
        *,
        first_seq: int = 1,
        before: bytes | None = GENESIS,
        witnesses: Iterable[Head] = (),
    ) -> None:
        self._key = key
        self._first = self._next = first_seq
        self._before: Sequence[bytes] | None = None if before is None else (before,)
        self._witnesses = sorted(set(witnesses))
        self._twins: list[Link] = []
        self._last: Link | None = None
        self._records = 0
        self._findings: list[Finding] = []
        self._total = 0
        self._finishing = False
        self._suspects: list[_Suspect] = []

    @property
    def last_seq(self) -> int:
        """Number of the last link; 0 before the first."""
        return self._last.seq if self._last else 0

    def feed(self, links: Iterable[Link]) -> None:
        """Verify the next links."""
        for link in links:
            self._records += 1
            if self._twins and link.seq != self._twins[0].seq:
                self._take_place()
            if len(self._twins) < _MAX_TWINS:
                self._twins.append(link)
            else:
                self._find(Kind.FORGED, link.seq, "one of many records with this number", link.record.id)

    def finish(self, head: Head | None, until_seq: int | None = None) -> Verdict:
        """Return the result once all links are fed.

        `head`: as stored in the database, None if missing. `until_seq`: the last requested number; None: all,
        so that the last link must be the head's.
        """
        if self._twins:
            self._take_place()
        self._finishing = True  # the remaining suspects may belong to the first places, and are few
        self._check_end(head, until_seq)
        last_asked = until_seq or max(self._next, head.seq if head else 0)
        for witness in self._witnesses:
            if self._first <= witness.seq <= last_asked or (until_seq is None and witness.seq >= self._next):
                self._find(
                    Kind.TRUNCATED,
                    witness.seq,
                    "a head noted elsewhere is not in the chain",
                    until=witness.seq,
                )
        self._settle_suspects()
        findings = sorted(self._findings, key=lambda finding: finding.seq)[:MAX_FINDINGS]
        return Verdict(self._records, findings, self._total)

    def _take_place(self) -> None:
        """Check all records of one number."""
        twins, self._twins = self._twins, []
        seq = twins[0].seq
        if seq < self._first:
            self._forged(twins, "its number is none the chain gives")
            return
        if seq > self._next:
            self._find(Kind.MISSING, self._next, "nothing stands here", until=seq - 1)
            self._before = None
        fitting = next((link for link in twins if self._fits(link)), None)
        if fitting is None and len(twins) == 1:
            self._suspect(twins[0])
        genuine = fitting or twins[0]
        if len(twins) > 1:
            # If none matches, one of them may be the changed record.
            others = [link for link in twins if link is not fitting]
            self._forged(others, f"one of {len(twins)} records with this number")
        self._advance(genuine, twins)

    def _advance(self, genuine: Link, twins: Sequence[Link]) -> None:
        """Continue after `genuine`: the next record follows its stored or its computed seal."""
        seals = [genuine.hash, *(link.hash for link in twins)]
        if self._before is not None:
            seals += [seal(self._key, before, genuine.seq, genuine.record) for before in self._before]
        self._before = tuple(dict.fromkeys(seals))[:_MAX_TWINS]
        self._last = genuine
        self._next = genuine.seq + 1
        self._witnesses = [
            witness for witness in self._witnesses if witness != Head(genuine.seq, genuine.hash)
        ]

    def _fits(self, link: Link) -> bool:
        if self._before is None:
            return True
        return any(self._made_of(link, before, link.seq) for before in self._before)

    def _made_of(self, link: Link, before: bytes, seq: int) -> bool:
        return hmac.compare_digest(seal(self._key, before, seq, link.record), link.hash)

    def _check_end(self, head: Head | None, until_seq: int | None) -> None:
        if head is None:
            self._find(Kind.TRUNCATED, self._next, "the chain has no head")
            return
        end = head.seq if until_seq is None else min(until_seq, head.seq)
        if self._next <= end:
            missing = Kind.TRUNCATED if end == head.seq else Kind.MISSING
            self._find(missing, self._next, "nothing stands here up to the head", until=end)
        elif self._last is not None and self._last.seq > head.seq:
            self._find(Kind.FORGED, head.seq + 1, "beyond the head", until=self._last.seq)
        elif self._last is not None and self._last.seq == head.seq and self._last.hash != head.hash:
            self._find(Kind.TRUNCATED, head.seq, "the head is another record's", self._last.record.id)

    def _forged(self, links: Iterable[Link], detail: str) -> None:
        for link in links:
            self._find(Kind.FORGED, link.seq, detail, link.record.id)

    def _suspect(self, link: Link) -> None:
        if len(self._suspects) < _MAX_SUSPECTS:
            self._suspects.append(_Suspect(link, self._before or ()))
        else:
            self._changed(link)

    def _settle_suspects(self) -> None:
        """Distinguish moved records, and their followers, from changed records."""
        loose = [suspect.link.hash for suspect in self._suspects]
        for suspect in self._suspects:
            link = suspect.link
            if any(self._made_of(link, before, link.seq) for before in loose):
                continue  # the previous record was moved away; this one is unchanged
            home = self._home_of(suspect, loose)
            if home is None:
                self._changed(link)
            else:
                self._find(Kind.REORDERED, link.seq, f"this is record {home}", link.record.id)

    def _home_of(self, suspect: _Suspect, loose: Sequence[bytes]) -> int | None:
        """Return the place among the suspects where a suspect's seal matches."""
        for place in self._suspects:
            seq = place.link.seq
            for before in concatenated(place.before, loose):
                if seq != suspect.link.seq and self._made_of(suspect.link, before, seq):
                    return seq
        return None

    def _changed(self, link: Link) -> None:
        self._find(Kind.CHANGED, link.seq, "the record is not what was sealed", link.record.id)

    def _find(
        self, kind: Kind, seq: int, detail: str, id_: UUID | None = None, *, until: int | None = None
    ) -> None:
        self._total += 1
        if len(self._findings) < MAX_FINDINGS or self._finishing:
            self._findings.append(Finding(kind, seq, seq if until is None else until, detail, id_))


def verify(
    key: bytes, links: Iterable[Link], head: Head | None, *, witnesses: Iterable[Head] = ()
) -> Verdict:
    """Return the faults of a complete chain in memory."""
    verifier = Verifier(key, witnesses=witnesses)
    verifier.feed(links)
    return verifier.finish(head)
