"""Data quality: what passing readings left to be counted, and the hours that were scored from it."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Final

from esp_common.database import load_queries

from esp_ingest.store.batch import Tally
from esp_ingest.store.connection import Connection

_QUERIES: Final = load_queries("esp_ingest.store", "quality.sql")


async def tally(connection: Connection, tallies: Sequence[Tally]) -> None:
    """Add to what is known of those pumps and hours."""
    if tallies:
        columns = zip(*map(astuple, tallies), strict=True)
        await connection.execute(_QUERIES.tally, *map(list, columns))
