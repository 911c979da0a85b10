"""Raw days: which there are, and letting one go."""

from datetime import date
from typing import Final

from esp_common.database import Connection, load_queries

_QUERIES: Final = load_queries("esp_ingest.store", "retention.sql")


async def raw_days(connection: Connection, before: date) -> list[date]:
    """Return the days before `before` that have raw rows, oldest first."""
    return [row["day"] for row in await connection.fetch(_QUERIES.raw_days, before)]


async def drop_day(connection: Connection, day: date, by: str) -> int:
    """Drop a day's raw rows and log it; return how many there were. Aggregates stay."""
    return int(await connection.fetchval(_QUERIES.drop_day, day, by))
