"""Revoked tokens, kept in memory and at most a few seconds old.

The document is auth's (`esp:auth:revocations` in Redis, or its reply to `auth.revocations`): `{"version": 7,
"sessions": {session_id: exp}, "users": {user_id: [not_before, exp]}}`, times in epoch seconds. An entry holds
until `exp`, so updates only add entries: a Redis restored from an older state does not make a revoked token
valid again.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
import structlog
from prometheus_client import Gauge

from esp_common import topology
from esp_common.contracts.events import Event
from esp_common.errors import EspError, Unavailable
from esp_common.messaging import Requester
from esp_common.redis import AWAY, connect_redis

log = structlog.get_logger()

REVOKED: Final = "auth.revoked"
REDIS_KEY: Final = "esp:auth:revocations"
REFRESH_S: Final = 2.0
STALE_S: Final = 10.0
RETRY_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 3.0

_MALFORMED: Final = (AttributeError, TypeError, ValueError)
"""Errors raised by a document of another form."""

_REFRESHED: Final = Gauge(
    "esp_auth_revocations_refreshed_seconds", "When revocations were last known to be current, epoch seconds."
)
_FROM_BROKER: Final = Gauge(
    "esp_auth_revocations_from_broker", "1 while revocations come from auth over the broker, not from Redis."
)


class Revocations:
    """Revoked sessions and users. If the list is older than `stale_s` seconds, Unavailable is raised.

    Run `run()` beside the application; pass `auth.revoked` events to `on_event`, whose data are the changed
    entries in the document's form. `redis_url` None: auth is asked over the broker each time.
    """

    def __init__(self, requester: Requester, redis_url: str | None, *, stale_s: float = STALE_S) -> None:
        self._requester = requester
        self._redis = connect_redis(redis_url) if redis_url else None
        self._stale_s = stale_s
        self._sessions: dict[str, float] = {}
        self._users: dict[str, tuple[float, float]] = {}
        self._current_at = float("-inf")
        self._tried_at = float("-inf")
        self._last_document: bytes | str | None = None
        self._redis_serves = redis_url is not None
        self._refreshing = asyncio.Lock()

    @property
    def current(self) -> bool:
        """Whether the list is recent enough to admit callers."""
        return time.monotonic() - self._current_at < self._stale_s

    def revoked(self, user_id: str, session_id: str, issued_at: float) -> bool:
        """Return whether a token of this session, issued at `issued_at` (epoch seconds), is revoked."""
        if session_id in self._sessions:
            return True
        user = self._users.get(user_id)
        return user is not None and issued_at <= user[0]

    async def ensure_current(self) -> None:
        """Return once the list is current; raise Unavailable if neither Redis nor auth can provide it."""
        if self.current:
            return
        async with self._refreshing:  # a concurrent caller may have refreshed it already
            if not self.current and time.monotonic() - self._tried_at >= RETRY_S:
                await self._refresh()
        if not self.current:
            raise Unavailable("whether tokens are revoked cannot be told at the moment", retry_after_s=2)

    async def run(self) -> None:
        """Keep the list current until cancelled."""
        try:
            while True:
                async with self._refreshing:
                    await self._refresh()
                self._prune(time.time())
                await asyncio.sleep(REFRESH_S)
        finally:
            if self._redis is not None:
                await self._redis.aclose()

    def on_event(self, event: Event) -> None:
        """Apply a revocation at once."""
        if event.type == REVOKED:
            try:
                self._add(event.data)
            except _MALFORMED:
                log.exception("revocations.event-unreadable", subject=event.subject)
                self._current_at = float(
                    "-inf"
                )  # an unknown revocation: refresh before admitting the next caller

    async def _refresh(self) -> None:
        """Update the list from Redis, else from auth; on failure it ages."""
        started = self._tried_at = time.monotonic()
        reason = await self._take_from_redis()
        self._tell_source(reason)
        try:
            if reason is not None:
                await self._take_from_auth()
        except (EspError, *_MALFORMED) as error:
            log.warning("revocations.unknown", reason=str(error), current=self.current)
        else:
            self._current_at = started
            _REFRESHED.set_to_current_time()

    async def _take_from_redis(self) -> str | None:
        """Update the list from Redis; return the failure, None on success."""
        if self._redis is None:
            return "none is set"
        try:
            document = await self._redis.get(REDIS_KEY)
            if document is None:
                return f"{REDIS_KEY} is missing"
            self._take(document)
        except (*AWAY, *_MALFORMED) as error:
            return str(error) or type(error).__name__
        return None

    async def _take_from_auth(self) -> None:
        self._take(
            await self._requester.request(
                topology.COMMANDS, topology.AUTH_REVOCATIONS, b"{}", timeout_s=ANSWER_TIMEOUT_S
            )
        )

    def _tell_source(self, reason: str | None) -> None:
        if (reason is None) != self._redis_serves:
            self._redis_serves = reason is None
            _FROM_BROKER.set(not self._redis_serves)
            log.warning("revocations.source", redis=self._redis_serves, reason=reason)

    def _take(self, document: bytes | str) -> None:
        if document != self._last_document:
            content = orjson.loads(document)
            if not isinstance(content.get("version"), int):
                # Without one it is not auth's: an empty object must not mean "nothing is revoked".
                raise ValueError("not a document of revocations: it has no version")
            self._add(content)
            self._last_document = document

    def _add(self, document: Mapping[str, Any]) -> None:
        sessions = {str(sid): float(exp) for sid, exp in document.get("sessions", {}).items()}
        users = {
            str(user_id): (float(not_before), float(exp))
            for user_id, (not_before, exp) in document.get("users", {}).items()
        }
        self._sessions.update(sessions)
        for user_id, revocation in users.items():
            self._users[user_id] = max(revocation, self._users.get(user_id, revocation))

    def _prune(self, now: float) -> None:
        """Forget entries that only concern expired tokens."""
        self._sessions = {sid: exp for sid, exp in self._sessions.items() if exp > now}
        self._users = {user_id: entry for user_id, entry in self._users.items() if entry[1] > now}
