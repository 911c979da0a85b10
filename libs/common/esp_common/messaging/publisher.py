"""Publish and know that the broker has it; ask and get an answer."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

import structlog
from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from esp_common import topology
from esp_common.errors import BrokerUnavailable, Nacked, PublishRefused, Unroutable
from esp_common.messaging.delivery import Delivery
from esp_common.messaging.link import Link
from esp_common.messaging.properties import short_text

log = structlog.get_logger()

PUBLISH_TIMEOUT_S: Final = 30.0
START_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 2.0
_FRAME_OVERHEAD: Final = 8
NACKED_PATIENCE_S: Final = 1.0
"""How long an exchange refuses everything before the channel is opened again; doubles until it confirms.

A channel can go on refusing for ever after a queue behind it was full once.
"""
NACKED_MAX_PATIENCE_S: Final = 30.0
NACKED_RECENTLY_S: Final = 10.0
"""For how long after its last refusal, without a confirm since, an exchange counts as refusing."""
_PERSISTENT, _TRANSIENT = 2, 1
_REFUSALS: Final = (ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed)
"""Why the broker closes a channel that it would close again for the same message."""

_QUESTION: Final = "esp-question"
"""Header of an answer: the digest of what was asked."""


@dataclass(slots=True)
class _Pending:
    """A message on its way: what names it, and who waits for its confirm."""

    confirmed: "asyncio.Future[None]"
    exchange: str
    routing_key: str
    message_id: str


class Publisher(Link):
    """Publishes with confirms, many at a time, over one connection that it keeps open itself.

    `async with Publisher(url) as publisher:` or `start()` and `close()`. Starting waits a few seconds for
    the broker but does not fail without it. Needs no right but to write to the exchange.
    """

    def __init__(self, url: str, *, name: str = "publisher", timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        super().__init__(url, name=name, confirms=True)
        self._timeout_s = timeout_s
        self._pending: dict[int, _Pending] = {}
        self._last_tag = 0
        self._ready = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._nacked: dict[str, float] = {}
        self._patience_s = NACKED_PATIENCE_S
        self._reopening: asyncio.TimerHandle | None = None

    @property
    def obstacle(self) -> str | None:
        """Why the broker takes no messages from here now; None when it does. For a role's readiness.

        Refused audit records do not count: they are spooled until the broker takes them, and a role that
        answers requests all the same must not be taken out of service for them.
        """
        if not self.connected:
            return "not connected"
        if self.blocked:
            return "the broker takes no messages: its disk or memory alarm is on"
        oldest = time.monotonic() - NACKED_RECENTLY_S
        refusing = sorted(
            exchange
            for exchange, nacked_at in self._nacked.items()
            if nacked_at > oldest and exchange != topology.AUDIT
        )
        return f"the broker refuses messages to {', '.join(refusing)}: a queue is full" if refusing else None

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Connect in the background; return when connected or after `timeout_s`."""
        self._running = asyncio.create_task(self.run(), name=f"{self._name}.run")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), timeout_s)

    async def until_ready(self, timeout_s: float) -> bool:
        """Return whether it is connected, waiting up to `timeout_s` for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        return self.connected

    async def close(self) -> None:
        """Close the connection; what is still in flight raises BrokerUnavailable."""
        await self.stop()
        if self._reopening is not None:
            self._reopening.cancel()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=_CLOSE_TIMEOUT_S)
            self._running.cancel()  # it may be waiting for a broker that is away
            await asyncio.wait([self._running])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        message_id: str | None = None,
        mandatory: bool = True,
        persistent: bool = True,
    ) -> None:
        """Publish one message and return once the broker has confirmed it.

        Raises Unroutable (mandatory, and no queue takes it), Nacked (the broker refused to keep it),
        BrokerUnavailable (not connected, connection lost meanwhile, no confirm in time) or its kind
        PublishRefused (the broker closed the channel over this message or one in flight beside it). After
        all but the first the message may or may not be stored: publish it again under the same `message_id`.
        """
        properties = commands.Basic.Properties(
            content_type=_short(content_type),
            headers=dict(headers) if headers else None,
            delivery_mode=_PERSISTENT if persistent else _TRANSIENT,
            message_id=_short(message_id or uuid4().hex),
            user_id=self._user,
        )
        await self._publish(exchange, _short(routing_key), body, properties, mandatory)

    async def reply(self, question: Delivery, body: bytes) -> None:
        """Answer a request; nobody hears of it when whoever asked is gone."""
        properties = commands.Basic.Properties(
            content_type="application/json",
            correlation_id=question.correlation_id,
            message_id=uuid4().hex,
            headers={_QUESTION: _digest(question.routing_key, question.body)},
            delivery_mode=_TRANSIENT,
        )
        # Not mandatory: RabbitMQ 3.10 returns such an answer as unroutable though it delivers it.
        await self._publish("", question.reply_to or "", body, properties, mandatory=False)

    async def _publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: commands.Basic.Properties,
        mandatory: bool,
    ) -> None:
        tag, pending = 0, None
        try:
            async with asyncio.timeout(self._timeout_s):
                # The tag of a message is its position on the wire, so number and write under one lock.
                async with self._writing:
                    if not self.connected:
                        raise BrokerUnavailable(f"not connected to the broker, publishing to {exchange}")
                    if self.blocked:
                        raise BrokerUnavailable(
                            "the broker takes no messages: its disk or memory alarm is on"
                        )
                    confirmed = asyncio.get_running_loop().create_future()
                    self._last_tag += 1
                    tag = self._last_tag
                    pending = self._pending[tag] = _Pending(
                        confirmed, exchange, routing_key, properties.message_id or ""
                    )
                    await self._write(exchange, routing_key, body, properties, mandatory)
                await confirmed
        except TimeoutError:
            raise BrokerUnavailable(f"no confirm from {exchange} in {self._timeout_s} s") from None
        finally:
            # On another channel by now, the tag may be another message's.
            if pending is not None and self._pending.get(tag) is pending:
                del self._pending[tag]

    async def _write(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: commands.Basic.Properties,
        mandatory: bool,
    ) -> None:
        assert self._connection is not None  # noqa: S101 - connected
        channel = self._channel
        room = self._connection.connection_tune.frame_max - _FRAME_OVERHEAD
        parts = [body] if len(body) <= room else [body[at : at + room] for at in range(0, len(body), room)]
        try:
            await self._send(
                commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory),
                ContentHeader(properties=properties, body_size=len(body)),
                *(ContentBody(part) for part in parts if part),
            )
        except BaseException as error:
            if self._channel is channel:
                self._last_tag -= 1  # never written, so the next message is the one the broker counts
            if isinstance(error, ConnectionError):
                raise BrokerUnavailable(f"connection lost publishing to {exchange}") from None
            raise

    async def _opened(self, channel: AbstractChannel) -> None:
        self._last_tag = 0
        self._ready.set()

    def _on_frame(self, frame: Any, header: ContentHeader | None, body: bytes) -> None:
        if isinstance(frame, commands.Basic.Return):
            self._on_return(frame, header)
        elif frame.multiple:
            for tag in [tag for tag in self._pending if tag <= frame.delivery_tag]:
                self._settle(tag, frame)
        else:
            self._settle(frame.delivery_tag, frame)

    def _settle(self, tag: int, frame: commands.Basic.Ack | commands.Basic.Nack) -> None:
        pending = self._pending.pop(tag, None)
        if pending is None:
            return
        if isinstance(frame, commands.Basic.Ack):
            if self._nacked:
                self._on_ack(pending.exchange)
        else:
            self._on_nack(pending.exchange)
        if pending.confirmed.done():
            return
        if isinstance(frame, commands.Basic.Ack):
            pending.confirmed.set_result(None)
        else:
            pending.confirmed.set_exception(Nacked(f"{pending.exchange} refused {pending.routing_key}"))

    def _on_ack(self, exchange: str) -> None:
        if self._nacked.pop(exchange, None) is not None:
            self._patience_s = NACKED_PATIENCE_S

    def _on_nack(self, exchange: str) -> None:
        self._nacked[exchange] = time.monotonic()
        if self._reopening is None:
            loop = asyncio.get_running_loop()
            self._reopening = loop.call_later(self._patience_s, self._reopen_if_refusing)

    def _reopen_if_refusing(self) -> None:
        """Open the channel again unless messages are confirmed meanwhile; those in flight are lost to it."""
        self._reopening = None
        if self._nacked and self.connected:
            log.warning("broker.refuses", link=self._name, exchanges=sorted(self._nacked))
            self._patience_s = min(2 * self._patience_s, NACKED_MAX_PATIENCE_S)
            self._lost.set()

    def _on_return(self, frame: commands.Basic.Return, header: ContentHeader | None) -> None:
        # A return carries no tag. The broker sends it before the confirm, and messages that agree in
        # all of these share their fate.
        returned = (frame.exchange, frame.routing_key, header.properties.message_id if header else "")
        for pending in self._pending.values():
            same = (pending.exchange, pending.routing_key, pending.message_id) == returned
            if same and not pending.confirmed.done():
                error = Unroutable(f"no queue takes {frame.exchange} {frame.routing_key}: {frame.reply_text}")
                pending.confirmed.set_exception(error)
                return

    def _closed(self) -> None:
        self._ready.clear()
        lost, self._pending = self._pending, {}
        for pending in lost.values():
            if not pending.confirmed.done():
                pending.confirmed.set_exception(self._loss(pending))

    def _loss(self, pending: _Pending) -> BrokerUnavailable:
        if isinstance(self.failure, _REFUSALS):
            return PublishRefused(f"the broker closed the channel: {self.failure}")
        return BrokerUnavailable(f"connection lost before {pending.exchange} confirmed")


def _short(text: str) -> str:
    """Return `text` as it is read again: a returned message is known by it."""
    return short_text(text.encode(errors="backslashreplace"))


def _digest(routing_key: str, body: bytes) -> str:
    return hashlib.sha256(routing_key.encode() + b"\0" + body).hexdigest()


class _Asked(NamedTuple):
    """A question under way: the digest its answer has to bear, and who waits for that."""

    digest: str
    reply: "asyncio.Future[bytes]"


class Requester(Publisher):
    """A publisher that can also ask: request and reply over the broker's direct reply-to.

    Any number of requests may be under way; requests are transient, mandatory and expire unanswered. An
    answer says to what: whoever sees a question knows where its answer goes, and could have another
    question's sent there.
    """

    _REPLIES: Final = "amq.rabbitmq.reply-to"

    def __init__(self, url: str, *, name: str = "requester", timeout_s: float = PUBLISH_TIMEOUT_S) -> None:
        super().__init__(url, name=name, timeout_s=timeout_s)
        self._asked: dict[str, _Asked] = {}

    async def request(self, exchange: str, routing_key: str, body: bytes, *, timeout_s: float) -> bytes:
        """Return the body of the answer; raise Unroutable or BrokerUnavailable when nobody gives one."""
        correlation_id = uuid4().hex
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[correlation_id] = _Asked(_digest(routing_key, body), reply)
        properties = commands.Basic.Properties(
            content_type="application/json",
            correlation_id=correlation_id,
            message_id=correlation_id,
            reply_to=self._REPLIES,
            user_id=self._user,
            delivery_mode=_TRANSIENT,
            expiration=str(int(timeout_s * 1000)),
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self._publish(exchange, routing_key, body, properties, mandatory=True)
                return await reply
        except TimeoutError:
            raise BrokerUnavailable(f"no answer to {routing_key} in {timeout_s} s") from None
        finally:
            del self._asked[correlation_id]
            reply.cancel()

    async def _opened(self, channel: AbstractChannel) -> None:
        # Deliveries go to `_on_frame`; the callback is only what aiormq's signature asks for.
        await channel.basic_consume(self._REPLIES, lambda _: None, no_ack=True)  # type: ignore[arg-type,return-value]
        await super()._opened(channel)

    def _on_frame(self, frame: Any, header: ContentHeader | None, body: bytes) -> None:
        if not isinstance(frame, commands.Basic.Deliver):
            super()._on_frame(frame, header, body)
        elif header is not None:
            self._on_answer(header.properties, body)

    def _on_answer(self, properties: commands.Basic.Properties, body: bytes) -> None:
        asked = self._asked.get(properties.correlation_id or "")
        if asked is None or asked.reply.done():
            return
        if (properties.headers or {}).get(_QUESTION) == asked.digest:
            asked.reply.set_result(body)
        else:
            log.warning("broker.answer-to-another-question", link=self._name)

    def _closed(self) -> None:
        super()._closed()
        for asked in self._asked.values():
            if not asked.reply.done():
                asked.reply.set_exception(BrokerUnavailable("connection lost before the answer came"))
