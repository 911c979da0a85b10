"""Raw days: which there are, what they hold, and letting one go."""

from datetime import date
from typing import Final, NamedTuple

from esp_common.database import Connection, load_queries

from esp_ingest.store import late

_QUERIES: Final = load_queries("esp_ingest.store", "retention.sql")


class Content(NamedTuple):
    """How many readings a day has, and the sum of their hashes."""

    readings: int
    digest: int


async def raw_days(connection: Connection, before: date) -> list[date]:
    """Return the days before `before` that have raw rows, oldest first."""
    return [row["day"] for row in await connection.fetch(_QUERIES.raw_days, before)]


async def freeze_day(connection: Connection, day: date) -> bool:
    """Keep everybody from changing a day until the transaction ends; return whether there is such a day."""
    return bool(await connection.fetchval(_QUERIES.freeze_day, day))


async def content(connection: Connection, day: date) -> Content:
    """Return what a day holds."""
    row = await connection.fetchrow(_QUERIES.content, day)
    return Content(int(row["readings"]), int(row["digest"])) if row else Content(0, 0)


async def note_archived(connection: Connection, day: date, archive_id: str, has: Content) -> None:
    """Note what an archive has of a day, in place of what was noted before."""
    await connection.execute(_QUERIES.note_archived, day, archive_id, has.readings, has.digest)


async def archived(connection: Connection, day: date) -> tuple[str, Content] | None:
    """Return the archive last told of for a day and what it has, unless the day was dropped for it."""
    row = await connection.fetchrow(_QUERIES.archived, day)
    return (row["archive_id"], Content(int(row["readings"]), int(row["digest"]))) if row else None


async def gone_for(connection: Connection, archive_id: str) -> bool:
    """Whether a day was dropped for this archive."""
    return bool(await connection.fetchval(_QUERIES.gone_for, archive_id))


async def drop_day(connection: Connection, day: date, by: str, archive_id: str | None = None) -> int:
    """Drop a day's raw rows and log it; return how many there were. Aggregates and the rows' keys stay."""
    await late.remember_day(connection, day)
    return int(await connection.fetchval(_QUERIES.drop_day, day, by, archive_id))
