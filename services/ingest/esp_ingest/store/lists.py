"""What operators list, a page at a time: refused readings and scored hours."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from esp_common.database import Pool, load_queries

_QUERIES: Final = load_queries("esp_ingest.store", "lists.sql")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Which refused readings: None is any; `since` included, `until` not."""

    reason: str | None = None
    gateway_id: str | None = None
    pump_id: str | None = None
    channel: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Lists:
    """Reads the lists."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def quarantine(
        self, wanted: QuarantineFilter, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[Row]:
        """Return up to `limit` refused readings, newest first, without payload, that come after `after`."""
        received_at, id_ = after or (None, None)
        return await self._rows("quarantine_page", *astuple(wanted), received_at, id_, limit)

    async def refused(self, id_: UUID) -> Row | None:
        """Return one refused reading with its payload."""
        rows = await self._rows("quarantine_entry", id_)
        return {**rows[0], "payload": json.loads(rows[0]["payload"])} if rows else None

    async def latest_quality(
        self, field_id: str | None, below: float | None, after: str | None, limit: int
    ) -> list[Row]:
        """Return the newest scored hour of up to `limit` pumps with ids above `after`."""
        return await self._rows("quality_latest", field_id, below, after, limit)

    async def quality_of(
        self,
        pump_id: str,
        since: datetime | None,
        until: datetime | None,
        after: datetime | None,
        limit: int,
    ) -> list[Row]:
        """Return up to `limit` scored hours of a pump, newest first, that come after `after`."""
        return await self._rows("quality_hours", pump_id, since, until, after, limit)

    async def _rows(self, query: str, *arguments: Any) -> list[Row]:
        rows: Sequence[Any] = await self._pool.fetch(_QUERIES[query], *arguments)
        return [dict(row) for row in rows]
