"""Storage of anomaly models, by version."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import orjson
from esp_common.database import Connection, Pool, load_queries

_SQL: Final = load_queries(__package__, "models.sql")

KEPT_VERSIONS: Final = 5
"""Number of inactive versions kept per pump."""


@dataclass(frozen=True, slots=True)
class Model:
    """Trained model; `body`: serialized detector."""

    pump_id: str
    trained_from: datetime
    trained_to: datetime
    samples: int
    body: bytes
    metrics: dict[str, float]


class Models:
    """Store models and the outcomes of training."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def due(self, pump_ids: Iterable[str], again_s: float, retry_s: float, limit: int) -> list[str]:
        """Return up to `limit` pumps due for training, longest waiting first.

        Due are pumps trained at least `again_s` ago, tried without success at least `retry_s` ago, or never
        tried.
        """
        rows = await self._pool.fetch(_SQL.due, list(pump_ids), again_s, retry_s, limit)
        return [row["pump_id"] for row in rows]

    async def keep(self, model: Model) -> int:
        """Make `model` the active one of its pump; return its version."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_SQL.retire, model.pump_id)
            version = await connection.fetchval(
                _SQL.keep,
                uuid4(),
                model.pump_id,
                model.trained_from,
                model.trained_to,
                model.samples,
                model.body,
                orjson.dumps(model.metrics).decode(),
            )
            await connection.execute(_SQL.forget, model.pump_id, KEPT_VERSIONS)
            await connection.execute(_SQL.tried, model.pump_id, "trained", None, 1.0)
        return int(version)

    async def tried(self, pump_id: str, outcome: str, reason: str, share: float | None) -> None:
        """Record training without a model: `outcome` is learning or failed."""
        await self._pool.execute(_SQL.tried, pump_id, outcome, reason, share)

    async def unhealthy(self, pump_id: str, since: datetime) -> list[tuple[datetime, datetime | None]]:
        """Return the spans after `since` with findings of the pump."""
        rows = await self._pool.fetch(_SQL.unhealthy, pump_id, since)
        return [(row["onset"], row["cleared_at"]) for row in rows]

    async def described(self, pump_id: str) -> dict[str, Any]:
        """Return the description of a pump's model and training; values are None where missing."""
        row = dict(await self._pool.fetchrow(_SQL.described, pump_id) or {})
        return {**row, "metrics": orjson.loads(row.get("metrics") or "{}")}


async def active(connection: Connection, pump_ids: Iterable[str]) -> dict[str, tuple[int, bytes]]:
    """Return version and bytes of each pump's active model."""
    rows = await connection.fetch(_SQL.active, list(pump_ids))
    return {row["pump_id"]: (row["version"], row["body"]) for row in rows}
