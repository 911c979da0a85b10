"""Redis client that fails fast instead of delaying a request.

`redis_url` names one server, `redis(s)://user:password@host:6379/0`, or the Sentinels that know the current
master: `redis(s)+sentinel://user:password@host:26379,host:26379/service/0`. The login is that of the servers;
that of the Sentinels is `?sentinel_username=…&sentinel_password=…`. Redis Cluster is refused: see
`docs/operating.md`.
"""

from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from esp_common.urls import sentinel_service, sentinels

TIMEOUT_S: Final = 0.5
AWAY: Final = (RedisError, OSError, TimeoutError)
"""Errors of a Redis that is unavailable or does not answer in time."""

_SENTINEL_LOGIN: Final = ("username", "password")


def connect_redis(url: str, *, timeout_s: float = TIMEOUT_S) -> Redis:
    """Return a client of the Redis at `url` with a timeout of `timeout_s`; it connects on first use.

    It retries once immediately, since a pooled connection from before a restart fails only when used.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 1),
    }
    parts = urlsplit(url)
    if not parts.scheme.endswith("+sentinel"):
        return Redis.from_url(url, **options)
    return _master_of(parts, options)


def _master_of(parts: SplitResult, options: dict[str, Any]) -> Redis:
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    own = {name: value for name in _SENTINEL_LOGIN if (value := query.get(f"sentinel_{name}"))}
    tls: dict[str, Any] = {}
    if parts.scheme == "rediss+sentinel":
        tls = {"ssl": True, "ssl_ca_certs": query.get("ssl_ca_certs")}
    service, database = sentinel_service(parts)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        sentinels(parts), sentinel_kwargs={**options, **tls, **own}
    )
    master: Redis = sentinel.master_for(
        service,
        db=database,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        **options,
        **tls,
    )
    return master
