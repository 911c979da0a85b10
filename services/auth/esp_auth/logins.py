"""Logins and other password checks; wrong names take as long as wrong passwords."""

from typing import ClassVar, Final
from uuid import UUID

from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, InvalidInput, Unauthenticated

from esp_auth.changes import Actor, note
from esp_auth.domain.passwords import check_password
from esp_auth.domain.users import is_username
from esp_auth.hashing import Hashing, Turn
from esp_auth.revocations import Revocations
from esp_auth.second_factor import Enrolment, SecondFactor, locked
from esp_auth.sessions import Grant, Sessions
from esp_auth.store.users import User, UserStore
from esp_auth.throttle import Guess, Throttle

NOBODY: Final = ""
"""Looked up for texts that cannot be names, so that every login queries the database."""


class SecondFactorRequired(Unauthenticated):
    """The password is correct and the user has a second factor: send its code as well."""

    code: ClassVar[str] = "totp-required"


class Logins:
    """Check passwords and codes, count failures, and open sessions."""

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

    async def log_in(self, username: str, password: str, code: str | None, actor: Actor) -> Grant:
        """Open a session; raise Unauthenticated, SecondFactorRequired or RateLimited.

        Unknown names, disabled users, wrong passwords and wrong codes get the same answer after the same
        work.
        """
        guess = Guess(username, actor.source_address)
        async with self._pool.acquire() as connection:
            user = await UserStore(connection).by_name(username.lower() if is_username(username) else NOBODY)
            await self._throttle.check(connection, guess)
            delay_s = await self._throttle.delay_s(connection, guess)
        async with self._hashing.turn(actor.source_address, delay_s) as turn:
            await self._check(guess)
            matches = await turn.matches(user.password_hash if user else None, password)
            fresh_hash = await _rehashed(turn, user, password) if matches else None
            if not matches:
                # Before the next turn, so that simultaneous guesses are counted in between.
                await self._count(guess, user, actor)
        grant = None
        if user is not None and matches:
            grant = await self._open(user, code, fresh_hash, actor)
        if grant is None:
            raise Unauthenticated(
                "username, password or code is wrong", fix="try again, or ask an administrator"
            )
        return grant

    async def change_password(
        self, user_id: UUID, session_id: UUID, current: str, new: str, actor: Actor
    ) -> None:
        """Change the password and end the user's other sessions; the present one may be refreshed.

        Raises Unauthenticated if `current` is wrong, InvalidInput if `new` is weak or the same.
        """
        user = await self._with_password(user_id, session_id, current, actor)
        check_password(new, user.username)
        if new == current:
            raise InvalidInput("the new password is the current one", fix="choose another")
        fresh_hash = await self._hashing.hash(new, actor.source_address)
        async with self._pool.acquire() as connection, connection.transaction():
            now = await locked(connection, user_id)
            if now.password_hash != user.password_hash:
                raise Conflict("the password was changed at the same time", fix="log in with the new one")
            await UserStore(connection).set_password(user_id, fresh_hash, must_change=False)
            revoked = await self._sessions.end(connection, user_id, "password", but=session_id)
            await note(connection, actor, "password.change", str(user_id))
        await self._revocations.spread(revoked)

    async def enrol_second_factor(
        self, user_id: UUID, session_id: UUID, password: str, actor: Actor
    ) -> Enrolment:
        """Return a secret for codes; raise Unauthenticated if the password is wrong."""
        await self._with_password(user_id, session_id, password, actor)
        return await self._second_factor.enrol(user_id, actor)

    async def remove_second_factor(
        self, user_id: UUID, session_id: UUID, password: str, actor: Actor
    ) -> None:
        """Remove the second factor; raise Unauthenticated if the password is wrong."""
        user = await self._with_password(user_id, session_id, password, actor)
        async with self._pool.acquire() as connection, connection.transaction():
            if (await locked(connection, user_id)).totp_secret is None:
                raise Conflict("there is no second factor", fix="nothing needs to be done")
            await self._second_factor.remove(connection, user.user_id, actor)

    async def _with_password(self, user_id: UUID, session_id: UUID, password: str, actor: Actor) -> User:
        """Return the user if the password is correct.

        Failures are counted by session: a stolen token cannot be used to guess the password from many
        addresses, nor to lock its user out.
        """
        async with self._pool.acquire() as connection:
            user = await UserStore(connection).by_id(user_id)
        if user is None:
            raise Unauthenticated("this user is no more", fix="log in again")
        guess = Guess(user.username, actor.source_address, session_id)
        async with self._hashing.turn(actor.source_address) as turn:
            await self._check(guess)
            matches = await turn.matches(user.password_hash, password)
            if not matches:
                await self._count(guess, user, actor)
        if not matches:
            raise Unauthenticated("the current password is wrong", fix="try again")
        return user

    async def _check(self, guess: Guess) -> None:
        async with self._pool.acquire() as connection:
            await self._throttle.check(connection, guess)

    async def _count(self, guess: Guess, user: User | None, actor: Actor) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await self._throttle.count_failure(connection, guess)
            await _note_refusal(connection, user, actor)

    async def _open(self, user: User, code: str | None, fresh_hash: str | None, actor: Actor) -> Grant | None:
        """Open the session of a user whose password was correct, or count another failure."""
        async with self._pool.acquire() as connection, connection.transaction():
            grant = await self._accept(connection, user, code, fresh_hash, actor)
            if grant is None:
                guess = Guess(user.username, actor.source_address)
                await self._throttle.count_failure(connection, guess)
                await self._throttle.count_code_failure(connection, guess)
                await _note_refusal(connection, user, actor)
            return grant

    async def _accept(
        self, connection: Connection, found: User, code: str | None, fresh_hash: str | None, actor: Actor
    ) -> Grant | None:
        """Open the session if, with the user's row locked, nothing has changed."""
        users = UserStore(connection)
        user = await users.lock(found.user_id)
        if user is None or user.disabled or user.password_hash != found.password_hash:
            return None
        now, guess = await users.now(), Guess(user.username, actor.source_address)
        if user.has_totp:
            if code is None:
                raise SecondFactorRequired("this login needs a code", fix="send it as totp")
            # Check again with the row locked, which serialises simultaneous codes; on the same connection,
            # since those who wait for the row may hold all the others.
            await self._throttle.check_code(connection, guess)
            step = self._second_factor.accepted(user, code, now)
            if step is None:
                return None
            await users.spend_code(user.user_id, step)
        if fresh_hash is not None:
            await users.rehash(user.user_id, fresh_hash)
        await users.note_login(user.user_id, now)
        await self._throttle.note_login(connection, guess, user.user_id)
        known = Actor(str(user.user_id), "user", actor.source_address)
        await note(connection, known, "session.open", str(user.user_id), {"username": user.username})
        return await self._sessions.open(connection, user, now)


async def _note_refusal(connection: Connection, user: User | None, actor: Actor) -> None:
    """Audit a refused secret. Unknown names are not recorded: people type passwords there."""
    subject = str(user.user_id) if user else "unknown"
    await note(connection, actor, "session.refuse", subject, outcome="denied")


async def _rehashed(turn: Turn, user: User | None, password: str) -> str | None:
    """Return the hash at the current cost if the stored one was made at another."""
    return await turn.hash(password) if user and turn.outdated(user.password_hash) else None
