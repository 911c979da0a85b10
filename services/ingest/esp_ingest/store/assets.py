"""Assets as documents, and the registry that the hot path screens against."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import orjson
from esp_common.contracts.words import normalise
from esp_common.database import Connection, load_queries

from esp_ingest.domain.registry import Pump, Registry, Tag

Link = Connection

_QUERIES: Final = load_queries("esp_ingest.store", "assets.sql")

Document = dict[str, Any]


class AssetStore:
    """Documents of each kind (`fields`, `wells`, `pumps`, `gateways`, `tag_maps`), over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def page(
        self, kind: str, *, after: str | None, field_id: str | None, limit: int
    ) -> dict[str, Document]:
        """Return up to `limit` documents by id, in order, with ids above `after`; of one field if named."""
        query = _QUERIES.page.format(documents=_QUERIES[kind])
        return _documents(await self._connection.fetch(query, after, field_id, limit))

    async def read(self, kind: str, ids: Sequence[str]) -> dict[str, Document]:
        """Return by id the documents that exist."""
        query = _QUERIES.read.format(documents=_QUERIES[kind])
        return _documents(await self._connection.fetch(query, ids)) if ids else {}

    async def lock(self) -> None:
        """Keep other writers of assets out until the transaction ends."""
        await self._connection.execute(_QUERIES.lock)

    async def write(self, kind: str, documents: Sequence[Document]) -> None:
        """Add or replace documents; what they refer to must exist. Tags carry `factor` and `offset`."""
        if documents:
            await self._connection.execute(_QUERIES[f"write_{kind}"], orjson.dumps(documents).decode())

    async def delete(self, kind: str, id_: str) -> None:
        """Delete one document that nothing refers to."""
        await self._connection.execute(_QUERIES[f"delete_{kind}"], id_)

    async def referring_to(self, kind: str, id_: str) -> list[str]:
        """Return what needs the asset (`well W-1`, `its readings`), a few if it is many."""
        return [row[0] for row in await self._connection.fetch(_QUERIES[f"{kind}_needed_by"], id_)]


async def load_registry(connection: Connection) -> Registry:
    """Return pumps, gateways and tag maps as they are now."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        pumps = await connection.fetch(_QUERIES.registry_pumps)
        gateways = await connection.fetch(_QUERIES.registry_gateways)
        tags = await connection.fetch(_QUERIES.registry_tags)
    tag_maps: dict[str, dict[str, Tag | None]] = defaultdict(dict)
    for gateway_id, tag, channel, factor, offset, states in tags:
        words = {normalise(word): state for word, state in orjson.loads(states).items()} if states else None
        tag_maps[gateway_id][tag] = None if channel is None else Tag(channel, factor, offset, words)
    return Registry.of(
        (Pump(*row) for row in pumps),
        {row["gateway_id"]: row["pump_nos"] for row in gateways},
        tag_maps,
    )


def _documents(rows: Sequence[asyncpg.Record]) -> dict[str, Document]:
    return {row["id"]: orjson.loads(row["document"]) for row in rows}
