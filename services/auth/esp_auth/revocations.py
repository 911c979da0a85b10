"""Revocations: PostgreSQL has them, an event spreads each at once, and Redis holds a copy for all to read."""

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
"""A copy nobody renews goes, since it may lack what was revoked later: services then ask over the broker."""
MARGIN_S: Final = 120
"""How much longer than its tokens an entry is kept, for clocks that differ."""

_COPIES: Final = Counter(
    "esp_auth_revocation_copies_total", "Copies of the revocations to Redis.", ["outcome"]
)


class Revocations:
    """Refuses tokens before they expire. `token_s`: how long an access token lives, seconds.

    `redis` None: services learn of revocations by events and by asking. `on_revoked` is called with each
    event after its transaction: the process that revokes need not wait to hear of it.
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
        """Refuse the tokens of these sessions, in the caller's transaction; give the result to `spread`."""
        if not session_ids:
            return []
        store, expires_at = RevocationStore(connection), self._expiry(now)
        await store.add_sessions(session_ids, expires_at)
        entries = {str(session_id): expires_at.timestamp() for session_id in session_ids}
        return [await self._announce(connection, {"sessions": entries}, "sessions")]

    async def revoke_user(self, connection: Connection, user_id: UUID, now: datetime) -> list[Event]:
        """Refuse every token of the user issued up to `now`; give the result to `spread`."""
        store, expires_at = RevocationStore(connection), self._expiry(now)
        # Tokens say when they were issued in milliseconds.
        not_before = datetime.fromtimestamp(math.ceil(now.timestamp() * 1000) / 1000, UTC)
        await store.add_user(user_id, not_before, expires_at)
        entries = {str(user_id): [not_before.timestamp(), expires_at.timestamp()]}
        return [await self._announce(connection, {"users": entries}, str(user_id))]

    async def spread(self, revoked: Collection[Event]) -> None:
        """Make what was committed known at once: here, and in Redis."""
        for event in revoked:
            self._on_revoked(event)
        if revoked:
            await self.copy()

    async def document(self) -> bytes:
        """Return everything that is revoked."""
        async with self._pool.acquire() as connection:
            return await RevocationStore(connection).document()

    async def copy(self) -> bool:
        """Write what is revoked to Redis and return whether that went well."""
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
        """Forget what concerns only tokens that have expired."""
        async with self._pool.acquire() as connection:
            await RevocationStore(connection).prune(now)

    def _expiry(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._token_s + MARGIN_S)

    async def _announce(self, connection: Connection, entry: dict[str, Any], subject: str) -> Event:
        event = await announce(connection, REVOKED, subject, entry)
        await RevocationStore(connection).bump()
        return event
