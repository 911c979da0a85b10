"""Pumps as diagnostics knows them."""

from typing import Final

from esp_common.database import Connection, load_queries

_SQL: Final = load_queries(__package__, "pumps.sql")


async def copy_nameplates(connection: Connection) -> list[str]:
    """Make the copies of ingest's nameplates what they are there; return the ids that changed."""
    return [row["pump_id"] for row in await connection.fetch(_SQL.copy_nameplates)]
