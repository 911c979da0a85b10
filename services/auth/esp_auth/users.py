"""Users: added, changed and removed by administrators, of whom at least one remains."""

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID, uuid4

from esp_common.auth import ROLES, scopes_of
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, InvalidInput, NotFound

from esp_auth.changes import USER_CHANGED, Actor, announce, note
from esp_auth.domain.passwords import check_password
from esp_auth.domain.users import canonical_username
from esp_auth.granting import refuse_beyond
from esp_auth.hashing import Hashing
from esp_auth.revocations import Revocations
from esp_auth.second_factor import SecondFactor, locked
from esp_auth.sessions import Sessions
from esp_auth.store.users import User, UserStore
from esp_auth.throttle import Throttle

ADMIN: Final = "admin"


class Users:
    """Administrators' actions; each change is announced and audited in its transaction."""

    def __init__(
        self,
        pool: Pool,
        hashing: Hashing,
        throttle: Throttle,
        sessions: Sessions,
        second_factor: SecondFactor,
        revocations: Revocations,
    ) -> None:
        self._pool = pool
        self._hashing = hashing
        self._throttle = throttle
        self._sessions = sessions
        self._second_factor = second_factor
        self._revocations = revocations

    async def page(self, after: str | None, limit: int) -> list[User]:
        """Return up to `limit` users with names above `after`."""
        async with self._pool.acquire() as connection:
            return await UserStore(connection).page(after, limit)

    async def get(self, user_id: UUID) -> User:
        """Return a user; raise NotFound."""
        async with self._pool.acquire() as connection:
            user = await UserStore(connection).by_id(user_id)
        if user is None:
            raise NotFound(f"no user {user_id}")
        return user

    async def by_name(self, username: str) -> User:
        """Return the user with this name; raise NotFound."""
        async with self._pool.acquire() as connection:
            user = await UserStore(connection).by_name(canonical_username(username))
        if user is None:
            raise NotFound(f"no user {username}")
        return user

    async def create(self, username: str, password: str, roles: Collection[str], actor: Actor) -> User:
        """Add a user, who has to change the password at the first login.

        Raises InvalidInput for an invalid name, password or role, Conflict if the name is taken.
        """
        name = canonical_username(username)
        check_roles(roles)
        refuse_beyond(actor, scopes_of(roles))
        check_password(password, name)
        password_hash = await self._hashing.hash(password, actor.source_address)
        async with self._pool.acquire() as connection, connection.transaction():
            user = await UserStore(connection).insert(
                uuid4(), name, set(roles), password_hash, actor.id or "unknown"
            )
            if user is None:
                raise Conflict(f"there is a user {name}", fix="choose another name")
            await _tell(connection, user.user_id, "user.create", actor, username=name, roles=user.roles)
        return user

    async def update(
        self,
        user_id: UUID,
        actor: Actor,
        *,
        roles: Collection[str] | None = None,
        disabled: bool | None = None,
        drop_second_factor: bool = False,
    ) -> User:
        """Change the given fields; tokens with roles that were taken away are refused from now on.

        Raises NotFound, InvalidInput, or Conflict if it would leave no administrator.
        """
        check_roles(roles or ())
        revoked: list[Event] = []
        async with self._pool.acquire() as connection, connection.transaction():
            users = UserStore(connection)
            await users.lock_admins()
            before = await _locked_for(connection, user_id, actor)
            refuse_beyond(actor, scopes_of(roles or ()))
            new_roles = sorted(set(before.roles if roles is None else roles))
            off = before.disabled if disabled is None else disabled
            if off or ADMIN not in new_roles:
                await self._refuse_if_last_admin(connection, user_id)
            await users.update(user_id, new_roles, disabled=off)
            if off and not before.disabled:
                revoked += await self._sessions.end_all(connection, user_id, "disabled")
            elif new_roles != before.roles:
                # The session continues: its next refresh gives a token with the new roles.
                revoked += await self._revocations.revoke_user(connection, user_id, await users.now())
            if drop_second_factor and before.totp_secret is not None:
                await self._second_factor.remove(connection, user_id, actor)
            await _tell(connection, user_id, "user.update", actor, roles=new_roles, disabled=off)
            user = await locked(connection, user_id)
        await self._revocations.spread(revoked)
        return user

    async def delete(self, user_id: UUID, actor: Actor) -> None:
        """Delete a user and refuse every token; raise NotFound, or Conflict for the last administrator."""
        async with self._pool.acquire() as connection, connection.transaction():
            users = UserStore(connection)
            await users.lock_admins()
            user = await _locked_for(connection, user_id, actor)
            await self._refuse_if_last_admin(connection, user_id)
            revoked = await self._sessions.end_all(connection, user_id, "deleted")
            await users.delete(user_id)
            await _tell(connection, user_id, "user.delete", actor, username=user.username)
        await self._revocations.spread(revoked)

    async def reset_password(self, user_id: UUID, password: str, actor: Actor) -> None:
        """Set a password that the user has to change; every session ends. Raises NotFound or InvalidInput."""
        user = await self.get(user_id)
        refuse_beyond(actor, scopes_of(user.roles))
        check_password(password, user.username)
        password_hash = await self._hashing.hash(password, actor.source_address)
        async with self._pool.acquire() as connection, connection.transaction():
            await _locked_for(connection, user_id, actor)
            await UserStore(connection).set_password(user_id, password_hash, must_change=True)
            await self._throttle.clear(connection, user.username)
            revoked = await self._sessions.end_all(connection, user_id, "password")
            await _tell(connection, user_id, "user.reset-password", actor)
        await self._revocations.spread(revoked)

    async def revoke(self, user_id: UUID, actor: Actor) -> None:
        """End every session of a user and refuse all tokens; raise NotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _locked_for(connection, user_id, actor)
            revoked = await self._sessions.end_all(connection, user_id, "revoked")
            await note(connection, actor, "user.revoke", str(user_id))
        await self._revocations.spread(revoked)

    async def unlock(self, user_id: UUID, actor: Actor) -> None:
        """Reset the account's failed logins; raise NotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            user = await _locked_for(connection, user_id, actor)
            await self._throttle.clear(connection, user.username)
            await note(connection, actor, "user.unlock", str(user_id))

    async def _refuse_if_last_admin(self, connection: Connection, user_id: UUID) -> None:
        if await UserStore(connection).lock_admins() == {user_id}:
            raise Conflict("this is the last administrator", fix="make another user an administrator first")


def check_roles(roles: Collection[str]) -> None:
    """Raise InvalidInput for unknown roles."""
    if unknown := sorted(set(roles) - set(ROLES)):
        raise InvalidInput(
            f"no such roles: {', '.join(unknown)}",
            fields=[{"where": ["roles"], "what": f"not a role: {role}"} for role in unknown],
            fix=f"choose of {', '.join(ROLES)}",
        )


async def _locked_for(connection: Connection, user_id: UUID, actor: Actor) -> User:
    """Return a user with its row locked; raise NotFound, or Forbidden if the actor has fewer rights."""
    user = await locked(connection, user_id)
    refuse_beyond(actor, scopes_of(user.roles))
    return user


async def _tell(connection: Connection, user_id: UUID, action: str, actor: Actor, **detail: Any) -> None:
    await announce(connection, USER_CHANGED, str(user_id), {"user_id": str(user_id)})
    await note(connection, actor, action, str(user_id), detail)
