"""Cache of responses in Redis, with one computation at a time per key.

Redis is optional: while it is unavailable each process computes every response itself.
"""

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from secrets import token_hex
from typing import Any, Final

import orjson
import structlog
from esp_common.redis import AWAY
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis

log = structlog.get_logger()

PREFIX: Final = "diagnostics:cache:"
FORMAT: Final = 1
"""Version of keys and entries; a release that changes either increments it."""

REDIS_PAUSE_S: Final = 2.0
"""Seconds without calls after Redis failed, so that requests do not wait for its timeout."""

LOCK_S: Final = 10.0
"""Seconds to wait for a computation in another process before computing locally."""

POLL_S: Final = 0.02
REFRESH_AFTER_SHARE: Final = 0.4
MAX_REFRESH_LEAD_S: Final = 30.0
"""Entries are refreshed in the background after this share of their lifetime, shortly before its end."""

_HEADER: Final = struct.Struct(">d16s")
_UNLOCK: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"

_ANSWERS: Final = Counter(
    "esp_diagnostics_cache_answers_total",
    "Responses by outcome: cached (hit), computed (made), or awaited from another caller (shared).",
    ["kind", "outcome"],
)
_RATIO: Final = Gauge(
    "esp_diagnostics_cache_hit_ratio", "Share of cached responses since the process started."
)
_UP: Final = Gauge("esp_diagnostics_cache_up", "1 while Redis is available for the cache, else 0.")


@dataclass(frozen=True, slots=True)
class Answer:
    """Response body, time of its computation (epoch seconds), and entity tag."""

    body: bytes
    made_at: float
    etag: str

    @classmethod
    def of(cls, body: bytes) -> "Answer":
        """Return `body` as computed now."""
        return cls(body, time.time(), blake2b(body, digest_size=16).hexdigest())

    @property
    def age_s(self) -> float:
        """Return seconds since the computation."""
        return max(time.time() - self.made_at, 0.0)


Compute = Callable[[], Awaitable[bytes]]


def cache_key(rights: str, kind: str, *parameters: object) -> str:
    """Return the cache key of a request by callers with `rights`.

    Callers with different permissions never share an entry.
    """
    document = orjson.dumps([FORMAT, rights, kind, *parameters])
    return PREFIX + kind + ":" + blake2b(document, digest_size=20).hexdigest()


class AnswerCache:
    """Cache responses, and compute each by one caller at a time.

    Callers in one process share a computation; a lock in Redis lets other processes wait for it. A requested
    entry near the end of its lifetime is refreshed in the background, so that frequent requests never wait.
    Expired entries are never returned.
    """

    def __init__(self, redis: Redis, max_bytes: int) -> None:
        self._redis = redis
        self._max_bytes = max_bytes
        self._running: dict[str, asyncio.Task[Answer]] = {}
        self._unavailable_until = 0.0
        self._hits = self._all = 0

    async def get(self, kind: str, key: str, ttl_s: float, compute: Compute) -> Answer:
        """Return the cached response, or the result of `compute`; `ttl_s` 0 disables caching."""
        if ttl_s <= 0:
            return Answer.of(await compute())
        kept = await self._read(key)
        if kept is not None and kept.age_s < ttl_s:
            if kept.age_s > max(REFRESH_AFTER_SHARE * ttl_s, ttl_s - MAX_REFRESH_LEAD_S):
                self._start(key, ttl_s, compute, kept)
            self._count(kind, "hit")
            return kept
        self._count(kind, "shared" if key in self._running else "made")
        while True:
            # The first caller may disconnect; the others still wait for the computation.
            answer = await asyncio.shield(self._start(key, ttl_s, compute))
            if answer.age_s < ttl_s:
                return answer

    async def close(self) -> None:
        """Cancel running computations."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _count(self, kind: str, outcome: str) -> None:
        self._all += 1
        self._hits += outcome == "hit"
        _ANSWERS.labels(kind, outcome).inc()
        _RATIO.set(self._hits / self._all)

    def _start(
        self, key: str, ttl_s: float, compute: Compute, kept: Answer | None = None
    ) -> asyncio.Task[Answer]:
        """Start the computation unless it is running; `kept`: entry that is served meanwhile."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._compute(key, ttl_s, compute, kept))
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def _forget(self, key: str, done: asyncio.Task[Answer]) -> None:
        del self._running[key]
        if not done.cancelled() and (error := done.exception()):
            # Waiting callers get the error raised; a background refresh has none.
            log.debug("cache.refresh-failed", key=key, reason=str(error))

    async def _compute(self, key: str, ttl_s: float, compute: Compute, serving: Answer | None) -> Answer:
        lock, token = f"{key}:lock", token_hex(8)
        deadline = time.monotonic() + LOCK_S
        while not await self._lock(lock, token):
            if serving is not None:  # another process refreshes it
                return serving
            await asyncio.sleep(POLL_S)
            kept = await self._read(key)
            if kept is not None and kept.age_s < ttl_s:
                return kept
            if time.monotonic() > deadline:
                break
        try:
            answer = Answer.of(await compute())
            await self._write(key, ttl_s, answer)
            return answer
        finally:
            await self._call(lambda: self._redis.eval(_UNLOCK, 1, lock, token))

    async def _lock(self, lock: str, token: str) -> bool:
        """Return whether this caller has to compute: it holds the lock, or Redis is unavailable."""
        taken = await self._call(lambda: self._redis.set(lock, token, nx=True, px=int(LOCK_S * 1000)))
        return bool(taken) or self._unavailable

    async def _read(self, key: str) -> Answer | None:
        kept = await self._call(lambda: self._redis.get(key))
        if kept is None:
            return None
        made_at, etag = _HEADER.unpack_from(kept)
        return Answer(kept[_HEADER.size :], made_at, etag.hex())

    async def _write(self, key: str, ttl_s: float, answer: Answer) -> None:
        if len(answer.body) > self._max_bytes:
            return
        kept = _HEADER.pack(answer.made_at, bytes.fromhex(answer.etag)) + answer.body
        await self._call(lambda: self._redis.set(key, kept, px=max(int(ttl_s * 1000), 1)))

    @property
    def _unavailable(self) -> bool:
        return time.monotonic() < self._unavailable_until

    async def _call(self, command: Callable[[], Any]) -> Any:
        """Call Redis; return None while it is unavailable."""
        if self._unavailable:
            return None
        try:
            answer = await command()
        except AWAY as error:
            log.warning("cache.unavailable", reason=str(error) or type(error).__name__)
            self._unavailable_until = time.monotonic() + REDIS_PAUSE_S
            _UP.set(0)
            return None
        _UP.set(1)
        return answer
