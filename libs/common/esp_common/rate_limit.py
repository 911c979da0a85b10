"""Rate limit per caller, counted in the process and shared with the others through Redis.

Requests never wait: each process counts by itself, and every second adds its counts to Redis and reads the
totals. A caller may exceed the limit by the requests that other processes served within a second. While Redis
is unavailable each process counts for itself.
"""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Final

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage

from esp_common.errors import RateLimited
from esp_common.redis import AWAY, connect_redis

log = structlog.get_logger()

WINDOW_S: Final = 60
SYNC_S: Final = 1.0


@dataclass(slots=True)
class _Count:
    """Requests of one caller in the window: counted here, already in Redis, and counted elsewhere."""

    here: int = 0
    told: int = 0
    elsewhere: int = 0


class RateLimiter:
    """Refuse a caller's requests above `per_minute` in a calendar minute; 0: no limit.

    Run `run()` beside the application. `redis_url` None: this process counts for itself.
    """

    def __init__(self, per_minute: int, redis_url: str | None = None) -> None:
        self._limit = per_minute
        self._item = RateLimitItemPerMinute(max(per_minute, 1))
        # The library's own counters, so that its other clients agree; the timeouts are ours.
        self._storage = (
            RedisStorage(
                "redis://",
                implementation="redispy",
                key_prefix="esp:rate",
                connection_pool=connect_redis(redis_url).connection_pool,  # type: ignore[arg-type]
            )
            if redis_url and per_minute
            else None
        )
        self._window = 0
        self._counts: dict[str, _Count] = {}
        self._away = False

    def hit(self, caller_id: str) -> None:
        """Count a request of `caller_id`; raise RateLimited above the limit."""
        if not self._limit:
            return
        now = time.time()
        self._turn(now)
        count = self._counts.get(caller_id)
        if count is None:
            count = self._counts[caller_id] = _Count()
        count.here += 1
        if count.here + count.elsewhere > self._limit:
            wait_s = max(1, math.ceil((self._window + 1) * WINDOW_S - now))
            raise RateLimited(
                f"more than {self._limit} requests in a minute",
                retry_after_s=wait_s,
                fix="send fewer, or batches",
            )

    async def run(self) -> None:
        """Exchange counts with the other processes until cancelled."""
        while True:
            await asyncio.sleep(SYNC_S)
            if self._storage is not None:
                try:
                    await self._exchange(self._storage)
                    self._tell(away=False)
                except AWAY as error:
                    self._tell(away=True, reason=str(error) or type(error).__name__)

    async def _exchange(self, storage: RedisStorage) -> None:
        self._turn(time.time())
        window, counts = self._window, self._counts
        for caller_id, count in list(counts.items()):
            new = count.here - count.told
            if new:
                key = self._item.key_for(caller_id, str(window))
                total = await storage.incr(key, WINDOW_S, amount=new)
                count.told += new
                count.elsewhere = total - count.told

    def _turn(self, now: float) -> None:
        window = int(now // WINDOW_S)
        if window != self._window:
            self._window, self._counts = window, {}

    def _tell(self, *, away: bool, reason: str | None = None) -> None:
        if away != self._away:
            self._away = away
            log.warning("rate-limit.redis", away=away, reason=reason)
