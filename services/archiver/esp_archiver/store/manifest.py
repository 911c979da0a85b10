"""The manifest: which parts there are, what they hold, and what was told of days."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from esp_common.database import Connection, Pool, load_queries

from esp_archiver.domain.datasets import Dataset
from esp_archiver.domain.layout import Place
from esp_archiver.domain.planning import Part

_FILE: Final = load_queries("esp_archiver.store", "manifest.sql")
_QUERIES: Final = {name: text.replace("{columns}", _FILE.columns) for name, text in _FILE.items()}


@dataclass(frozen=True, slots=True)
class Stored:
    """One object of the archive as the manifest has it: its times and pumps are those of its rows."""

    part: Part
    bytes: int
    sha256: str
    footer_bytes: int
    first_time: datetime
    last_time: datetime
    pumps: tuple[str, ...]
    revision: int = 1
    verified_at: datetime | None = None
    checked_at: datetime | None = None
    damaged: str | None = None
    protected_at: datetime | None = None

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.part.place.name


@dataclass(frozen=True, slots=True)
class PartFilter:
    """Which parts: None is any; `since` included, `until` not."""

    dataset: Dataset | None = None
    field_id: str | None = None
    since: date | None = None
    until: date | None = None


@asynccontextmanager
async def leading(pool: Pool) -> AsyncIterator[Connection | None]:
    """Hold the lock of whoever writes the archive; yields its connection, None if another holds it.

    The manifest is written over this connection alone: who has lost it has lost the lock with it, and
    cannot enter anything beside the next one's work.
    """
    async with pool.acquire() as connection:
        leads = await connection.fetchval(_QUERIES["lead"])
        try:
            yield connection if leads else None
        finally:
            if leads and not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock_all()")


async def parts_of_day(connection: Connection, dataset: Dataset, day: date) -> list[Stored]:
    """Return a day's parts."""
    return _stored(await connection.fetch(_QUERIES["parts_of_day"], dataset, day))


async def parts_of_pump(pool: Pool, pump_id: str, since: datetime, until: datetime) -> list[Stored]:
    """Return the parts that may have readings of a pump in [since, until), by day, oldest part first."""
    return _stored(await pool.fetch(_QUERIES["parts_of_pump"], pump_id, since, until))


async def page(pool: Pool, wanted: PartFilter, after: tuple[date, str] | None, limit: int) -> list[Stored]:
    """Return up to `limit` parts that fit, newest day first, that come after day and name `after`."""
    day, name = after or (None, None)
    rows = await pool.fetch(
        _QUERIES["page"], wanted.dataset, wanted.field_id, wanted.since, wanted.until, day, name, limit
    )
    return _stored(rows)


async def least_checked(pool: Pool, wanted: PartFilter, share: float) -> list[Stored]:
    """Return a share (0 to 1) of the parts that fit, at least one, those first that were read longest ago."""
    of = (wanted.dataset, wanted.since, wanted.until)
    count = await pool.fetchval(_QUERIES["count"], *of)
    return _stored(await pool.fetch(_QUERIES["least_checked"], max(1, round(count * share)), *of))


async def put(connection: Connection, stored: Stored) -> None:
    """Enter a part that was verified, or verified anew after it was written over."""
    part = stored.part
    await connection.execute(
        _QUERIES["put"],
        part.place.dataset,
        part.place.field_id,
        part.place.day,
        part.place.part,
        stored.name,
        part.rows,
        stored.bytes,
        stored.sha256,
        part.content_hash,
        Decimal(part.digest),
        part.drops,
        part.sole,
        part.etag,
        stored.footer_bytes,
        stored.first_time,
        stored.last_time,
        list(stored.pumps),
        part.source_rows,
    )


async def refresh(pool: Pool, before: Stored, now: Stored) -> None:
    """Note under which tag and in which bytes a part's rows lie now, unless it was written anew meanwhile."""
    await pool.execute(
        _QUERIES["refresh"],
        before.name,
        before.part.etag,
        now.part.etag,
        now.bytes,
        now.sha256,
        now.footer_bytes,
    )


async def retire(connection: Connection, names: Sequence[str]) -> None:
    """Take parts out of the manifest whose readings are all in another, and have their objects deleted."""
    await connection.execute(_QUERIES["retire"], list(names))


async def obsolete(connection: Connection) -> list[str]:
    """Return the objects that are to be deleted."""
    return [row["object"] for row in await connection.fetch(_QUERIES["obsolete"])]


async def forget_obsolete(connection: Connection, name: str) -> None:
    """Note that an object is deleted."""
    await connection.execute(_QUERIES["forget_obsolete"], name)


async def scattered_days(connection: Connection, dataset: Dataset) -> list[date]:
    """Return the days of which a field has several parts."""
    return [row["day"] for row in await connection.fetch(_QUERIES["scattered_days"], dataset)]


async def set_aside(connection: Connection, parts: Iterable[Part]) -> None:
    """Have parts kept as they are, and not counted as their day's content."""
    await connection.execute(_QUERIES["set_aside"], [part.place.name for part in parts])


async def lock_damage(connection: Connection, name: str) -> str | None:
    """Return what is known to be wrong with a part, locked until the transaction ends."""
    found: str | None = await connection.fetchval(_QUERIES["lock_damage"], name)
    return found


async def note_checked(connection: Connection, name: str, damaged: str | None) -> None:
    """Note that a part was read against the manifest, and what was wrong with it, if anything."""
    await connection.execute(_QUERIES["checked"], name, damaged)


async def tell(connection: Connection, dataset: Dataset, day: date, archive_id: str, rows: int) -> None:
    """Note that a day is told of as archived."""
    await connection.execute(_QUERIES["tell"], dataset, day, archive_id, rows)


async def settle(pool: Pool, archive_id: str, refused: str | None) -> None:
    """Note what ingest did with a day it was told of: dropped, or refused and why."""
    await pool.execute(_QUERIES["settle"], archive_id, refused)


async def unprotected(connection: Connection, limit: int) -> list[Stored]:
    """Return parts that hold what is nowhere else and that no policy of the store protects yet."""
    return _stored(await connection.fetch(_QUERIES["unprotected"], limit))


async def note_protected(connection: Connection, names: Sequence[str]) -> None:
    """Note that parts are protected."""
    await connection.execute(_QUERIES["protected"], list(names))


async def standing(pool: Pool) -> list[dict[str, Any]]:
    """Return for each dataset its parts, rows and bytes, its newest day, and how many parts are damaged."""
    return [dict(row) for row in await pool.fetch(_QUERIES["standing"])]


def _stored(rows: Iterable[Any]) -> list[Stored]:
    return [
        Stored(
            part=Part(
                place=Place(Dataset(row["dataset"]), row["field_id"], row["day"], row["part"]),
                rows=row["rows"],
                digest=int(row["digest"]),
                content_hash=row["content_hash"],
                etag=row["etag"],
                drops=row["drops"],
                sole=row["sole"],
                source_rows=row["source_rows"],
            ),
            pumps=tuple(row["pumps"]),
            **{
                name: row[name]
                for name in (
                    *("bytes", "sha256", "footer_bytes", "first_time", "last_time", "revision"),
                    *("verified_at", "checked_at", "damaged", "protected_at"),
                )
            },
        )
        for row in rows
    ]
