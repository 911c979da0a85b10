"""What key figures are made of: spells, lives, aggregates of readings, and health."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from esp_common.database import Pool, load_queries

from esp_diagnostics.kpis.formulas import Spell

_QUERIES: Final = load_queries(__package__, "kpis.sql")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PumpLife:
    """Since when a pump is known to run, since when without a stop (None: it stands still), and its end."""

    pump_id: str
    first_run_at: datetime | None
    up_since: datetime | None
    removed_at: datetime | None


class KpiStore:
    """Reads what key figures are made of."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def pump(self, pump_id: str) -> Row | None:
        """Return a pump with its field."""
        row = await self._pool.fetchrow(_QUERIES.pumps, pump_id)
        return dict(row) if row else None

    async def pumps_of_field(self, field_id: str, since: datetime) -> list[str] | None:
        """Return the pumps that were in a field after `since`; None: there is no such field."""
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(_QUERIES.pumps_of_field, field_id, since)
            if not rows and not await connection.fetchval(_QUERIES.field_exists, field_id):
                return None
        return [row["pump_id"] for row in rows]

    async def spells(
        self, pump_ids: Sequence[str], since: datetime, until: datetime
    ) -> dict[str, list[Spell]]:
        """Return the spells of pumps that touch a span, in their order."""
        found: dict[str, list[Spell]] = defaultdict(list)
        for row in await self._pool.fetch(_QUERIES.spells, list(pump_ids), since, until):
            spell = Spell(row["state"], row["started_at"], row["ended_at"], row["trip_code"])
            found[row["pump_id"]].append(spell)
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
        """Return each pump's `hours` or `days` that begin in a span."""
        found: dict[str, list[Row]] = defaultdict(list)
        for row in await self._pool.fetch(_QUERIES[grain], list(pump_ids), since, until):
            found[row["pump_id"]].append(dict(row))
        return found

    async def health(self, pump_ids: Sequence[str]) -> dict[str, Row]:
        """Return each pump's health with its terms, as the worker last wrote it."""
        rows = await self._pool.fetch(_QUERIES.health, list(pump_ids))
        return {
            row["pump_id"]: {"score": row["health"], "terms": json.loads(row["health_terms"])} for row in rows
        }
