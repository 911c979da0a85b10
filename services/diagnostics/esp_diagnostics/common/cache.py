"""Answers kept in Redis: a question, from whomever may ask it, is worked out once and not again soon.

Redis is a shortcut, never the judge: with Redis away each process works every question out for itself.
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
FORM: Final = 1
"""Of keys and answers; a release that changes either takes the next number, and finds nothing of the old."""

AWAY_S: Final = 2.0
"""How long Redis is left alone after it failed, lest each request waits for its timeout."""

LOCK_S: Final = 10.0
"""How long others wait for the process that works an answer out; then they do it themselves."""

POLL_S: Final = 0.02
REFRESHED_AFTER: Final = 0.4
REFRESHED_WITHIN_S: Final = 30.0
"""An answer that is asked for is renewed in the background after this share of its time, near its end."""

_HEADER: Final = struct.Struct(">d16s")
_UNLOCK: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"

_ANSWERS: Final = Counter(
    "esp_diagnostics_cache_answers_total",
    "Answers: kept (hit), worked out (made), or awaited from whoever worked them out (shared).",
    ["kind", "outcome"],
)
_RATIO: Final = Gauge(
    "esp_diagnostics_cache_hit_ratio", "Share of answers, since the process began, that were kept ones."
)
_UP: Final = Gauge("esp_diagnostics_cache_up", "1 while answers are kept in Redis, 0 while it is away.")


@dataclass(frozen=True, slots=True)
class Answer:
    """A body, when it was worked out (epoch seconds), and its entity tag."""

    body: bytes
    made_at: float
    etag: str

    @classmethod
    def of(cls, body: bytes) -> "Answer":
        """Return `body` as worked out now."""
        return cls(body, time.time(), blake2b(body, digest_size=16).hexdigest())

    @property
    def age_s(self) -> float:
        """Seconds since it was worked out."""
        return max(time.time() - self.made_at, 0.0)


Compute = Callable[[], Awaitable[bytes]]


def cache_key(rights: str, kind: str, *question: object) -> str:
    """Return the key of a question that callers with `rights` may ask.

    Whoever may see less has other rights, and so never meets what was worked out for those who may see more.
    """
    asked = orjson.dumps([FORM, rights, kind, *question])
    return PREFIX + kind + ":" + blake2b(asked, digest_size=20).hexdigest()


class AnswerCache:
    """Keeps answers for as long as the caller says, and has each worked out by one caller at a time.

    In one process callers with the same question share one computation, between processes a lock in Redis
    has the others wait for it. An answer that nears its end is renewed in the background when it is asked
    for, so that a question that is asked all the time never waits; none is given past its whole time.
    """

    def __init__(self, redis: Redis, max_bytes: int) -> None:
        self._redis = redis
        self._max_bytes = max_bytes
        self._making: dict[str, asyncio.Task[Answer]] = {}
        self._away_until = 0.0
        self._hits = self._all = 0

    async def get(self, kind: str, key: str, ttl_s: float, compute: Compute) -> Answer:
        """Return the answer kept under `key`, or what `compute` gives; `ttl_s` 0: nothing is kept."""
        if ttl_s <= 0:
            return Answer.of(await compute())
        kept = await self._read(key)
        if kept is not None and kept.age_s < ttl_s:
            if kept.age_s > max(REFRESHED_AFTER * ttl_s, ttl_s - REFRESHED_WITHIN_S):
                self._make(key, ttl_s, compute, kept)
            self._count(kind, "hit")
            return kept
        self._count(kind, "shared" if key in self._making else "made")
        while True:
            # Whoever asked first may go away: the others still wait for it.
            answer = await asyncio.shield(self._make(key, ttl_s, compute))
            if answer.age_s < ttl_s:
                return answer

    async def close(self) -> None:
        """Give up what is being worked out."""
        for task in self._making.values():
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    def _count(self, kind: str, outcome: str) -> None:
        self._all += 1
        self._hits += outcome == "hit"
        _ANSWERS.labels(kind, outcome).inc()
        _RATIO.set(self._hits / self._all)

    def _make(
        self, key: str, ttl_s: float, compute: Compute, kept: Answer | None = None
    ) -> asyncio.Task[Answer]:
        """Begin to work the answer out, unless that is going on; `kept`: one that serves meanwhile."""
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.create_task(self._work_out(key, ttl_s, compute, kept))
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def _forget(self, key: str, done: asyncio.Task[Answer]) -> None:
        del self._making[key]
        if not done.cancelled() and (error := done.exception()):
            # Who waits gets it raised; for an answer renewed in the background nobody does.
            log.debug("cache.not-made", key=key, reason=str(error))

    async def _work_out(self, key: str, ttl_s: float, compute: Compute, serving: Answer | None) -> Answer:
        lock, token = f"{key}:lock", token_hex(8)
        deadline = time.monotonic() + LOCK_S
        while not await self._lock(lock, token):
            if serving is not None:  # somebody else renews it
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
            await self._ask(lambda: self._redis.eval(_UNLOCK, 1, lock, token))

    async def _lock(self, lock: str, token: str) -> bool:
        """Return whether this caller has to work it out: it has the lock, or there is none to have."""
        taken = await self._ask(lambda: self._redis.set(lock, token, nx=True, px=int(LOCK_S * 1000)))
        return bool(taken) or self._is_away

    async def _read(self, key: str) -> Answer | None:
        kept = await self._ask(lambda: self._redis.get(key))
        if kept is None:
            return None
        made_at, etag = _HEADER.unpack_from(kept)
        return Answer(kept[_HEADER.size :], made_at, etag.hex())

    async def _write(self, key: str, ttl_s: float, answer: Answer) -> None:
        if len(answer.body) > self._max_bytes:
            return
        kept = _HEADER.pack(answer.made_at, bytes.fromhex(answer.etag)) + answer.body
        await self._ask(lambda: self._redis.set(key, kept, px=max(int(ttl_s * 1000), 1)))

    @property
    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until

    async def _ask(self, question: Callable[[], Any]) -> Any:
        """Return Redis' answer; None when it is away."""
        if self._is_away:
            return None
        try:
            answer = await question()
        except AWAY as error:
            log.warning("cache.away", reason=str(error) or type(error).__name__)
            self._away_until = time.monotonic() + AWAY_S
            _UP.set(0)
            return None
        _UP.set(1)
        return answer
