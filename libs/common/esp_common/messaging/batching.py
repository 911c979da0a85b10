"""Consume a queue in batches: collect, hand over, acknowledge once the effect is durable.

Use it where many small messages become durable together. For messages that are each a piece of work see
`docs/decisions/no-faststream-on-hot-paths.md`.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from esp_common import database
from esp_common.messaging.batch import Batch, BatchHandler, BatchLimits, BatchMetrics, BatchRequeued, Refused
from esp_common.messaging.consumer import LeanConsumer
from esp_common.messaging.dead_letter import DeadLetterer
from esp_common.messaging.delivery import Delivery
from esp_common.messaging.outages import Action, OutageRetry
from esp_common.messaging.publisher import Publisher
from esp_common.messaging.suspects import SUSPICIOUS, groups, risk_limit
from esp_common.messaging.turns import select
from esp_common.roles import until_first_ends

log = structlog.get_logger()

FIRST_PREFETCH: Final = 1
"""Prefetch of a worker that has not yet processed a message: one that kills workers takes no others along."""

_DRAIN_POLL_S: Final = 0.01


class BatchConsumer:
    """Consumes one work queue and hands its messages to a handler in batches.

    `run` works until cancelled; `stop` drains. While more waits than a batch holds, sources take turns
    (`turns`); messages of one source stay in order. Messages that came back unprocessed are handled apart
    from others, in groups (`suspects`).
    """

    def __init__(
        self,
        url: str,
        queue: str,
        handler: BatchHandler,
        publisher: Publisher,
        limits: BatchLimits,
        metrics: BatchMetrics,
        *,
        is_outage: Callable[[Exception], bool] = database.is_outage,
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._metrics = metrics
        self.consumer: Final = LeanConsumer(
            url, queue, prefetch=FIRST_PREFETCH, on_message=self._take_in, service=queue.partition(".")[0]
        )
        self._dead_letters = DeadLetterer(publisher, queue)
        self._outage = OutageRetry(
            metrics.database_up,
            pause_s=limits.outage_pause_s,
            on_long_outage=self._requeue_all,
            is_outage=is_outage,
        )
        self._recovering: asyncio.Task[None] | None = None
        self._waiting: list[Delivery] = []
        self._suspects: list[Delivery] = []
        self._items = 0
        self._bytes = 0
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._slots = asyncio.Semaphore(limits.in_flight)
        self._handling: set[asyncio.Task[None]] = set()
        self._prefetch = FIRST_PREFETCH
        self._paused_for_memory = False
        self._draining = False
        self._failure: BaseException | None = None

    @property
    def alive(self) -> bool:
        """Whether the broker has its consumer, or it has paused on purpose."""
        return self.consumer.alive or self.consumer.paused

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not (self._waiting or self._suspects or self._handling)

    @property
    def stalled(self) -> bool:
        """Whether what is held, or was requeued, waits for the database."""
        return self._outage.active or self._recovering is not None

    async def run(self) -> None:
        """Consume until cancelled or stopped; raise on a defect of the consumer itself."""
        await until_first_ends(self.consumer.run(), self._handle_forever())

    async def stop(self, timeout_s: float) -> None:
        """Take no more, handle what is held for up to `timeout_s`, acknowledge it and end `run`."""
        self._draining = True
        await self.consumer.pause()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while not self.idle and clock() < deadline:
            self._due.set()
            await asyncio.sleep(_DRAIN_POLL_S)
        await self.consumer.stop()

    def _take_in(self, delivery: Delivery) -> None:
        """Hold a delivery; called for each message, so it does next to nothing."""
        suspect = delivery.redelivered and delivery.delivery_count >= SUSPICIOUS
        (self._suspects if suspect else self._waiting).append(delivery)
        self._bytes += len(delivery.body)
        self._items += self._handler.weigh(delivery)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limits.max_age_ms / 1000, self._due.set)
        held = len(self._waiting) + len(self._suspects)
        # Waiting for more than the broker may send ahead would only wait for the timer.
        if self._items >= self._limits.max_items or held * 3 >= self._prefetch:
            self._due.set()

    async def _handle_forever(self) -> None:
        try:
            while True:
                await self._due.wait()
                if self._failure is not None:
                    raise self._failure
                await self._apply_backpressure()
                await self._adjust_prefetch()
                await self._start_waiting()
                await self._start_suspects()
        finally:
            for task in self._handling:
                task.cancel()

    async def _apply_backpressure(self) -> None:
        """Pause consuming above the limit of held bodies, resume below half of it."""
        if self._metrics.held_bytes is not None:
            self._metrics.held_bytes.set(self._bytes)
        limit = self._limits.max_bytes
        if not self._paused_for_memory and self._bytes > limit:
            self._paused_for_memory = True
            log.warning("consumer.paused", held_mib=round(self._bytes / 2**20), reason="memory")
            await self.consumer.pause()
        elif self._paused_for_memory and self._bytes < limit / 2 and self._recovering is None:
            self._paused_for_memory = False
            await self._resume()

    async def _resume(self) -> None:
        if not self._draining:
            await self.consumer.resume()

    async def _adjust_prefetch(self) -> None:
        """Prefetch what fits into half the memory limit, and what may be at risk together.

        The broker sends all it may at once, and cancelling does not call that back; so a limit on messages
        alone would let large ones past any limit on bytes.
        """
        held = [*self._waiting, *self._suspects]
        if not held:
            return
        largest = max(len(delivery.body) for delivery in held)
        room = self._limits.max_bytes // 2 // max(1, largest)
        fitting = max(2, min(room, self._limits.max_prefetch))
        if self._suspects:
            fitting = min(fitting, risk_limit(self._suspects))
        too_many = fitting < self._prefetch and bool(self._suspects)
        if too_many or fitting < self._prefetch / 2 or fitting > self._prefetch * 1.5:
            self._prefetch = fitting
            await self.consumer.limit(fitting)

    def _take(self) -> list[Delivery]:
        """Return the messages of the next batch; the rest stays due."""
        handler = self._handler
        taken, self._waiting = select(self._waiting, self._limits.max_items, handler.weigh, handler.source_of)
        self._items = sum(map(handler.weigh, self._waiting))
        if not self._waiting:
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return taken

    async def _start_waiting(self) -> None:
        """Start one batch; messages that arrive while it waits for a slot take part in the selection."""
        await self._slots.acquire()
        if deliveries := self._take():
            self._start_in_slot(deliveries)
        else:
            self._slots.release()

    def _parts(self, deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
        """Split deliveries into batches of about `max_items`."""
        part: list[Delivery] = []
        items = 0
        for delivery in deliveries:
            part.append(delivery)
            items += self._handler.weigh(delivery)
            if items >= self._limits.max_items:
                yield part
                part, items = [], 0
        if part:
            yield part

    async def _start_suspects(self) -> None:
        """Handle what may be killing workers while nothing else is in a batch, a group at a time."""
        suspects, self._suspects = self._suspects, []
        for group in groups(suspects):
            for part in self._parts(group):
                if self._handling:
                    await asyncio.wait(self._handling)
                await self._start(part)

    async def _start(self, deliveries: Sequence[Delivery]) -> None:
        await self._slots.acquire()
        self._start_in_slot(deliveries)

    def _start_in_slot(self, deliveries: Sequence[Delivery]) -> None:
        task = asyncio.create_task(self._handle(deliveries))
        self._handling.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._handling.discard(task)
        self._slots.release()
        if not task.cancelled() and (failure := task.exception()):
            self._failure = failure
            self._due.set()
        elif self._paused_for_memory:
            self._due.set()

    async def _handle(self, deliveries: Sequence[Delivery], *, again: bool = False) -> None:
        """Handle a batch; halve one that fails until the failing messages are alone.

        `again`: it was tried as part of a larger batch.
        """
        repeated = again or any(delivery.redelivered for delivery in deliveries)
        try:
            with self._metrics.seconds.time():
                refused = await self._handler.handle(Batch(deliveries, repeated, self._outage.run))
        except BatchRequeued:
            self._release(deliveries)
        except Exception as error:
            if len(deliveries) == 1:
                self._release(deliveries)
                self._metrics.poison.inc()
                await self._dead_letters.refuse(self.consumer, deliveries[0], error)
                return
            log.warning("batch.split", messages=len(deliveries), error=repr(error)[:300])
            middle = len(deliveries) // 2
            for half in (deliveries[:middle], deliveries[middle:]):
                await self._handle(half, again=True)
        else:
            requeued = await self._refuse_parts(refused)
            self.consumer.done([delivery for delivery in deliveries if delivery not in requeued])
            self._release(deliveries)

    def _release(self, deliveries: Sequence[Delivery]) -> None:
        self._bytes -= sum(len(delivery.body) for delivery in deliveries)

    async def _refuse_parts(self, refused: Sequence[Refused]) -> set[Delivery]:
        """Dead-letter what can never be processed; return the messages requeued instead."""
        requeued: set[Delivery] = set()
        refuse = self._dead_letters.refuse_part
        for delivery, body, reason in refused:
            if delivery not in requeued and not await refuse(self.consumer, delivery, body, reason):
                requeued.add(delivery)
        return requeued

    async def _requeue_all(self, action: Action[object]) -> None:
        """Requeue what is held during a long outage; `action` shows when the database is back."""
        if self._recovering is None:
            self._recovering = asyncio.create_task(self._recover(action))
        raise BatchRequeued

    async def _recover(self, action: Action[object]) -> None:
        """Requeue all messages, and consume again once `action` succeeds.

        That the database answers is not enough: it may be read-only or out of room, and each requeue counts
        towards a message's delivery limit.
        """
        log.warning("consumer.paused", reason="database", effect="messages went back to the queue")
        await self.consumer.pause(give_back=True)
        self._release([*self._waiting, *self._suspects])
        self._waiting.clear()
        self._suspects.clear()
        await self._outage.probe(action)
        await self._outage.note_recovery()
        self._recovering = None
        log.info("consumer.resumed")
        await self._resume()
