"""The catalogue: what backups there are, and how far the archive has come."""

from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
from esp_common.database import Connection, Pool, load_queries

from esp_backup.domain.spans import Hole

_QUERIES: Final = load_queries("esp_backup.store", "catalogue.sql")


@dataclass(frozen=True, slots=True)
class Entry:
    """A backup in storage: what it is, where, and its size. `problem`: what is known to be wrong with it."""

    kind: str
    place: str
    name: str
    started_at: datetime
    ended_at: datetime
    bytes: int
    stored_bytes: int
    detail: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class Archiving(NamedTuple):
    """How far the archive of the log has come, as of `checked_at`."""

    checked_at: datetime
    covered_until: datetime | None
    newest_segment: str | None
    waiting_segments: int
    behind: bool


async def note_found(
    connection: Connection, kind: str, places: Collection[str], entries: Sequence[Entry]
) -> None:
    """Make the catalogue say of `places` what is in them now; raises nothing for what it already knew."""
    columns: list[list[Any]] = [
        [entry.kind for entry in entries],
        [entry.place for entry in entries],
        [entry.name for entry in entries],
        [entry.started_at for entry in entries],
        [entry.ended_at for entry in entries],
        [entry.bytes for entry in entries],
        [entry.stored_bytes for entry in entries],
        [orjson.dumps(entry.detail).decode() for entry in entries],
        [entry.problem for entry in entries],
    ]
    async with connection.transaction():
        await connection.execute(_QUERIES.note, *columns)
        await connection.execute(_QUERIES.note_gone, kind, list(places), columns[1], columns[2])


async def note_verified(
    connection: Connection, kind: str, place: str, name: str, problem: str | None
) -> None:
    """Note that a backup was read again, and what was wrong with it."""
    await connection.execute(_QUERIES.note_verified, kind, place, name, problem)


async def page(
    pool: Pool, kind: str | None, after: tuple[Any, ...] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` backups that are there, newest first, after (started_at, kind, place, name)."""
    rows = await pool.fetch(_QUERIES.page, kind, *(after or (None,) * 4), limit)
    return [{**row, "detail": orjson.loads(row["detail"])} for row in rows]


async def known_problems(connection: Connection, kind: str) -> dict[tuple[str, str], str]:
    """Return what is wrong with backups of a kind, by place and name."""
    rows = await connection.fetch(_QUERIES.problems, kind)
    return {(row["place"], row["name"]): row["problem"] for row in rows}


async def physical_ends(pool: Pool) -> list[datetime]:
    """Return when each physical backup that can be restored ended."""
    return [row["ended_at"] for row in await pool.fetch(_QUERIES.physical_ends)]


async def note_holes(connection: Connection, holes: Sequence[Hole]) -> None:
    """Note the holes that the archive has now."""
    columns = zip(*map(astuple, holes), strict=True) if holes else [[]] * 4
    async with connection.transaction():
        await connection.execute(_QUERIES.forget_holes)
        await connection.execute(_QUERIES.note_holes, *map(list, columns))


async def holes(pool: Pool) -> list[Hole]:
    """Return the holes of the archive when it was last looked at, oldest first."""
    return [Hole(*row) for row in await pool.fetch(_QUERIES.holes)]


async def beat(pool: Pool) -> datetime:
    """Write a row of now, and return its time."""
    at: datetime = await pool.fetchval(_QUERIES.beat)
    return at


async def archiving(pool: Pool) -> Archiving | None:
    """Return how far the archive has come; None before it was first looked at."""
    row = await pool.fetchrow(_QUERIES.archiving)
    return Archiving(*row) if row else None


async def note_archiving(
    connection: Connection, covered_until: datetime | None, newest: str | None, waiting: int, *, behind: bool
) -> None:
    """Note how far the archive has come."""
    await connection.execute(_QUERIES.note_archiving, covered_until, newest, waiting, behind)


async def mark(pool: Pool, name: str) -> None:
    """Leave a row by which a restored database shows which moment it is of."""
    await pool.execute(_QUERIES.mark, name)


async def forget_marks(pool: Pool) -> None:
    """Delete marks of drills long past."""
    await pool.execute(_QUERIES.forget_marks)
