"""The work that is asked for and being done, one of a kind at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import orjson
from esp_common.database import Connection, Pool, load_queries

from esp_backup.domain.physical import FULL, TYPES

_QUERIES: Final = load_queries("esp_backup.store", "jobs.sql")

KINDS: Final = ("dump", *TYPES, "set", "verify", "drill")
ABANDONED: Final = "the process that did it ended"


class History(NamedTuple):
    """When a kind of work last began with success and at all, and whether somebody asks for it."""

    last_good: datetime | None = None
    last_try: datetime | None = None
    requested: bool = False


class Job(NamedTuple):
    """Work that has begun."""

    job_id: UUID
    kind: str
    requested_by: str


@asynccontextmanager
async def turn(pool: Pool, kind: str) -> AsyncIterator[bool]:
    """Be the only one who does work of a kind, while inside; False if another process does it.

    Physical backups of every type exclude each other.
    """
    name = FULL if kind in TYPES else kind
    async with pool.acquire() as connection:
        mine: bool = await connection.fetchval(_QUERIES.lock, name)
        try:
            yield mine
        finally:
            if mine and not connection.is_closed():
                await connection.execute(_QUERIES.unlock, name)


async def abandon(connection: Connection, kind: str) -> list[UUID]:
    """Give up what is said to be running, as the holder of the turn; return which that was."""
    return [row["job_id"] for row in await connection.fetch(_QUERIES.abandon, kind, ABANDONED)]


async def request(connection: Connection, kind: str, requested_by: str) -> UUID | None:
    """Ask for work; None when it is asked for or being done already."""
    job_id: UUID | None = await connection.fetchval(_QUERIES.request, uuid4(), kind, requested_by)
    return job_id


async def open_job(connection: Connection, kind: str) -> UUID | None:
    """Return the job of a kind that is asked for or being done."""
    job_id: UUID | None = await connection.fetchval(_QUERIES.open_job, kind)
    return job_id


async def take(connection: Connection, kind: str) -> Job | None:
    """Begin what is asked for, as the holder of the turn."""
    row = await connection.fetchrow(_QUERIES.take, kind)
    return Job(row["job_id"], kind, row["requested_by"]) if row else None


async def finish(
    connection: Connection, job_id: UUID, *, error: str | None = None, result: Any = None
) -> None:
    """Note how work ended: well, unless there is an error."""
    state = "failed" if error else "completed"
    await connection.execute(_QUERIES.finish, job_id, state, error, orjson.dumps(result).decode())


async def get(pool: Pool, job_id: UUID) -> dict[str, Any] | None:
    """Return a job."""
    row = await pool.fetchrow(_QUERIES.one, job_id)
    return _shown(row) if row else None


async def page(
    pool: Pool, kind: str | None, state: str | None, after: tuple[Any, ...] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` jobs, the last requested first, after (requested_at, job_id)."""
    rows = await pool.fetch(_QUERIES.page, kind, state, *(after or (None, None)), limit)
    return [_shown(row) for row in rows]


async def history(pool: Pool) -> dict[str, History]:
    """Return what was done of each kind of work."""
    rows = await pool.fetch(_QUERIES.history)
    return {row["kind"]: History(row["last_good"], row["last_try"], row["requested"]) for row in rows}


def _shown(row: Any) -> dict[str, Any]:
    return {**row, "result": orjson.loads(row["result"] or "null")}
