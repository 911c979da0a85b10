"""Stored signing keys; private keys are sealed."""

from collections.abc import Collection
from typing import Final

from esp_common.database import Connection, load_queries

from esp_auth.domain.keys import SigningKey

_QUERIES: Final = load_queries("esp_auth.store", "signing_keys.sql")


class SigningKeyStore:
    """Reads and writes signing keys in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock(self) -> None:
        """Lock the creation of keys until the transaction ends."""
        await self._connection.execute(_QUERIES.lock)

    async def every(self) -> list[SigningKey]:
        """Return all keys, by the time they sign from."""
        return [SigningKey(**row) for row in await self._connection.fetch(_QUERIES.every)]

    async def insert(self, key: SigningKey) -> None:
        """Add a key."""
        values = (key.kid, key.public_key, key.sealed_private_key, key.created_at, key.signs_from)
        await self._connection.execute(_QUERIES.insert, *values)

    async def delete(self, kids: Collection[str]) -> None:
        """Delete keys that are no longer needed."""
        await self._connection.execute(_QUERIES.delete, list(kids))
