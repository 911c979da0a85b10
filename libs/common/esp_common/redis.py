"""Redis: a client that would rather fail soon than keep a request waiting."""

from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

TIMEOUT_S: Final = 0.5
AWAY: Final = (RedisError, OSError, TimeoutError)
"""What a client raises when Redis is away or does not answer in time."""


def connect_redis(url: str, *, timeout_s: float = TIMEOUT_S) -> Redis:
    """Return a client of the Redis at `url` that waits `timeout_s` at most; connects when first asked.

    It tries once more at once, since a connection kept from before a restart is found dead only when used.
    """
    return Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 1)
    )
