"""Failed logins by subject: the HMAC of an account's name or of an address."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from esp_common.database import Connection, load_queries

from esp_auth.domain.lockout import Attempts

_QUERIES: Final = load_queries("esp_auth.store", "attempts.sql")


class AttemptStore:
    """Reads and writes attempts in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def read(self, subjects: Collection[bytes]) -> tuple[dict[bytes, Attempts], datetime]:
        """Return what is known of the subjects, and the database's time."""
        rows = await self._connection.fetch(_QUERIES.read, list(subjects))
        known = {
            row["subject"]: Attempts(row["failures"], row["last_at"])
            for row in rows
            if row["subject"] is not None
        }
        return known, rows[0]["now"]

    async def lock(self, subjects: Collection[bytes], now: datetime) -> dict[bytes, Attempts]:
        """Return the attempts of each subject, which nobody else counts until the transaction ends."""
        rows = await self._connection.fetch(_QUERIES.lock, list(subjects), now)
        return {row["subject"]: Attempts(row["failures"], row["last_at"]) for row in rows}

    async def write(self, subject: bytes, attempts: Attempts) -> None:
        """Store the attempts of a subject that is locked."""
        await self._connection.execute(_QUERIES.write, subject, attempts.failures, attempts.last_at)

    async def clear(self, subject: bytes) -> None:
        """Forget a subject's failures."""
        await self._connection.execute(_QUERIES.clear, subject)

    async def prune(self, before: datetime) -> None:
        """Forget failures from before a time."""
        await self._connection.execute(_QUERIES.prune, before)
