"""The live stream between the worker and the API: Redis pub/sub, a channel for each field.

Every message is a JSON object with `kind`, `field_id`, `pump_id` (null if it concerns no pump) and `time`
(ISO 8601, UTC), plus further members by kind:

- `reading`: `state`, `running`, `values` {channel: value}
- `status`: `state`, `since`, `health`, `gauge_fault`, `hypotheses`
- `finding`: `finding_id`, `change` (raised, changed, cleared), `condition`, `severity`, `confidence`
- `alert`: `alert_id`, `change`, `condition`, `priority`, `state`, `title`

Pub/sub stores nothing: a new subscriber reads the present state from the API, then follows the stream.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Final

import orjson
import structlog
from esp_common.redis import AWAY, connect_redis
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

log = structlog.get_logger()

CHANNEL_PREFIX: Final = "diagnostics:live:"
EVERY_CHANNEL: Final = "diagnostics:*"
"""Subscription pattern; Redis compares it literally with the ACL of its user."""
PAUSE_S: Final = 1.0
"""Pause after Redis did not respond, so that the worker does not wait for timeouts."""

RETRY_S: Final = 1.0
QUIET_S: Final = 5.0
"""Time without a message after which Redis is pinged, and time that it has to respond."""
EVERY: Final = "*"
"""Placeholder for all fields, including messages without one."""

KINDS: Final[Mapping[str, str]] = {
    "reading": "telemetry:read",
    "status": "diagnostics:read",
    "finding": "diagnostics:read",
    "alert": "alerts:read",
}
"""Permission required for each kind of message."""

_PUBLISHED: Final = Counter("esp_diagnostics_live_published_total", "Live messages accepted by Redis.")
_DROPPED: Final = Counter(
    "esp_diagnostics_live_dropped_total", "Live messages dropped because Redis was unavailable."
)
_HEARD: Final = Counter("esp_diagnostics_live_heard_total", "Live messages received from Redis.")
_SKIPPED: Final = Counter(
    "esp_diagnostics_live_skipped_total", "Live messages skipped for slow clients in favour of newer ones."
)
_LISTENING: Final = Gauge("esp_diagnostics_live_listening", "1 while subscribed to Redis for live clients.")


def channel_of(field_id: str | None) -> str:
    """Return the channel of a field's messages; None: messages without a field."""
    return CHANNEL_PREFIX + (field_id or "")


class LivePublisher:
    """Publish live messages; drop and count them while Redis is unavailable.

    `redis`: a client with short timeouts (`esp_common.redis.connect_redis`); its owner closes it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._paused_until = float("-inf")
        self._away = False

    async def publish(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Publish `messages`, each on the channel of its `field_id`, in one round trip."""
        if not messages:
            return
        if time.monotonic() < self._paused_until:
            _DROPPED.inc(len(messages))
            return
        try:
            await self._send(messages)
        except AWAY as error:
            self._paused_until = time.monotonic() + PAUSE_S
            _DROPPED.inc(len(messages))
            self._log_availability(away=True, reason=str(error) or type(error).__name__)
        else:
            _PUBLISHED.inc(len(messages))
            self._log_availability(away=False)

    async def _send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for message in messages:
            pipeline.publish(channel_of(message["field_id"]), _encode(message))
        await pipeline.execute()

    def _log_availability(self, *, away: bool, reason: str | None = None) -> None:
        if away != self._away:
            self._away = away
            log.warning("live.redis", away=away, reason=reason)


def _encode(message: Mapping[str, Any]) -> bytes:
    # Values of the worker are numpy types; NaN (not measured) becomes null.
    return orjson.dumps(
        dict(message), option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
    )


class Mailbox:
    """Pending messages of one client: the newest per subject, at most `limit` characters in total.

    A fast client gets every message. A slow client gets the newest message of each pump or alert; beyond
    `limit` the oldest are dropped. `skipped` counts missed messages.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._waiting: OrderedDict[Hashable, str] = OrderedDict()
        self._available = asyncio.Event()
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, about: Hashable, text: str, *, counts: bool = True) -> None:
        """Queue `text`, replacing a pending message `about` the same subject; never blocks.

        `counts`: whether a replaced message counts as skipped.
        """
        before = self._waiting.get(about)
        if before is not None:
            self._size -= len(before)
            self.skipped += counts
            _SKIPPED.inc(counts)
        self._waiting[about] = text
        self._size += len(text)
        while self._size > self._limit and len(self._waiting) > 1:
            _, oldest = self._waiting.popitem(last=False)
            self._size -= len(oldest)
            self.skipped += 1
            _SKIPPED.inc()
        self._available.set()

    async def take(self) -> str:
        """Return the oldest pending message; wait for one."""
        while not self._waiting:
            self._available.clear()
            await self._available.wait()
        _, text = self._waiting.popitem(last=False)
        self._size -= len(text)
        return text


class Subscriber:
    """One client of the stream: permitted kinds, subscriptions and pending messages."""

    def __init__(self, kinds: Collection[str], limit: int) -> None:
        self.kinds = frozenset(kinds)
        self.pumps: set[str] = set()
        self.fields: set[str] = set()
        self.mailbox = Mailbox(limit)

    def permit(self, kinds: Collection[str]) -> None:
        """Set the permitted kinds of messages."""
        self.kinds = frozenset(kinds)

    def select(self, pumps: set[str], fields: set[str]) -> None:
        """Set the subscribed pumps and fields."""
        self.pumps, self.fields = pumps, fields


class LiveHub:
    """Subscribe to Redis once for all clients of this process, while there are any.

    Run `run()` beside the application. Each subscriber receives `{"kind": "stream", "live": true}` whenever
    the Redis subscription starts, also after an interruption, during which messages may have been missed.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._subscribers: set[Subscriber] = set()
        self._by_pump: dict[str, set[Subscriber]] = {}
        self._by_field: dict[str, set[Subscriber]] = {}
        self._has_subscribers = asyncio.Event()
        self.live = False

    async def run(self) -> None:
        """Receive until cancelled; reconnect whenever Redis becomes available."""
        redis = connect_redis(self._redis_url)
        try:
            while True:
                await self._has_subscribers.wait()
                try:
                    async with redis.pubsub() as pubsub:
                        await self._receive(pubsub)
                    self._set_live(live=False)
                except AWAY as error:
                    self._set_live(live=False, reason=str(error) or type(error).__name__)
                    await asyncio.sleep(RETRY_S)
        finally:
            await redis.aclose()

    def join(self, subscriber: Subscriber) -> None:
        """Add a subscriber and send it the present stream state."""
        self._subscribers.add(subscriber)
        self._has_subscribers.set()
        _send_stream_state(subscriber, live=self.live)

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        self.subscribe(subscriber, pumps=(), fields=())
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            self._has_subscribers.clear()

    def subscribe(self, subscriber: Subscriber, *, pumps: Collection[str], fields: Collection[str]) -> None:
        """Set the pumps and fields of a subscriber; a field may be `EVERY`."""
        _reindex(self._by_pump, subscriber, subscriber.pumps, set(pumps))
        _reindex(self._by_field, subscriber, subscriber.fields, set(fields))
        subscriber.select(set(pumps), set(fields))

    def deliver(self, data: bytes) -> None:
        """Queue a message from Redis for the subscribers that requested and may receive it."""
        message = orjson.loads(data)
        kind, pump_id, field_id = message["kind"], message["pump_id"], message["field_id"]
        about = (kind, message.get("finding_id") or message.get("alert_id") or pump_id)
        text = data.decode()
        none: set[Subscriber] = set()
        recipients = self._by_pump.get(pump_id, none) | self._by_field.get(EVERY, none)
        for subscriber in recipients | self._by_field.get(field_id, none):
            if kind in subscriber.kinds:
                subscriber.mailbox.put(about, text)

    async def _receive(self, pubsub: PubSub) -> None:
        """Deliver messages while there are subscribers; raise one of AWAY if Redis is unavailable."""
        await pubsub.psubscribe(EVERY_CHANNEL)
        pinged = False
        while self._subscribers:
            message = await pubsub.get_message(timeout=QUIET_S)
            if message is not None:
                pinged = False
                self._handle(message)
            elif pinged:
                raise TimeoutError(f"Redis has not answered for {QUIET_S:g} s")
            else:
                # A broken connection looks like a silent field, so ping.
                await pubsub.ping()
                pinged = True

    def _handle(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "psubscribe":
            self._set_live(live=True)  # the client library subscribes again by itself when it reconnects
        elif message["type"] == "pmessage":
            _HEARD.inc()
            try:
                self.deliver(message["data"])
            except (ValueError, KeyError, TypeError):
                log.exception("live.unreadable", channel=message["channel"])

    def _set_live(self, *, live: bool, reason: str | None = None) -> None:
        if live or self.live:
            log.info("live.subscription", live=live, reason=reason, subscribers=len(self._subscribers))
        self.live = live
        _LISTENING.set(live)
        for subscriber in self._subscribers:
            _send_stream_state(subscriber, live=live)


def _reindex(
    index: dict[str, set[Subscriber]], subscriber: Subscriber, before: set[str], now: set[str]
) -> None:
    for name in before - now:
        index[name].discard(subscriber)
        if not index[name]:
            del index[name]
    for name in now - before:
        index.setdefault(name, set()).add(subscriber)


def _send_stream_state(subscriber: Subscriber, *, live: bool) -> None:
    subscriber.mailbox.put("stream", orjson.dumps({"kind": "stream", "live": live}).decode(), counts=False)
