"""Read the audit log: list, export, and verify its integrity."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson
import structlog
from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import InvalidInput

from esp_auth.domain.chain import GENESIS, Head, Link, Verdict, Verifier
from esp_auth.store.audit import AuditFilter, Position, link_of, page, read_head, reading

log = structlog.get_logger()

HEAD_NOTED: Final = "auth.audit-head"
EXPORTED: Final = (
    *("seq", "time", "id", "service", "actor_id", "actor_kind", "action", "object", "outcome", "status"),
    *("source_address", "trace_id", "count", "detail", "hash"),
)
"""Columns of an export, in order."""

_ROWS: Final = 2000
"""Rows held in memory during verification and export."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class ExportFormat(StrEnum):
    """Comma-separated values with a header, or a JSON object on each line."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of verifying the records from `from_seq` to `to_seq` against a head."""

    from_seq: int
    to_seq: int
    head: Head | None
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return the form used by the API and the command."""
        return {
            "intact": self.verdict.intact,
            "from_seq": self.from_seq,
            "to_seq": self.to_seq,
            "records": self.verdict.records,
            "findings_total": self.verdict.findings_total,
            "findings": [
                {
                    "kind": str(finding.kind),
                    "seq": finding.seq,
                    "until_seq": finding.until_seq,
                    "id": finding.id and str(finding.id),
                    "detail": finding.detail,
                }
                for finding in self.verdict.findings
            ],
            "head": self.head and {"seq": self.head.seq, "hash": self.head.hash.hex()},
        }


class AuditLog:
    """Read access to the audit log; `chain_key` is the chain's key.

    It remembers the furthest head it has seen, so that `verify` detects truncation behind it during this
    process's life. Earlier truncation is detected only with a head noted elsewhere.
    """

    def __init__(self, pool: Pool, chain_key: bytes) -> None:
        self._pool = pool
        self._key = chain_key
        self._furthest = Head(0, GENESIS)

    async def page(self, wanted: AuditFilter, after: Position | None, limit: int) -> list[Link]:
        """Return up to `limit` matching records, newest first, after a time and number."""
        return await page(self._pool, wanted, after, limit)

    async def export(self, form: ExportFormat, wanted: AuditFilter) -> AsyncIterator[bytes]:
        """Yield the matching records, newest first, as one document in parts of some hundred kilobytes.

        The export is a consistent snapshot. In CSV, texts that a spreadsheet would take for formulas get a
        leading `'`.
        """
        write = _csv if form is ExportFormat.CSV else _json_lines
        if form is ExportFormat.CSV:
            yield _csv_lines([EXPORTED])
        # Paged, without a cursor: a slow reader must not hold a transaction open.
        async with self._pool.acquire() as connection:
            end = await read_head(connection)
        after: Position | None = None
        while links := await page(self._pool, wanted, after, _ROWS, up_to=end.seq):
            yield await asyncio.to_thread(write, links)
            after = (links[-1].record.time, links[-1].seq)

    async def verify(
        self,
        from_seq: int | None = None,
        to_seq: int | None = None,
        *,
        noted: Iterable[Head] = (),
    ) -> Verification:
        """Verify the chain, or its records `from_seq` to `to_seq`; time grows with their number.

        `noted`: heads from the log or the event `auth.audit-head`, which the chain must contain. Raises
        InvalidInput for a range that begins after its end or after the head.
        """
        if from_seq is not None and to_seq is not None and from_seq > to_seq:
            raise InvalidInput(f"from_seq {from_seq} comes after to_seq {to_seq}")
        async with reading(self._pool) as reader:
            head = await reader.head()
            if from_seq is not None and head is not None and from_seq > max(head.seq, self._furthest.seq, 1):
                raise InvalidInput(f"the chain ends with record {head.seq}", fix="ask for records up to it")
            first = 1 if from_seq is None else from_seq
            verifier = Verifier(
                self._key,
                first_seq=first,
                before=GENESIS if first == 1 else await reader.hash_at(first - 1),
                witnesses=[*noted, self._furthest],
            )
            async for rows in reader.links(from_seq, to_seq, _ROWS):
                await asyncio.to_thread(_feed, verifier, rows)
        verdict = verifier.finish(head, to_seq)
        if head and head.seq > self._furthest.seq and verdict.intact:
            self._furthest = head
        end = max(head.seq if head else 0, verifier.last_seq)
        return Verification(first, end if to_seq is None else to_seq, head, verdict)


async def note_head(connection: Connection) -> Head:
    """Publish the head of the chain, in the log and as an event, and return it.

    A copy kept elsewhere proves later whether the table was truncated together with its head.
    """
    head = await read_head(connection)
    data = {"seq": head.seq, "hash": head.hash.hex()}
    event = Event(HEAD_NOTED, "auth", str(head.seq), data)
    await outbox.enqueue(connection, event, topology.EVENTS)
    log.info("audit.head", **data)
    return head


def noted_head(text: str) -> Head:
    """Return the head noted as `<seq>:<hash>`; raise InvalidInput if malformed."""
    seq, _, hash_ = text.partition(":")
    try:
        return Head(int(seq), bytes.fromhex(hash_))
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no noted head",
            fix="give seq:hash of an audit.head line or an auth.audit-head event",
        ) from None


def shown(link: Link) -> dict[str, Any]:
    """Return the public form of a record: the fields of `EXPORTED`."""
    record = link.record
    return {
        "seq": link.seq,
        "time": record.time.isoformat(timespec="microseconds"),
        "id": str(record.id),
        "service": record.service,
        "actor_id": record.actor_id,
        "actor_kind": record.actor_kind,
        "action": record.action,
        "object": record.object,
        "outcome": record.outcome,
        "status": record.status,
        "source_address": record.source_address,
        "trace_id": record.trace_id,
        "count": record.count,
        "detail": record.detail,
        "hash": link.hash.hex(),
    }


def _feed(verifier: Verifier, rows: Sequence[Any]) -> None:
    verifier.feed(map(link_of, rows))


def _json_lines(links: Sequence[Link]) -> bytes:
    return b"".join(orjson.dumps(shown(link), option=orjson.OPT_APPEND_NEWLINE) for link in links)


def _csv(links: Sequence[Link]) -> bytes:
    return _csv_lines([_cell(value) for value in shown(link).values()] for link in links)


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
