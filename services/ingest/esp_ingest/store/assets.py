"""Assets in the database, as documents: what was stated is what is read back."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg
from esp_common.database import load_queries

_QUERIES = load_queries("esp_ingest.store", "assets.sql")

Document = dict[str, Any]
Link: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]"
Pool: TypeAlias = "asyncpg.Pool[Any]"


class AssetStore:
    """The assets, over one connection; kinds are named as in `esp_ingest.assets.KINDS`."""

    def __init__(self, connection: Link) -> None:
        self._connection = connection

    async def lock(self) -> None:
        """Keep other changes of assets waiting until this transaction ends."""
        await self._connection.execute(_QUERIES["lock"])

    async def read(self, kind: str, ids: Sequence[str]) -> dict[str, Document]:
        """Return those of `ids` that exist."""
        return await self._read(kind, list(ids), None, None, len(ids))

    async def page(
        self, kind: str, *, after: str | None, field_id: str | None, limit: int
    ) -> dict[str, Document]:
        """Return up to `limit` assets with ids above `after`, in the order of ids."""
        return await self._read(kind, None, after, field_id, limit)

    async def _read(self, kind: str, *arguments: Any) -> dict[str, Document]:
        rows = await self._connection.fetch(_QUERIES[f"read_{kind}"], *arguments)
        return {row["id"]: json.loads(row["document"]) for row in rows}

    async def write(self, kind: str, documents: Sequence[Mapping[str, Any]]) -> None:
        """Create `documents`, or put them in the place of what has their ids."""
        array = json.dumps(documents)
        for step in ("write", "clear", "fill"):
            if query := _QUERIES.get(f"{step}_{kind}"):
                await self._connection.execute(query, array)

    async def referring_to(self, kind: str, id_: str) -> list[str]:
        """Return some of what needs the asset, in words; empty when it may go."""
        rows = await self._connection.fetch(_QUERIES[f"referring_to_{kind}"], id_)
        return [row[0] for row in rows]

    async def delete(self, kind: str, id_: str) -> None:
        """Delete the asset."""
        await self._connection.execute(_QUERIES[f"delete_{kind}"], id_)
