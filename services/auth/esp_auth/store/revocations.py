"""Revoked tokens that have not expired."""

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

import orjson
from esp_common.database import Connection, load_queries

_QUERIES: Final = load_queries("esp_auth.store", "revocations.sql")


class RevocationStore:
    """Reads and writes revocations in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add_sessions(self, session_ids: Collection[UUID], expires_at: datetime) -> None:
        """Revoke the tokens of these sessions until `expires_at`, when the last has expired."""
        await self._connection.execute(_QUERIES.add_sessions, list(session_ids), expires_at)

    async def add_user(self, user_id: UUID, not_before: datetime, expires_at: datetime) -> None:
        """Revoke the user's tokens issued up to `not_before`, until `expires_at`."""
        await self._connection.execute(_QUERIES.add_user, user_id, not_before, expires_at)

    async def bump(self) -> None:
        """Number the change; concurrent revocations wait here, so do this last."""
        await self._connection.execute(_QUERIES.bump)

    async def document(self) -> bytes:
        """Return all revocations as the JSON that services read."""
        row = await self._connection.fetchrow(_QUERIES.document)
        if row is None:
            raise RuntimeError("no row: the schema is incomplete")
        sessions, users = orjson.Fragment(row["sessions"]), orjson.Fragment(row["users"])
        return orjson.dumps({"version": row["version"], "sessions": sessions, "users": users})

    async def lock_copy(self) -> None:
        """Lock the copying of the document until the transaction ends."""
        await self._connection.execute(_QUERIES.lock_copy)

    async def prune(self, before: datetime) -> None:
        """Delete entries that only concern tokens expired before a time."""
        await self._connection.execute(_QUERIES.prune_sessions, before)
        await self._connection.execute(_QUERIES.prune_users, before)
