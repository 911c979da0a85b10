"""The live stream between the worker and the API: Redis pub/sub, a channel for each field.

Every message is one JSON object with `kind`, `field_id`, `pump_id` (null when it is about no pump) and `time`
(ISO 8601, UTC), and then, by kind:

- `reading`: `state`, `running`, `values` {channel: value}
- `status`: `state`, `since`, `health`, `gauge_fault`, `hypotheses`
- `finding`: `finding_id`, `change` (raised, changed, cleared), `condition`, `severity`, `confidence`
- `alert`: `alert_id`, `change`, `condition`, `priority`, `state`, `title`

Pub/sub keeps nothing: who was not listening asks the API for what is now, and then listens.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import structlog
from esp_common.redis import AWAY
from prometheus_client import Counter
from redis.asyncio import Redis

log = structlog.get_logger()

CHANNEL_PREFIX: Final = "diagnostics:live:"
PAUSE_S: Final = 1.0
"""How long nothing is sent after Redis did not answer: its user has readings to judge meanwhile."""

_PUBLISHED: Final = Counter("esp_diagnostics_live_published_total", "Live messages that Redis took.")
_DROPPED: Final = Counter(
    "esp_diagnostics_live_dropped_total", "Live messages dropped because Redis was away."
)


def channel_of(field_id: str | None) -> str:
    """Return the channel of a field's messages; None: of those that are about no field."""
    return CHANNEL_PREFIX + (field_id or "")


class LivePublisher:
    """Tells whoever listens what has just happened; with Redis away it is dropped, counted and forgotten.

    `redis`: a client that gives up soon (`esp_common.redis.connect_redis`); its owner closes it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._silent_until = float("-inf")
        self._away = False

    async def publish(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Send `messages`, each on the channel of its `field_id`, in one round trip."""
        if not messages:
            return
        if time.monotonic() < self._silent_until:
            _DROPPED.inc(len(messages))
            return
        try:
            await self._send(messages)
        except AWAY as error:
            self._silent_until = time.monotonic() + PAUSE_S
            _DROPPED.inc(len(messages))
            self._tell(away=True, reason=str(error) or type(error).__name__)
        else:
            _PUBLISHED.inc(len(messages))
            self._tell(away=False)

    async def _send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for message in messages:
            pipeline.publish(channel_of(message["field_id"]), _encode(message))
        await pipeline.execute()

    def _tell(self, *, away: bool, reason: str | None = None) -> None:
        if away != self._away:
            self._away = away
            log.warning("live.redis", away=away, reason=reason)


def _encode(message: Mapping[str, Any]) -> bytes:
    # The worker's values are numpy's; NaN (not measured) becomes null.
    return orjson.dumps(
        dict(message), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
    )
