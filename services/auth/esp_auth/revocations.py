"""Revocations: stored in PostgreSQL, announced by events, and copied to Redis for all services."""

import math
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from esp_common.contracts.events import Event
from esp_common.database import OUTAGES, Connection, Pool
from esp_common.redis import AWAY
from prometheus_client import Counter
from redis.asyncio import Redis

from esp_auth.changes import announce
from esp_auth.store.revocations import RevocationStore

log = structlog.get_logger()

REVOKED: Final = "auth.revoked"
REDIS_KEY: Final = "esp:auth:revocations"
COPY_LIVES_S: Final = 60
"""Lifetime of the copy: if nobody renews it, it may lack later revocations, and services ask over the broker.
"""
MARGIN_S: Final = 120
"""Seconds that an entry outlives its tokens, for clock differences."""

_COPIES: Final = Counter(
    "esp_auth_revocation_copies_total", "Copies of the revocations to Redis.", ["outcome"]
)


class Revocations:
    """Revoke tokens before they expire.

    `token_s`: lifetime of an access token, seconds. `redis` None: services learn of revocations by events and
    requests. `on_revoked` is called with each event after its transaction, so that this process knows at
    once.
    """

    def __init__(
        self,
        pool: Pool,
        redis: "Redis | None",
        *,
        token_s: int,
        on_revoked: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._pool = pool
        self._redis = redis
        self._token_s = token_s
        self._on_revoked = on_revoked

    async def revoke_sessions(
        self, connection: Connection, session_ids: Collection[UUID], now: datetime
    ) -> list[Event]:
        """Revoke the tokens of these sessions in the caller's transaction; pass the result to `spread`."""
        if not session_ids:
            return []
        store, expires_at = RevocationStore(connection), self._expiry(now)
        await store.add_sessions(session_ids, expires_at)
        entries = {str(session_id): expires_at.timestamp() for session_id in session_ids}
        return [await self._announce(connection, {"sessions": entries}, "sessions")]

    async def revoke_user(self, connection: Connection, user_id: UUID, now: datetime) -> list[Event]:
        """Revoke every token of the user issued up to `now`; pass the result to `spread`."""
        store, expires_at = RevocationStore(connection), self._expiry(now)
        # Tokens carry their issue time in milliseconds.
        not_before = datetime.fromtimestamp(math.ceil(now.timestamp() * 1000) / 1000, UTC)
        await store.add_user(user_id, not_before, expires_at)
        entries = {str(user_id): [not_before.timestamp(), expires_at.timestamp()]}
        return [await self._announce(connection, {"users": entries}, str(user_id))]

    async def spread(self, revoked: Collection[Event]) -> None:
        """Publish committed revocations at once: in this process, and in Redis."""
        for event in revoked:
            self._on_revoked(event)
        if revoked:
            await self.copy()

    async def document(self) -> bytes:
        """Return all revocations."""
        async with self._pool.acquire() as connection:
            return await RevocationStore(connection).document()

    async def copy(self) -> bool:
        """Copy the revocations to Redis and return whether it succeeded."""
        if self._redis is None:
            return False
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                store = RevocationStore(connection)
                await store.lock_copy()
                await self._redis.set(REDIS_KEY, await store.document(), ex=COPY_LIVES_S)
        except (*AWAY, *OUTAGES) as error:
            _COPIES.labels("failed").inc()
            log.warning("revocations.not-copied", reason=str(error) or type(error).__name__)
            return False
        _COPIES.labels("written").inc()
        return True

    async def prune(self, now: datetime) -> None:
        """Delete entries that only concern expired tokens."""
        async with self._pool.acquire() as connection:
            await RevocationStore(connection).prune(now)

    def _expiry(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._token_s + MARGIN_S)

    async def _announce(self, connection: Connection, entry: dict[str, Any], subject: str) -> Event:
        event = await announce(connection, REVOKED, subject, entry)
        await RevocationStore(connection).bump()
        return event
