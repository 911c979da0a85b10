"""Read the data of key figures: state intervals, lives, aggregates and health."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from esp_common.database import Pool, load_queries

from esp_diagnostics.kpis.formulas import StateInterval

_QUERIES: Final = load_queries(__package__, "kpis.sql")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PumpLife:
    """First run of a pump, start of its present run (None: stopped), and its removal."""

    pump_id: str
    first_run_at: datetime | None
    up_since: datetime | None
    removed_at: datetime | None


class KpiStore:
    """Read the data of key figures."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def pump(self, pump_id: str) -> Row | None:
        """Return a pump with its field."""
        row = await self._pool.fetchrow(_QUERIES.pumps, pump_id)
        return dict(row) if row else None

    async def pumps_of_field(self, field_id: str, since: datetime) -> list[str] | None:
        """Return the pumps that were in a field after `since`; None if the field does not exist."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(_QUERIES.pumps_of_field, field_id, since)
            if not rows and not await connection.fetchval(_QUERIES.field_exists, field_id):
                return None
        return [row["pump_id"] for row in rows]

    async def state_intervals(
        self, pump_ids: Sequence[str], since: datetime, until: datetime
    ) -> dict[str, list[StateInterval]]:
        """Return the state intervals of pumps that overlap a span, in order."""
        found: dict[str, list[StateInterval]] = defaultdict(list)
        for row in await self._pool.fetch(_QUERIES.spells, list(pump_ids), since, until):
            interval = StateInterval(row["state"], row["started_at"], row["ended_at"], row["trip_code"])
            found[row["pump_id"]].append(interval)
        return found

    async def lives(self, *, pump_id: str | None = None, field_id: str | None = None) -> list[PumpLife]:
        """Return the life of a pump, or of every pump that is or was in a field."""
        rows = await self._pool.fetch(_QUERIES.lives, pump_id, field_id)
        return [
            PumpLife(row["pump_id"], row["first_run_at"], row["up_since"], row["removed_at"]) for row in rows
        ]

    async def aggregates(
        self, pump_ids: Sequence[str], grain: str, since: datetime, until: datetime
    ) -> dict[str, list[Row]]:
        """Return each pump's `hours` or `days` that start in a span."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in await self._pool.fetch(_QUERIES[grain], list(pump_ids), since, until):
            found[row["pump_id"]].append(dict(row))
        return found

    async def health(self, pump_ids: Sequence[str]) -> dict[str, Row]:
        """Return each pump's health with its terms, as last written by the worker."""
        rows = await self._pool.fetch(_QUERIES.health, list(pump_ids))
        return {
            row["pump_id"]: {"score": row["health"], "terms": json.loads(row["health_terms"])} for row in rows
        }
