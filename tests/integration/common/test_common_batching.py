"""The batch consumer on a real broker: when it hands over, acknowledges, requeues and dead-letters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aio_pika
import pytest
from esp_common import topology
from esp_common.messaging import Delivery, Publisher, dead_letter
from esp_common.messaging.batch import Batch, BatchLimits, BatchMetrics, Refused
from esp_common.messaging.batching import BatchConsumer
from esp_stack.servers import Vhost
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from waiting import until

QUEUE = topology.AUTH_AUDIT
LIMITS = BatchLimits(
    max_items=10, max_age_ms=20, max_bytes=2**20, max_prefetch=100, in_flight=2, outage_pause_s=60
)


class DatabaseAway(Exception):
    """Stands for an outage of the database."""


class Handler:
    """Records the bodies of each batch; `act` is what the service does with it."""

    def __init__(self, act: Callable[[Batch], Any] | None = None) -> None:
        self.batches: list[list[bytes]] = []
        self._act = act

    def weigh(self, delivery: Delivery) -> int:
        return 1

    def source_of(self, delivery: Delivery) -> str:
        return delivery.routing_key

    async def handle(self, batch: Batch) -> Sequence[Refused]:
        self.batches.append([delivery.body for delivery in batch.deliveries])
        refused = await self._act(batch) if self._act else None
        return refused or ()

    @property
    def bodies(self) -> list[bytes]:
        return [body for batch in self.batches for body in batch]


@pytest.fixture
async def fresh(vhost: Vhost) -> Vhost:
    """The module's virtual host with empty queues."""
    async with await aio_pika.connect(vhost.url) as connection, connection.channel() as channel:
        for name in (QUEUE, topology.AUTH_AUDIT_DEAD):
            await (await channel.get_queue(name)).purge()
    return vhost


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requeue failed messages at once."""
    monkeypatch.setattr(dead_letter, "POISON_PAUSE_S", 0.01)


@asynccontextmanager
async def consuming(
    vhost: Vhost, handler: Handler, limits: BatchLimits = LIMITS
) -> AsyncIterator[BatchConsumer]:
    registry = CollectorRegistry()
    metrics = BatchMetrics(
        Histogram("seconds", "", registry=registry),
        Gauge("up", "", registry=registry),
        Counter("poison", "", registry=registry),
        Gauge("held", "", registry=registry),
    )
    url = vhost.url_for("auth")
    async with Publisher(url) as publisher:
        consumer = BatchConsumer(
            url,
            QUEUE,
            handler,
            publisher,
            limits,
            metrics,
            is_outage=lambda error: isinstance(error, DatabaseAway),
        )
        running = asyncio.create_task(consumer.run())
        try:
            yield consumer
        finally:
            await consumer.stop(10)
            await running


async def send(vhost: Vhost, *bodies: bytes) -> None:
    async with Publisher(vhost.url_for("auth")) as publisher:
        assert await publisher.until_ready(60)
        await asyncio.gather(*(publisher.publish(topology.AUDIT, "auth.test", body) for body in bodies))


async def depth(vhost: Vhost, queue: str = QUEUE) -> int:
    async with await aio_pika.connect(vhost.url) as connection, connection.channel() as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


async def dead_letters(vhost: Vhost, count: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Wait for `count` dead letters; return all there are."""

    async def enough() -> bool:
        return await depth(vhost, topology.AUTH_AUDIT_DEAD) >= count

    await until(enough, f"{count} dead letters")
    async with await aio_pika.connect(vhost.url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(topology.AUTH_AUDIT_DEAD, ensure=False)
        letters = []
        while message := await queue.get(fail=False, no_ack=True):
            letters.append(message)
    return letters


async def test_a_batch_is_due_by_size_before_its_age(fresh: Vhost) -> None:
    handler = Handler()
    await send(fresh, *(b"%d" % number for number in range(100)))
    async with consuming(fresh, handler, replace(LIMITS, max_age_ms=60_000)):
        await until(lambda: len(handler.bodies) >= 100, "all handled")
    assert sorted(map(int, handler.bodies)) == list(range(100))
    assert max(map(len, handler.batches)) == LIMITS.max_items
    assert await depth(fresh) == 0


async def test_a_batch_is_due_by_age_before_its_size(fresh: Vhost) -> None:
    handler = Handler()
    async with consuming(fresh, handler):
        for number in range(3):
            await send(fresh, b"%d" % number)
            await until(lambda number=number: len(handler.bodies) == number + 1, "handled alone")


async def test_a_message_is_acknowledged_after_it_was_handled(fresh: Vhost) -> None:
    handled, release = asyncio.Event(), asyncio.Event()

    async def act(_: Batch) -> None:
        handled.set()
        await release.wait()

    await send(fresh, b"x")
    async with consuming(fresh, Handler(act)) as consumer:
        await asyncio.wait_for(handled.wait(), 30)
        await consumer.consumer.pause(give_back=True)  # as if the connection were cut
        await until(lambda: _equals(depth(fresh), 1), "the message is back in the queue")
        release.set()
        await until(lambda: consumer.idle, "handled")
    assert await depth(fresh) == 1, "an effect on a lost connection cannot be acknowledged"


async def _equals(found: Any, wanted: int) -> bool:
    return bool(await found == wanted)


async def test_poison_is_found_by_halving_and_dead_lettered_with_its_reason(fresh: Vhost) -> None:
    stored: list[bytes] = []

    async def act(batch: Batch) -> None:
        if any(delivery.body == b"poison" for delivery in batch.deliveries):
            raise ValueError("cannot digest this")
        stored.extend(delivery.body for delivery in batch.deliveries)

    good = [b"%d" % number for number in range(30)]
    await send(fresh, *good[:15], b"poison", *good[15:])
    async with consuming(fresh, Handler(act)):
        (letter,) = await dead_letters(fresh, 1)
        await until(lambda: len(stored) >= 30, "the others are stored")
    assert sorted(stored) == sorted(good)
    assert letter.body == b"poison"
    assert letter.headers["esp-reason"] == "ValueError('cannot digest this')"
    assert letter.headers["esp-routing-key"] == "auth.test"
    assert letter.headers["esp-error-id"]
    assert await depth(fresh) == 0


async def test_a_refused_part_is_dead_lettered_and_its_message_acknowledged(fresh: Vhost) -> None:
    async def act(batch: Batch) -> list[Refused]:
        return [Refused(each, b"part", "unfit") for each in batch.deliveries if each.body == b"mixed"]

    await send(fresh, b"good", b"mixed")
    async with consuming(fresh, Handler(act)):
        (letter,) = await dead_letters(fresh, 1)
    assert (letter.body, letter.headers["esp-reason"]) == (b"part", "unfit")
    assert await depth(fresh) == 0


async def test_a_short_outage_is_retried_with_the_messages_held(fresh: Vhost) -> None:
    failures = 2

    async def store() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise DatabaseAway

    async def act(batch: Batch) -> None:
        await batch.retry(store)

    handler = Handler(act)
    await send(fresh, b"x")
    async with consuming(fresh, handler) as consumer:
        await until(lambda: consumer.stalled, "the outage is noticed")
        assert not consumer.consumer.paused
        await until(lambda: consumer.idle and not consumer.stalled, "stored")
    assert handler.bodies == [b"x"], "handed over once: the messages were held"
    assert await depth(fresh) == 0


async def test_a_long_outage_requeues_the_messages_once_and_resumes_after_it(fresh: Vhost) -> None:
    away = True

    async def store() -> None:
        if away:
            raise DatabaseAway

    async def act(batch: Batch) -> None:
        await batch.retry(store)

    handler = Handler(act)
    await send(fresh, *(b"%d" % number for number in range(40)))
    async with consuming(fresh, handler, replace(LIMITS, outage_pause_s=0.2)) as consumer:
        await until(lambda: consumer.consumer.paused, "paused")
        await until(lambda: _equals(depth(fresh), 40), "all messages are back in the queue")
        assert consumer.alive, "paused on purpose"
        assert consumer.stalled
        away = False
        await until(lambda: not consumer.stalled and consumer.consumer.alive, "consuming again")
        await until(lambda: _drained(consumer, fresh), "drained")
    assert set(handler.bodies) == {b"%d" % number for number in range(40)}
    assert await depth(fresh, topology.AUTH_AUDIT_DEAD) == 0


async def _drained(consumer: BatchConsumer, vhost: Vhost) -> bool:
    return consumer.idle and await depth(vhost) == 0


async def test_consuming_pauses_above_the_limit_of_held_bytes_and_resumes(fresh: Vhost) -> None:
    release = asyncio.Event()

    async def act(_: Batch) -> None:
        await release.wait()

    handler = Handler(act)
    await send(fresh, *(b"%2d" % number + bytes(1000) for number in range(60)))
    limits = replace(LIMITS, max_items=1, max_bytes=20_000)
    async with consuming(fresh, handler, limits) as consumer:
        await until(lambda: len(handler.batches) == LIMITS.in_flight, "all slots are taken")
        await until(lambda: _steady(fresh), "no more is taken")
        assert await depth(fresh) > 60 - 2 * 20, "about as many are held as the limit allows"
        release.set()
        await until(lambda: _drained(consumer, fresh), "drained")
    assert len({body[:2] for body in handler.bodies}) == 60


async def _steady(vhost: Vhost) -> bool:
    """Whether a round trip to the broker, twice, sees the same number of waiting messages."""
    return await depth(vhost) == await depth(vhost) < 60


async def test_stopping_handles_what_is_held_and_leaves_the_rest_in_the_queue(fresh: Vhost) -> None:
    handler = Handler()
    await send(fresh, *(b"%d" % number for number in range(200)))
    async with consuming(fresh, handler):
        await until(lambda: len(handler.bodies) > 5, "some are handled")
    assert len(handler.bodies) + await depth(fresh) == 200
