"""Sessions and their refresh tokens; writers hold the lock on the user's row."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from esp_common.database import Connection, load_queries

_QUERIES: Final = load_queries("esp_auth.store", "sessions.sql")


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token and the session it belongs to."""

    session_id: UUID
    user_id: UUID
    used_at: datetime | None
    expires_at: datetime
    session_expires_at: datetime
    ended_at: datetime | None


class SessionStore:
    """Reads and writes sessions in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def open(self, session_id: UUID, user_id: UUID, now: datetime, expires_at: datetime) -> None:
        """Begin a session."""
        await self._connection.execute(_QUERIES.open, session_id, user_id, now, expires_at)

    async def add_token(
        self, token_hash: bytes, session_id: UUID, now: datetime, expires_at: datetime
    ) -> None:
        """Add the session's next refresh token."""
        await self._connection.execute(_QUERIES.add_token, token_hash, session_id, now, expires_at)

    async def holder(self, token_hash: bytes) -> UUID | None:
        """Return the user of this refresh token."""
        user_id: UUID | None = await self._connection.fetchval(_QUERIES.holder, token_hash)
        return user_id

    async def token(self, token_hash: bytes) -> RefreshToken | None:
        """Return the current state of a refresh token."""
        row = await self._connection.fetchrow(_QUERIES.token, token_hash)
        return RefreshToken(**row) if row else None

    async def spend(self, token_hash: bytes, now: datetime) -> None:
        """Record that a refresh token was used."""
        await self._connection.execute(_QUERIES.spend, token_hash, now)

    async def end(
        self,
        user_id: UUID,
        now: datetime,
        why: str,
        *,
        over_since: datetime,
        only: UUID | None = None,
        but: UUID | None = None,
    ) -> list[UUID]:
        """End a user's sessions, `only` one or all `but` one, and return those it ended.

        One that expired after `over_since` is among them: its last access token may still be valid.
        """
        rows = await self._connection.fetch(_QUERIES.end, user_id, only, but, now, why, over_since)
        return [row["session_id"] for row in rows]

    async def is_open(self, session_id: UUID, user_id: UUID) -> bool:
        """Return whether the session is open."""
        return bool(await self._connection.fetchval(_QUERIES.is_open, session_id, user_id))

    async def prune(self, before: datetime) -> None:
        """Delete the sessions that ended before a time."""
        await self._connection.execute(_QUERIES.prune, before)
