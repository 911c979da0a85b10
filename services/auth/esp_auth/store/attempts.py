"""Failed logins by subject (the HMAC of an account, an address, or both), and addresses with a login."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from esp_common.database import Connection, load_queries

from esp_auth.domain.lockout import Attempts

_QUERIES: Final = load_queries("esp_auth.store", "attempts.sql")


class AttemptStore:
    """Reads and writes attempts in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def read(self, subjects: Collection[bytes]) -> tuple[dict[bytes, Attempts], datetime]:
        """Return the attempts of the subjects, and the database's time."""
        rows = await self._connection.fetch(_QUERIES.read, list(subjects))
        known = {
            row["subject"]: Attempts(row["failures"], row["last_at"])
            for row in rows
            if row["subject"] is not None
        }
        return known, rows[0]["now"]

    async def lock(self, accounts: Mapping[bytes, bytes | None], now: datetime) -> dict[bytes, Attempts]:
        """Return the attempts of each subject, locked until the transaction ends.

        `accounts`: the account with which each subject's failures are deleted; None: with none.
        """
        rows = await self._connection.fetch(_QUERIES.lock, list(accounts), list(accounts.values()), now)
        return {row["subject"]: Attempts(row["failures"], row["last_at"]) for row in rows}

    async def write(self, subject: bytes, attempts: Attempts) -> None:
        """Store the attempts of a subject that is locked."""
        await self._connection.execute(_QUERIES.write, subject, attempts.failures, attempts.last_at)

    async def clear(self, subjects: Collection[bytes]) -> None:
        """Delete the failures of subjects."""
        await self._connection.execute(_QUERIES.clear, list(subjects))

    async def clear_account(self, account: bytes) -> None:
        """Delete the failures of an account from every address."""
        await self._connection.execute(_QUERIES.clear_account, account)

    async def is_known(self, pair: bytes) -> bool:
        """Return whether the account has logged in from the address before."""
        return bool(await self._connection.fetchval(_QUERIES.is_known, pair))

    async def remember(self, pair: bytes, user_id: UUID) -> None:
        """Record that the user has logged in from the address."""
        await self._connection.execute(_QUERIES.remember, pair, user_id)

    async def prune(self, before: datetime, known_before: datetime) -> None:
        """Delete failures from before a time, and addresses that were last used before another."""
        await self._connection.execute(_QUERIES.prune, before)
        await self._connection.execute(_QUERIES.prune_known, known_before)
