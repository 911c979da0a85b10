"""The hot path's consumer: a synchronous callback per delivery, acknowledgements in bulk."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import aio_pika
import structlog
from aiormq.abc import AbstractChannel
from pamqp import commands
from pamqp.header import ContentHeader

from esp_common import topology
from esp_common.amqp_nodes import connect_to_any
from esp_common.messaging.delivery import Delivery
from esp_common.messaging.link import LOST, Link

log = structlog.get_logger()

LINGER_S: Final = 1.0
"""How long a tag that is done may wait for the ones before it until it is acked by itself."""


class AckTracker:
    """Which tags of one channel are done, and what to tell the broker about it.

    Tags complete in any order; the broker is told of a contiguous run with one frame. A tag that has been
    acked or rejected by itself is settled: naming it again would make the broker close the channel.
    """

    def __init__(self) -> None:
        self._acked_through = 0
        self._done: set[int] = set()
        self._settled: set[int] = set()

    def done(self, tags: Iterable[int]) -> None:
        """Note that the effect of `tags` is durable."""
        self._done.update(tags)

    def settle(self, tag: int) -> None:
        """Note that the broker is told about `tag` in another way."""
        self._settled.add(tag)
        self._done.discard(tag)

    @property
    def waiting(self) -> bool:
        """Whether there are tags that are done and not yet acked."""
        return bool(self._done)

    def take_run(self) -> int | None:
        """Return the tag to ack with `multiple`: the end of the run from the oldest one, or None."""
        last, tag = None, self._acked_through + 1
        while tag in self._done or tag in self._settled:
            if tag in self._done:
                last = tag
                self._done.remove(tag)
            else:
                self._settled.remove(tag)
            tag += 1
        self._acked_through = tag - 1
        return last

    def take_singles(self) -> list[int]:
        """Return the tags that are done but wait for an older one, to be acked by themselves."""
        singles = sorted(self._done)
        self._settled.update(singles)
        self._done.clear()
        return singles


class LeanConsumer(Link):
    """Consumes one queue with manual acknowledgement, and consumes it again whatever happens.

    `on_message(delivery)` is called from the event loop for each message and must only take it in; when
    its effect is durable say so with `done`. A message never settled is delivered again once the channel
    closes. `service`: whose queues to declare again when they are gone (None: nothing is declared);
    `declare` declares what that does not.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        prefetch: int,
        on_message: Callable[[Delivery], None],
        service: str | None = None,
        declare: Callable[[aio_pika.abc.AbstractChannel], Awaitable[None]] | None = None,
        linger_s: float = LINGER_S,
    ) -> None:
        super().__init__(url, name=f"consumer {queue}", confirms=False)
        self._queue = queue
        self._prefetch = prefetch
        self._on_message = on_message
        self._service = service
        self._declare = declare
        self._linger_s = linger_s
        self._generation = 0
        self._consumer_tag: str | None = None
        self._tracker = AckTracker()
        self._settling = asyncio.Event()
        self._rejects: list[tuple[int, bool]] = []
        self._paused = False
        self._consuming: AbstractChannel | None = None

    @property
    def alive(self) -> bool:
        """Whether the broker has this consumer: its tag is registered on an open channel."""
        channel = self._channel
        return channel is not None and self.connected and self._consumer_tag in channel.consumers  # type: ignore[attr-defined]

    @property
    def paused(self) -> bool:
        """Whether it was told to take no more."""
        return self._paused

    async def run(self) -> None:
        """Consume until cancelled or stopped; acknowledgements given before that are sent."""
        settler = asyncio.create_task(self._settle_forever(), name=f"{self._name}.settle")
        try:
            await super().run()
        finally:
            settler.cancel()

    async def stop(self) -> None:
        """Send the acknowledgements given so far, close, and make `run` return."""
        with suppress(*LOST):
            await self._settle(linger=False)
        await super().stop()

    def done(self, deliveries: Iterable[Delivery]) -> None:
        """Ack deliveries whose effect is durable; those of an earlier channel come again, so are ignored."""
        generation = self._generation
        self._tracker.done(d.delivery_tag for d in deliveries if d.generation == generation)
        self._settling.set()

    def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        """Requeue one delivery, or (not `requeue`) dead-letter it.

        By `basic.reject`: from RabbitMQ 4.3 a `basic.nack` does not count towards the delivery limit, and a
        message that always fails would come again for ever.
        """
        if delivery.generation == self._generation:
            self._tracker.settle(delivery.delivery_tag)
            self._rejects.append((delivery.delivery_tag, requeue))
            self._settling.set()

    async def pause(self, *, give_back: bool = False) -> None:
        """Take no more; `give_back` also returns what is not settled (one delivery more on its count)."""
        self._paused = True
        if give_back:
            self._lost.set()
        elif self._channel is not None and self.alive:
            with suppress(*LOST):
                await self._cancel(self._channel)

    async def resume(self) -> None:
        """Take messages again."""
        self._paused = False
        if self.connected and not self.alive:
            await self._restart()

    async def limit(self, prefetch: int) -> None:
        """Have the broker send at most `prefetch` messages ahead from now on; what is held stays."""
        self._prefetch = prefetch
        if self.alive:
            # A limit holds for consumers that start after it.
            await self._restart()

    async def _restart(self) -> None:
        channel = self._channel
        assert channel is not None  # noqa: S101 - connected
        try:
            await self._cancel(channel)
            await self._consume(channel)
        except LOST:
            if self._channel is channel:
                self._lost.set()

    async def _opened(self, channel: AbstractChannel) -> None:
        self._generation += 1
        self._tracker = AckTracker()
        self._rejects.clear()
        channel.on_consumer_cancel_callbacks.add(self._on_cancel)
        if self._service is not None:
            await redeclare(self._url, self._service, self._declare)
        self._consumer_tag = None
        await self._consume(channel)

    async def _cancel(self, channel: AbstractChannel) -> None:
        tag, self._consumer_tag = self._consumer_tag, None
        if tag is not None:
            await channel.basic_cancel(tag)

    async def _consume(self, channel: AbstractChannel) -> None:
        """Consume as is wanted by now: a pause or another limit may come while the broker is asked."""
        if self._consuming is channel:
            return
        self._consuming = channel
        try:
            while not self._paused:
                prefetch = self._prefetch
                await self._start(channel, prefetch)
                if not self._paused and self._prefetch == prefetch:
                    return
                await self._cancel(channel)
        finally:
            if self._consuming is channel:
                self._consuming = None

    async def _start(self, channel: AbstractChannel, prefetch: int) -> None:
        await channel.basic_qos(prefetch_count=prefetch)
        # Deliveries go to `_on_frame`; the callback is only what aiormq's signature asks for.
        answer = await channel.basic_consume(self._queue, lambda _: None)  # type: ignore[arg-type,return-value]
        self._consumer_tag = answer.consumer_tag

    def _on_cancel(self, _: Any) -> None:
        """The broker ended the consumer (queue deleted or moved): start over."""
        self._lost.set()

    def _on_frame(self, frame: Any, header: ContentHeader | None, body: bytes) -> None:
        if header is not None:
            self._on_message(Delivery(frame, header, body, self._generation))

    async def _settle_forever(self) -> None:
        while True:
            try:
                await asyncio.wait_for(
                    self._settling.wait(), self._linger_s if self._tracker.waiting else None
                )
                linger = True
            except TimeoutError:
                linger = False
            self._settling.clear()
            with suppress(*LOST):  # the channel is gone, so everything unsettled comes again
                await self._settle(linger=linger)

    async def _settle(self, *, linger: bool) -> None:
        # Rejects go first: an ack of all up to a later tag would take theirs for done, and lose the message.
        rejects, self._rejects = self._rejects, []
        frames: list[commands.Basic.Ack | commands.Basic.Reject] = [
            commands.Basic.Reject(delivery_tag=tag, requeue=requeue) for tag, requeue in rejects
        ]
        if last := self._tracker.take_run():
            frames.append(commands.Basic.Ack(delivery_tag=last, multiple=True))
        if not linger:
            frames += [commands.Basic.Ack(delivery_tag=tag) for tag in self._tracker.take_singles()]
        if frames:
            await self._send(*frames)


async def redeclare(
    url: str,
    service: str,
    further: Callable[[aio_pika.abc.AbstractChannel], Awaitable[None]] | None = None,
) -> None:
    """Declare the service's queues, over a connection of its own: a mismatch must not close ours."""
    opening = connect_to_any(url, lambda node: aio_pika.connect(node, timeout=5))
    async with await opening as connection, connection.channel() as channel:
        await topology.declare(channel, service)
        if further is not None:
            await further(channel)
