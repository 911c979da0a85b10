"""Tables of the audit log: an append-only chain, read by pages and as a whole."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, cast

import asyncpg
import orjson
from esp_common import database
from esp_common.database import Connection, Engine, Pool, load_queries
from esp_common.errors import Unavailable

from esp_auth.domain.chain import Head, Link, Record, extend

Position = tuple[datetime, int]
"""Time and number of the last record of a page."""


COLUMNS: Final = (
    *("seq", "time", "id", "service", "actor_id", "actor_kind", "action", "object", "outcome", "status"),
    *("source_address", "trace_id", "count", "detail", "hash"),
)

_QUERIES: Final = load_queries("esp_auth.store", "audit.sql")
_SHOWN: Final = _QUERIES.columns.partition("\n")[2]
_CHAIN: Final = _QUERIES.chain.format(columns=_SHOWN)
_LIST: Final = _QUERIES.list.format(columns=_SHOWN, where="{where}", limit="{limit}")
_FIRST, _LAST = -(2**63), 2**63 - 1
_DAY_US: Final = 86_400_000_000
_THURSDAY: Final = 3
"""Weekday of 1 January 1970."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Filter of records: None matches all; `since` is inclusive, `until` exclusive."""

    actor: str | None = None
    object: str | None = None
    action: str | None = None
    service: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> tuple[list[str], list[Any]]:
        """Return SQL conditions on the log and their parameters, $1 first.

        Only given filters become conditions: a plan that serves every combination serves none well.
        """
        wanted = (
            ("actor_id = ${}", self.actor),
            ("object = ${}", self.object),
            ("action = ${}", self.action),
            ("service = ${}", self.service),
            ("outcome = ${}", self.outcome),
            ("time >= ${}", self.since),
            ("time < ${}", self.until),
        )
        given = [(condition, value) for condition, value in wanted if value is not None]
        conditions = [condition.format(number) for number, (condition, _) in enumerate(given, 1)]
        if self.outcome not in (None, "success"):
            conditions.append("outcome <> 'success'")  # lets the planner use the index of these
        return conditions or ["true"], [value for _, value in given]


class HeadMissing(Unavailable):
    """The chain's head is missing: nothing can be appended until it is restored from a noted one."""

    code, title = "audit-head-missing", "Audit log without a head"


class AuditStore:
    """Append batches to the chain, for any number of concurrent writers."""

    def __init__(self, pool: Pool, key: bytes) -> None:
        self._pool = pool
        self._key = key
        self._engine: Engine | None = None
        self._weeks: set[date] = set()

    async def append(self, records: Sequence[Record], *, repeated: bool = False) -> tuple[int, Head]:
        """Store those of `records` that are not stored yet, all or nothing; return how many and the new head.

        `repeated`: some are probably stored already; otherwise that is checked only after a conflict. Raises
        asyncpg's errors.
        """
        distinct = list({(record.id, record.time_us): record for record in records}.values())
        async with self._pool.acquire() as connection:
            await self._ensure_weeks(connection, distinct)
            if not repeated:
                try:
                    return await self._append(connection, distinct)
                except asyncpg.UniqueViolationError:
                    pass
            return await self._append(connection, distinct, look=True)

    async def _append(
        self, connection: Connection, records: Sequence[Record], *, look: bool = False
    ) -> tuple[int, Head]:
        async with connection.transaction():
            head = _head_of(await connection.fetchrow(_QUERIES.lock_head))
            if look:
                records = await _unknown(connection, records)
            links = extend(self._key, head, records)
            if links:
                await connection.copy_records_to_table(
                    "audit_log", schema_name="auth", columns=COLUMNS, records=map(row_of, links)
                )
                head = Head(links[-1].seq, links[-1].hash)
                await connection.execute(_QUERIES.move_head, *head)
        return len(links), head

    async def _ensure_weeks(self, connection: Connection, records: Sequence[Record]) -> None:
        if self._engine is None:
            self._engine = await installed_engine(connection)
        if self._engine == "timescale":
            return
        if weeks := {monday(record.time_us or 0) for record in records} - self._weeks:
            # Not in the batch's transaction, which would hold the lock on the table until its commit.
            await connection.execute(_QUERIES.ensure_weeks, sorted(weeks))
            self._weeks |= weeks


class AuditReader:
    """A consistent snapshot of the log."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def head(self) -> Head | None:
        """Return the head, None if it is missing."""
        try:
            return await read_head(self._connection)
        except HeadMissing:
            return None

    async def hash_at(self, seq: int) -> bytes | None:
        """Return the seal of the record `seq`, None unless there is exactly one."""
        rows = await self._connection.fetch(_QUERIES.hashes_at, seq)
        return bytes(rows[0]["hash"]) if len(rows) == 1 else None

    async def links(self, first: int | None, last: int | None, rows: int) -> AsyncIterator[list[Any]]:
        """Yield the chain's rows from `first` to `last` (None: to the end), up to `rows` at a time."""
        cursor = await self._connection.cursor(
            _CHAIN, _FIRST if first is None else first, _LAST if last is None else last
        )
        while found := await cursor.fetch(rows):
            yield found


@asynccontextmanager
async def reading(pool: Pool) -> AsyncIterator[AuditReader]:
    """Open a snapshot of the log."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield AuditReader(connection)


async def page(
    pool: Pool,
    wanted: AuditFilter,
    after: Position | None,
    limit: int,
    *,
    up_to: int | None = None,
) -> list[Link]:
    """Return up to `limit` matching records, newest first, after `after`.

    `up_to`: the last number; since records are only added, pages with the same one are consistent.
    """
    conditions, parameters = wanted.conditions()
    if after is not None:
        conditions.append(f"(time, seq) < (${len(parameters) + 1}, ${len(parameters) + 2})")
        parameters += after
    if up_to is not None:
        conditions.append(f"seq <= ${len(parameters) + 1}")
        parameters.append(up_to)
    query = _LIST.format(where=" AND ".join(conditions), limit=f"${len(parameters) + 1}")
    return [link_of(row) for row in await pool.fetch(query, *parameters, limit)]


async def installed_engine(connection: Connection) -> Engine:
    """Return the storage engine of the log."""
    return cast(Engine, await connection.fetchval(_QUERIES.engine))


async def read_head(connection: Connection) -> Head:
    """Return the current head; raise HeadMissing."""
    return _head_of(await connection.fetchrow(_QUERIES.head))


def is_outage(error: Exception) -> bool:
    """Return whether `error` is caused by the database and not the records; a missing head is one as well."""
    return isinstance(error, HeadMissing) or database.is_outage(error)


def link_of(row: Any) -> Link:
    """Return a row of the log as a link of the chain, even if it was tampered with."""
    record = Record(
        id=row["id"],
        time_us=row["time_us"],
        service=row["service"],
        actor_id=row["actor_id"],
        actor_kind=row["actor_kind"],
        action=row["action"],
        object=row["object"],
        outcome=row["outcome"],
        status=row["status"],
        source_address=row["source_address"],
        trace_id=row["trace_id"],
        count=row["count"],
        detail=_detail(row["detail"]),
    )
    return Link(row["seq"], record, bytes(row["hash"] or b""))


def row_of(link: Link) -> tuple[Any, ...]:
    """Return a link as a row of `COLUMNS`."""
    record = link.record
    return (
        link.seq,
        record.time,
        record.id,
        record.service,
        record.actor_id,
        record.actor_kind,
        record.action,
        record.object,
        record.outcome,
        record.status,
        record.source_address,
        record.trace_id,
        record.count,
        orjson.dumps(record.detail).decode(),
        link.hash,
    )


def monday(time_us: int) -> date:
    """Return the Monday, UTC, of the week of a time in microseconds since 1970."""
    day = time_us // _DAY_US
    return date(1970, 1, 1) + timedelta(days=day - (day + _THURSDAY) % 7)


def _head_of(row: Any) -> Head:
    if row is None:
        raise HeadMissing("auth.audit_head is empty", fix="insert the last noted seq and hash, then verify")
    return Head(row["seq"], bytes(row["hash"]))


async def _unknown(connection: Connection, records: Sequence[Record]) -> list[Record]:
    times = [record.time for record in records]
    rows = await connection.fetch(
        _QUERIES.known, [record.id for record in records], times, min(times), max(times)
    )
    known = {(row["id"], row["time"]) for row in rows}
    return [record for record, time in zip(records, times, strict=True) if (record.id, time) not in known]


def _detail(text: str | None) -> Any:
    try:
        return orjson.loads(text or "null")
    except orjson.JSONDecodeError:
        return text  # a number that only PostgreSQL can represent, so it was never sealed
