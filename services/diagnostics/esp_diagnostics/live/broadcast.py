"""The live stream between the worker and the API: Redis pub/sub, a channel for each field.

Every message is one JSON object with `kind`, `field_id`, `pump_id` (null when it is about no pump) and `time`
(ISO 8601, UTC), and then, by kind:

- `reading`: `state`, `running`, `values` {channel: value}
- `status`: `state`, `since`, `health`, `gauge_fault`, `hypotheses`
- `finding`: `finding_id`, `change` (raised, changed, cleared), `condition`, `severity`, `confidence`
- `alert`: `alert_id`, `change`, `condition`, `priority`, `state`, `title`

Pub/sub keeps nothing: who was not listening asks the API for what is now, and then listens.
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
"""The pattern that is listened to: Redis compares it letter by letter with what its user may hear."""
PAUSE_S: Final = 1.0
"""How long nothing is sent after Redis did not answer: its user has readings to judge meanwhile."""

RETRY_S: Final = 1.0
QUIET_S: Final = 5.0
"""After this long without a message Redis is asked whether it is still there; as long again it may think."""
EVERY: Final = "*"
"""In place of a field: every field, and what is about none."""

KINDS: Final[Mapping[str, str]] = {
    "reading": "telemetry:read",
    "status": "diagnostics:read",
    "finding": "diagnostics:read",
    "alert": "alerts:read",
}
"""Kind of message → the permission to hear it."""

_PUBLISHED: Final = Counter("esp_diagnostics_live_published_total", "Live messages that Redis took.")
_DROPPED: Final = Counter(
    "esp_diagnostics_live_dropped_total", "Live messages dropped because Redis was away."
)
_HEARD: Final = Counter("esp_diagnostics_live_heard_total", "Live messages heard from Redis.")
_SKIPPED: Final = Counter(
    "esp_diagnostics_live_skipped_total", "Live messages a slow client did not get, for newer ones."
)
_LISTENING: Final = Gauge("esp_diagnostics_live_listening", "1 while Redis is heard for live clients.")


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


# --- the side that listens --------------------------------------------------------------------------------


class Mailbox:
    """What waits for one client: of each thing the newest, and no more than `limit` characters in all.

    A client as fast as its messages gets every one. One that is slower gets those of a pump or alert that are
    newest when its turn comes; beyond `limit` the longest waiting go first. `skipped` counts what it missed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._waiting: OrderedDict[Hashable, str] = OrderedDict()
        self._some = asyncio.Event()
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, about: Hashable, text: str, *, counts: bool = True) -> None:
        """Have `text` wait in the place of whatever waits `about` the same thing; never blocks.

        `counts`: what is replaced is something that the client missed.
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
        self._some.set()

    async def take(self) -> str:
        """Return what has waited longest; wait until there is something."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        _, text = self._waiting.popitem(last=False)
        self._size -= len(text)
        return text


class Listener:
    """One client of the stream: which kinds it may hear, what it asked for, and what waits for it."""

    def __init__(self, kinds: Collection[str], limit: int) -> None:
        self.kinds = frozenset(kinds)
        self.pumps: set[str] = set()
        self.fields: set[str] = set()
        self.mailbox = Mailbox(limit)


class LiveHub:
    """Hears Redis once for all clients of this process, while there are any.

    Run `run()` beside the application. Each listener is told `{"kind": "stream", "live": true}` whenever
    hearing begins, again after an interruption too: what was said before it may have been missed.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._listeners: set[Listener] = set()
        self._by_pump: dict[str, set[Listener]] = {}
        self._by_field: dict[str, set[Listener]] = {}
        self._anybody = asyncio.Event()
        self.live = False

    async def run(self) -> None:
        """Hear until cancelled, however often Redis goes away."""
        redis = connect_redis(self._redis_url)
        try:
            while True:
                await self._anybody.wait()
                try:
                    async with redis.pubsub() as pubsub:
                        await self._hear(pubsub)
                    self._turn(live=False)
                except AWAY as error:
                    self._turn(live=False, reason=str(error) or type(error).__name__)
                    await asyncio.sleep(RETRY_S)
        finally:
            await redis.aclose()

    def join(self, listener: Listener) -> None:
        """Begin to hear for `listener`, and tell it whether Redis is heard already."""
        self._listeners.add(listener)
        self._anybody.set()
        _tell_stream(listener, live=self.live)

    def leave(self, listener: Listener) -> None:
        """Hear no more for `listener`."""
        self.want(listener, pumps=(), fields=())
        self._listeners.discard(listener)
        if not self._listeners:
            self._anybody.clear()

    def want(self, listener: Listener, *, pumps: Collection[str], fields: Collection[str]) -> None:
        """Have `listener` hear about these pumps and fields and no others; a field may be `EVERY`."""
        _reindex(self._by_pump, listener, listener.pumps, set(pumps))
        _reindex(self._by_field, listener, listener.fields, set(fields))
        listener.pumps, listener.fields = set(pumps), set(fields)

    def deliver(self, data: bytes) -> None:
        """Put a message that came over Redis before whoever wants it and may hear it."""
        message = orjson.loads(data)
        kind, pump_id, field_id = message["kind"], message["pump_id"], message["field_id"]
        about = (kind, message.get("finding_id") or message.get("alert_id") or pump_id)
        text = data.decode()
        nobody: set[Listener] = set()
        wanting = self._by_pump.get(pump_id, nobody) | self._by_field.get(EVERY, nobody)
        for listener in wanting | self._by_field.get(field_id, nobody):
            if kind in listener.kinds:
                listener.mailbox.put(about, text)

    async def _hear(self, pubsub: PubSub) -> None:
        """Deliver messages while anybody listens; raise one of AWAY when Redis is gone."""
        await pubsub.psubscribe(EVERY_CHANNEL)
        asked = False
        while self._listeners:
            message = await pubsub.get_message(timeout=QUIET_S)
            if message is not None:
                asked = False
                self._take(message)
            elif asked:
                raise TimeoutError(f"Redis has not answered for {QUIET_S:g} s")
            else:
                # A connection whose other end is gone looks just like a field that is silent.
                await pubsub.ping()
                asked = True

    def _take(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "psubscribe":
            self._turn(live=True)  # the client library subscribes again by itself when it reconnects
        elif message["type"] == "pmessage":
            _HEARD.inc()
            try:
                self.deliver(message["data"])
            except (ValueError, KeyError, TypeError):
                log.exception("live.unreadable", channel=message["channel"])

    def _turn(self, *, live: bool, reason: str | None = None) -> None:
        if live or self.live:
            log.info("live.hearing", live=live, reason=reason, listeners=len(self._listeners))
        self.live = live
        _LISTENING.set(live)
        for listener in self._listeners:
            _tell_stream(listener, live=live)


def _reindex(index: dict[str, set[Listener]], listener: Listener, before: set[str], now: set[str]) -> None:
    for name in before - now:
        index[name].discard(listener)
        if not index[name]:
            del index[name]
    for name in now - before:
        index.setdefault(name, set()).add(listener)


def _tell_stream(listener: Listener, *, live: bool) -> None:
    listener.mailbox.put("stream", orjson.dumps({"kind": "stream", "live": live}).decode(), counts=False)
