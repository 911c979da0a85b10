"""Sessions: a login's access token, and its chain of refresh tokens."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import structlog
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import Unauthenticated

from esp_auth.changes import Actor, note
from esp_auth.domain.secrets import mac
from esp_auth.domain.tokens import Holder
from esp_auth.domain.users import duties
from esp_auth.revocations import Revocations
from esp_auth.signing import Signing
from esp_auth.store.sessions import RefreshToken, SessionStore
from esp_auth.store.users import User, UserStore

log = structlog.get_logger()

REFRESH_PREFIX: Final = "esp_refresh_"
"""Prefix by which secret scanners recognise a refresh token."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds: of an access token, of an unused refresh token, and of a session at most."""

    access_s: int
    refresh_s: int
    session_s: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Tokens returned by a login or a refresh."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    must: Collection[str]


class Sessions:
    """Open, renew and end sessions. Refresh tokens are stored as HMACs under `key`."""

    def __init__(
        self,
        pool: Pool,
        key: bytes,
        signing: Signing,
        revocations: Revocations,
        lifetimes: Lifetimes,
        *,
        totp_required_for_admin: bool,
    ) -> None:
        self._pool = pool
        self._key = key
        self._signing = signing
        self._revocations = revocations
        self._lifetimes = lifetimes
        self._totp_required_for_admin = totp_required_for_admin

    async def open(self, connection: Connection, user: User, now: datetime) -> Grant:
        """Begin a session of a user whose row the caller's transaction has locked."""
        session_id = uuid4()
        ends = now + timedelta(seconds=self._lifetimes.session_s)
        await SessionStore(connection).open(session_id, user.user_id, now, ends)
        return await self._grant(connection, user, session_id, now, ends)

    async def refresh(self, token: str, actor: Actor) -> Grant:
        """Return the next tokens; raise Unauthenticated.

        A token used twice is known to two parties, one of which stole it: the session ends for both.
        """
        revoked: list[Event] = []
        async with self._pool.acquire() as connection, connection.transaction():
            grant = await self._refresh(connection, mac(self._key, token), actor, revoked)
        await self._revocations.spread(revoked)
        if grant is None:
            raise Unauthenticated("this refresh token is not valid", fix="log in again")
        return grant

    async def _refresh(
        self, connection: Connection, token_hash: bytes, actor: Actor, revoked: list[Event]
    ) -> Grant | None:
        store, users = SessionStore(connection), UserStore(connection)
        user_id = await store.holder(token_hash)
        user = await users.lock(user_id) if user_id else None
        # Read again: a concurrent refresh may have held the row and spent the token.
        token = await store.token(token_hash) if user else None
        if user is None or token is None:
            return None
        now = await users.now()
        if token.used_at is not None:
            revoked += await self._end_for_reuse(connection, token, actor, now)
            return None
        if user.disabled or _is_over(token, now):
            return None
        await store.spend(token_hash, now)
        return await self._grant(connection, user, token.session_id, now, token.session_expires_at)

    async def end(
        self,
        connection: Connection,
        user_id: UUID,
        why: str,
        *,
        only: UUID | None = None,
        but: UUID | None = None,
    ) -> list[Event]:
        """End sessions of a user whose row is locked, `only` one or all `but` one; revoke their tokens."""
        now = await UserStore(connection).now()
        ended = await SessionStore(connection).end(
            user_id, now, why, over_since=self._tokens_good_since(now), only=only, but=but
        )
        return await self._revocations.revoke_sessions(connection, ended, now)

    async def end_all(self, connection: Connection, user_id: UUID, why: str) -> list[Event]:
        """End every session of a user whose row is locked, and revoke all tokens."""
        now = await UserStore(connection).now()
        await SessionStore(connection).end(user_id, now, why, over_since=now)
        return await self._revocations.revoke_user(connection, user_id, now)

    async def log_out(self, user_id: UUID, session_id: UUID, actor: Actor, *, everywhere: bool) -> None:
        """End the session, or all of the user's."""
        async with self._pool.acquire() as connection, connection.transaction():
            await UserStore(connection).lock(user_id)
            if everywhere:
                revoked = await self.end_all(connection, user_id, "logout")
            else:
                revoked = await self.end(connection, user_id, "logout", only=session_id)
            await note(connection, actor, "session.end", str(session_id), {"everywhere": everywhere})
        await self._revocations.spread(revoked)

    async def prune(self, before: datetime) -> None:
        """Delete sessions that ended before a time."""
        async with self._pool.acquire() as connection:
            await SessionStore(connection).prune(before)

    async def _end_for_reuse(
        self, connection: Connection, token: RefreshToken, actor: Actor, now: datetime
    ) -> list[Event]:
        ended = await SessionStore(connection).end(
            token.user_id, now, "reuse", over_since=self._tokens_good_since(now), only=token.session_id
        )
        if not ended:
            return []
        log.warning(
            "session.refresh-token-reused", session_id=str(token.session_id), user_id=str(token.user_id)
        )
        detail = {"user_id": str(token.user_id), "reason": "a refresh token was used twice"}
        await note(connection, actor, "session.revoke", str(token.session_id), detail)
        return await self._revocations.revoke_sessions(connection, ended, now)

    def _tokens_good_since(self, now: datetime) -> datetime:
        """Return the issue time after which access tokens may be valid at `now`."""
        return now - timedelta(seconds=self._lifetimes.access_s)

    async def _grant(
        self, connection: Connection, user: User, session_id: UUID, now: datetime, session_ends: datetime
    ) -> Grant:
        must = duties(
            user.roles,
            must_change_password=user.must_change_password,
            has_totp=user.has_totp,
            totp_required_for_admin=self._totp_required_for_admin,
        )
        refresh_token = REFRESH_PREFIX + secrets.token_urlsafe(32)
        expires_at = min(now + timedelta(seconds=self._lifetimes.refresh_s), session_ends)
        await SessionStore(connection).add_token(mac(self._key, refresh_token), session_id, now, expires_at)
        holder = Holder(user.user_id, user.username, user.roles, session_id, must)
        access_token = await self._signing.token(connection, holder, now)
        return Grant(access_token, refresh_token, self._lifetimes.access_s, sorted(must))


def _is_over(token: RefreshToken, now: datetime) -> bool:
    return token.ended_at is not None or min(token.expires_at, token.session_expires_at) <= now
