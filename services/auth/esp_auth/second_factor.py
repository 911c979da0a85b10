"""The second factor: enrolled by its user, confirmed by a first code, required at each login."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, InvalidInput, NotFound

from esp_auth.changes import Actor, note
from esp_auth.domain import totp
from esp_auth.domain.secrets import seal, unseal
from esp_auth.store.users import User, UserStore
from esp_auth.throttle import Guess, Throttle


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Data for an authenticator, shown only once."""

    secret: str = field(repr=False)
    otpauth_uri: str = field(repr=False)


class SecondFactor:
    """Store users' TOTP secrets, sealed under `key`; `throttle` counts wrong codes."""

    def __init__(self, pool: Pool, key: bytes, throttle: Throttle) -> None:
        self._pool = pool
        self._key = key
        self._throttle = throttle

    async def enrol(self, user_id: UUID, actor: Actor) -> Enrolment:
        """Return a new secret, used once a code confirms it; raise Conflict if one is in use."""
        async with self._pool.acquire() as connection, connection.transaction():
            user = await locked(connection, user_id)
            if user.has_totp:
                raise Conflict("a second factor is in use", fix="remove it first: DELETE /api/v1/auth/totp")
            secret = totp.new_secret()
            await UserStore(connection).set_totp(user_id, seal(self._key, secret.encode(), str(user_id)))
            await note(connection, actor, "totp.enrol", str(user_id))
        return Enrolment(secret, totp.provisioning_uri(secret, user.username))

    async def confirm(self, user_id: UUID, code: str, actor: Actor) -> None:
        """Require the second factor from now on.

        Raises InvalidInput for a wrong code, RateLimited after too many of those.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            user = await locked(connection, user_id)
            if user.totp_secret is None or user.has_totp:
                raise Conflict(
                    "no second factor waits to be confirmed", fix="enrol one: POST /api/v1/auth/totp"
                )
            guess = Guess(user.username, actor.source_address)
            await self._throttle.check_code(connection, guess)
            step = self.accepted(user, code, await UserStore(connection).now())
            if step is None:
                await self._throttle.count_code_failure(connection, guess)
                await note(connection, actor, "totp.confirm", str(user_id), outcome="denied")
            else:
                await UserStore(connection).confirm_totp(user_id, step)
                await note(connection, actor, "totp.confirm", str(user_id))
        if step is None:  # after the transaction, which counts the failure
            raise InvalidInput("this is not the code of this moment", fix="check the clock of the device")

    async def remove(self, connection: Connection, user_id: UUID, actor: Actor) -> None:
        """Remove the second factor in the caller's transaction, which has locked the user's row."""
        await UserStore(connection).set_totp(user_id, None)
        await note(connection, actor, "totp.remove", str(user_id))

    def accepted(self, user: User, code: str, now: datetime) -> int | None:
        """Return the step of a valid code, None if it is wrong or spent."""
        if user.totp_secret is None:
            return None
        secret = unseal(self._key, user.totp_secret, str(user.user_id)).decode()
        return totp.accepted_step(secret, code, now.timestamp(), user.totp_step)


async def locked(connection: Connection, user_id: UUID) -> User:
    """Return a user with its row locked; raise NotFound."""
    user = await UserStore(connection).lock(user_id)
    if user is None:
        raise NotFound(f"no user {user_id}")
    return user
