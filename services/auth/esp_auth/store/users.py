"""Stored users."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from esp_common.database import Connection, load_queries

_QUERIES: Final = load_queries("esp_auth.store", "users.sql")


@dataclass(frozen=True, slots=True)
class User:
    """A row of auth.users; the sealed secret and the hash are not shown in its repr."""

    user_id: UUID
    username: str
    roles: list[str]
    disabled: bool
    password_hash: str = field(repr=False)
    must_change_password: bool
    password_changed_at: datetime
    totp_secret: bytes | None = field(repr=False)
    totp_confirmed_at: datetime | None
    totp_step: int | None
    created_at: datetime
    created_by: str
    last_login_at: datetime | None

    @property
    def has_totp(self) -> bool:
        """Whether a login needs the second factor."""
        return self.totp_confirmed_at is not None


class UserStore:
    """Reads and writes users in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def by_id(self, user_id: UUID) -> User | None:
        """Return a user."""
        return _user(await self._connection.fetchrow(_QUERIES.by_id, user_id))

    async def by_name(self, username: str) -> User | None:
        """Return the user with this canonical name."""
        return _user(await self._connection.fetchrow(_QUERIES.by_name, username))

    async def lock(self, user_id: UUID) -> User | None:
        """Return a user with its row locked until the transaction ends."""
        return _user(await self._connection.fetchrow(_QUERIES.lock, user_id))

    async def lock_admins(self) -> set[UUID]:
        """Return the administrators who can log in, with their rows locked until the transaction ends."""
        return {row["user_id"] for row in await self._connection.fetch(_QUERIES.lock_admins)}

    async def now(self) -> datetime:
        """Return the database's time: one clock for every replica."""
        moment: datetime = await self._connection.fetchval(_QUERIES.now)
        return moment

    async def page(self, after: str | None, limit: int) -> list[User]:
        """Return up to `limit` users with names above `after`."""
        return [User(**row) for row in await self._connection.fetch(_QUERIES.page, after, limit)]

    async def insert(
        self, user_id: UUID, username: str, roles: Collection[str], password_hash: str, by: str
    ) -> User | None:
        """Insert a user who has to change the password; return None if the name is taken."""
        values = (user_id, username, sorted(roles), password_hash, True, by)
        return _user(await self._connection.fetchrow(_QUERIES.insert, *values))

    async def update(self, user_id: UUID, roles: Collection[str], *, disabled: bool) -> None:
        """Update the fields that administrators set."""
        await self._connection.execute(_QUERIES.update, user_id, sorted(roles), disabled)

    async def set_password(self, user_id: UUID, password_hash: str, *, must_change: bool) -> None:
        """Set another password."""
        await self._connection.execute(_QUERIES.set_password, user_id, password_hash, must_change)

    async def rehash(self, user_id: UUID, password_hash: str) -> None:
        """Store a new hash of the same password at another cost."""
        await self._connection.execute(_QUERIES.rehash, user_id, password_hash)

    async def set_totp(self, user_id: UUID, sealed_secret: bytes | None) -> None:
        """Set a secret that is still to be confirmed, or none."""
        await self._connection.execute(_QUERIES.set_totp, user_id, sealed_secret)

    async def confirm_totp(self, user_id: UUID, step: int) -> None:
        """Require the second factor from now on; `step`: of the confirming code, which is spent."""
        await self._connection.execute(_QUERIES.confirm_totp, user_id, step)

    async def spend_code(self, user_id: UUID, step: int) -> None:
        """Record that the codes up to `step` are spent."""
        await self._connection.execute(_QUERIES.spend_code, user_id, step)

    async def note_login(self, user_id: UUID, at: datetime) -> None:
        """Record the time of the last login."""
        await self._connection.execute(_QUERIES.note_login, user_id, at)

    async def delete(self, user_id: UUID) -> None:
        """Delete a user with its sessions."""
        await self._connection.execute(_QUERIES.delete, user_id)


def _user(row: Any) -> User | None:
    return User(**row) if row else None
