"""Messages that were stored before, remembered in Redis: a shortcut past the database, never the judge."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

import structlog
from esp_common.redis import connect_redis
from prometheus_client import Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger()

AWAY_S: Final = 5.0
"""How long Redis is left alone after it failed, lest each flush waits for its timeout."""

_UP = Gauge("esp_ingest_seen_up", "1 while Redis remembers stored messages, 0 while the database decides.")
_REMEMBER: Final = """
for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1]) end
"""


def seen_key(era: str, gateway_id: str, message_id: str | None, body: bytes) -> str:
    """Return the key of a message: the same bytes under the same name from the same gateway.

    `era`: of the database that it is stored in. One that was restored may lack what Redis remembers.
    """
    name = f"{era}\0{gateway_id}\0{message_id or ''}\0".encode(errors="replace")
    return "ingest:seen:" + blake2b(name + body, digest_size=16).hexdigest()


class SeenMessages:
    """Which messages were stored, and how many readings each held. Does without Redis when it is away."""

    def __init__(self, redis: Redis, ttl_s: int) -> None:
        self._redis = redis
        self._ttl_s = ttl_s
        self._away_until: float | None = None

    async def readings_of(self, keys: Sequence[str]) -> Sequence[int | None]:
        """Return how many readings each known message held; None for one that is not known."""
        found = await self._ask(lambda: self._redis.mget(keys)) if keys else None
        return [None] * len(keys) if found is None else [each and int(each) for each in found]

    async def remember(self, readings: Mapping[str, int]) -> None:
        """Note stored messages, so that they need not be stored again."""
        if readings:
            values = (self._ttl_s, *readings.values())
            await self._ask(lambda: self._redis.eval(_REMEMBER, len(readings), *readings, *values))

    async def close(self) -> None:
        """Close the connection."""
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _ask(self, question: Any) -> Any:
        if self._away_until is not None and time.monotonic() < self._away_until:
            return None
        try:
            answer = await question()
        except (RedisError, OSError, TimeoutError) as error:
            if self._away_until is None:
                log.warning("redis.lost", error=str(error), effect="the database finds duplicates")
            self._away_until = time.monotonic() + AWAY_S
            _UP.set(0)
            return None
        if self._away_until is not None:
            log.info("redis.back")
        self._away_until = None
        _UP.set(1)
        return answer


def connect(url: str, ttl_s: int) -> SeenMessages:
    """Return the memory of stored messages kept at `url`; connects when first asked."""
    return SeenMessages(connect_redis(url), ttl_s)
