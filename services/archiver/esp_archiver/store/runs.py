"""What was asked of the worker: runs, and readings to be brought back into tables that expire."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from esp_common.database import Connection, Pool, load_queries

_FILE: Final = load_queries("esp_archiver.store", "runs.sql")
_QUERIES: Final = {
    name: text.replace("{run}", _FILE.run_columns).replace("{restore}", _FILE.restore_columns)
    for name, text in _FILE.items()
}
RESTORED: Final = "restored"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the archive: what it was asked by, how far it got, and what it wrote."""

    run_id: UUID
    asked_by: str
    asked_at: datetime
    state: str
    started_at: datetime | None
    ended_at: datetime | None
    days: int
    parts: int
    rows: int
    bytes: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class Restore:
    """Readings to be brought back: of `pump_ids` in [since, until), until `expires_at`."""

    restore_id: UUID
    asked_by: str
    asked_at: datetime
    pump_ids: list[str]
    since: datetime
    until: datetime
    expires_at: datetime
    state: str
    ended_at: datetime | None
    rows: int
    problem: str | None


async def ask_run(pool: Pool, by: str) -> Run:
    """Ask for a run; return it, or the one that waits already."""
    return Run(*await _row(pool, "ask_run", by))


async def _row(pool: Pool, query: str, *arguments: Any) -> Any:
    """Return the one row of a statement that always has one."""
    return await pool.fetchrow(_QUERIES[query], *arguments)


async def find_run(pool: Pool, run_id: UUID) -> Run | None:
    """Return a run, None where there is none."""
    row = await pool.fetchrow(_QUERIES["run"], run_id)
    return row and Run(**row)


async def begin_run(connection: Connection) -> Run | None:
    """Begin a run for all who asked for one; return the first of theirs, None if nobody did."""
    row = await connection.fetchrow(_QUERIES["begin_run"])
    return row and Run(**row)


async def end_run(
    connection: Connection, problem: str | None, *, days: int, parts: int, rows: int, written: int
) -> None:
    """Note how the run under way ended and what it wrote, `written` in bytes."""
    await connection.execute(_QUERIES["end_run"], problem, days, parts, rows, written)


async def ask_restore(
    pool: Pool, by: str, pump_ids: Sequence[str], since: datetime, until: datetime, kept: timedelta
) -> Restore:
    """Ask for readings to be brought back for a while."""
    return Restore(*await _row(pool, "ask_restore", by, list(pump_ids), since, until, kept))


async def find_restore(pool: Pool, restore_id: UUID) -> Restore | None:
    """Return what was asked to be brought back, None where nothing was."""
    row = await pool.fetchrow(_QUERIES["restore"], restore_id)
    return row and Restore(**row)


async def begin_restore(connection: Connection) -> Restore | None:
    """Begin the oldest that is not over, with an empty table; None if there is none. Only for who leads."""
    row = await connection.fetchrow(_QUERIES["begin_restore"])
    if row is None:
        return None
    await connection.execute(_QUERIES["make_room"], row["restore_id"])
    return Restore(**row)


async def end_restore(connection: Connection, restore_id: UUID, problem: str | None, rows: int) -> None:
    """Note how it ended; without success nothing of it stays."""
    if problem is not None:
        await connection.execute(_QUERIES["drop_restored"], restore_id)
    await connection.execute(_QUERIES["end_restore"], restore_id, problem, rows)


async def put_restored(
    connection: Connection, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Add rows to the table of restored readings, `restore_id` first."""
    await connection.copy_records_to_table(
        RESTORED, schema_name="archiver", columns=list(columns), records=rows
    )


async def expire_now(pool: Pool, restore_id: UUID) -> Restore | None:
    """Have what was brought back go at once; None where nothing was."""
    row = await pool.fetchrow(_QUERIES["expire_now"], restore_id)
    return row and Restore(**row)


async def drop_expired(connection: Connection) -> int:
    """Drop what was brought back and is past its time; return how many tables went."""
    expired = [row["restore_id"] for row in await connection.fetch(_QUERIES["expired"])]
    for restore_id in expired:
        await connection.execute(_QUERIES["drop_restored"], restore_id)
        await connection.execute(_QUERIES["end_expired"], restore_id)
    return len(expired)
