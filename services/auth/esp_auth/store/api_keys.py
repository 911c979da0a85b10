"""Stored API keys: only the HMAC of a key's digest, never the key."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from esp_common.database import Connection, load_queries

_QUERIES: Final = load_queries("esp_auth.store", "api_keys.sql")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A row of auth.api_keys; the hashes are not shown in its repr."""

    key_id: str
    name: str
    scopes: list[str]
    gateway_id: str | None
    key_hash: bytes = field(repr=False)
    previous_key_hash: bytes | None = field(repr=False)
    previous_expires_at: datetime | None
    created_at: datetime
    created_by: str
    rotated_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class ApiKeyStore:
    """Reads and writes API keys in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def insert(
        self,
        key_id: str,
        name: str,
        scopes: Collection[str],
        gateway_id: str | None,
        key_hash: bytes,
        by: str,
        expires_at: datetime | None,
    ) -> ApiKey | None:
        """Add a key; return None if the id is taken."""
        values = (key_id, name, sorted(scopes), gateway_id, key_hash, by, expires_at)
        return _key(await self._connection.fetchrow(_QUERIES.insert, *values))

    async def by_id(self, key_id: str) -> ApiKey | None:
        """Return a key."""
        return _key(await self._connection.fetchrow(_QUERIES.by_id, key_id))

    async def lock(self, key_id: str) -> ApiKey | None:
        """Return a key with its row locked until the transaction ends."""
        return _key(await self._connection.fetchrow(_QUERIES.lock, key_id))

    async def page(self, after: str | None, gateway_id: str | None, limit: int) -> list[ApiKey]:
        """Return up to `limit` keys with ids above `after`, optionally those of one gateway."""
        rows = await self._connection.fetch(_QUERIES.page, after, gateway_id, limit)
        return [ApiKey(**row) for row in rows]

    async def by_hash(self, key_hash: bytes) -> ApiKey | None:
        """Return the valid key with this hash, either the current one or one within its overlap."""
        return _key(await self._connection.fetchrow(_QUERIES.by_hash, key_hash))

    async def note_use(self, key_id: str, period_s: float) -> None:
        """Record that the key is used, unless recorded less than `period_s` seconds ago."""
        await self._connection.execute(_QUERIES.note_use, key_id, period_s)

    async def rotate(self, key_id: str, key_hash: bytes, overlap_s: float) -> ApiKey | None:
        """Set a new hash; the previous one stays valid for `overlap_s` seconds, older ones do not."""
        return _key(await self._connection.fetchrow(_QUERIES.rotate, key_id, key_hash, overlap_s))

    async def revoke(self, key_id: str) -> ApiKey | None:
        """Revoke the key for good."""
        return _key(await self._connection.fetchrow(_QUERIES.revoke, key_id))

    async def gateway_has(self, gateway_id: str, scope: str) -> bool:
        """Return whether a valid key of this gateway has `scope`."""
        return bool(await self._connection.fetchval(_QUERIES.gateway_has, gateway_id, scope))


def _key(row: Any) -> ApiKey | None:
    return ApiKey(**row) if row else None
