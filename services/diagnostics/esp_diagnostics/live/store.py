"""Check that subscribed pumps and fields exist."""

from collections.abc import Collection
from typing import Final

import structlog
from esp_common.database import OUTAGES, Pool, load_queries

log = structlog.get_logger()

_SQL: Final = load_queries(__package__, "live.sql")


class LiveNames:
    """Look up names of pumps and fields."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def unknown(self, pumps: Collection[str], fields: Collection[str]) -> tuple[list[str], list[str]]:
        """Return the given pumps and fields that do not exist; none while the database is unavailable."""
        try:
            row = await self._pool.fetchrow(_SQL.unknown, list(pumps), list(fields))
        except OUTAGES as error:
            log.warning("live.names-unknown", reason=str(error) or type(error).__name__)
            return [], []
        return (row["pumps"], row["fields"]) if row else ([], [])
