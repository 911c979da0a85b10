"""What one service's broker user cannot have others believe, whatever it makes the broker do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from esp_common import topology
from esp_common.contracts.events import Event
from esp_common.messaging import Delivery, EventListener, LeanConsumer, Publisher, Requester
from esp_stack.servers import Vhost

Send = Callable[[AbstractChannel, aio_pika.Message], Awaitable[object]]
FORGER = "diagnostics"
FORGED = Event("auth.revoked", "auth", "somebody", {"users": {"somebody": [9e9, 9e9]}})


@asynccontextmanager
async def channel_of(vhost: Vhost, user: str) -> AsyncIterator[AbstractChannel]:
    """A channel of a service's broker user."""
    async with await aio_pika.connect(vhost.url_for(user)) as connection, connection.channel() as channel:
        yield channel


# --- events -----------------------------------------------------------------------------------------------


async def through_an_exchange(channel: AbstractChannel, message: aio_pika.Message) -> None:
    own = await channel.declare_exchange(f"{FORGER}.bound", "fanout", auto_delete=True)
    events = await channel.get_exchange(topology.EVENTS, ensure=False)
    await events.bind(own)
    await own.publish(message, FORGED.type)


async def through_an_alternate_exchange(channel: AbstractChannel, message: aio_pika.Message) -> None:
    arguments: Any = {"alternate-exchange": topology.EVENTS}
    own = await channel.declare_exchange(f"{FORGER}.instead", "topic", arguments=arguments)
    await own.publish(message, FORGED.type)


async def through_dead_letters(channel: AbstractChannel, message: aio_pika.Message) -> None:
    arguments = {
        "x-dead-letter-exchange": topology.EVENTS,
        "x-dead-letter-routing-key": FORGED.type,
        "x-message-ttl": 1,
    }
    own = await channel.declare_exchange(f"{FORGER}.letters", "fanout")
    queue = await channel.declare_queue(f"{FORGER}.dying", arguments=arguments)
    await queue.bind(own)
    await own.publish(message, "any")


async def under_its_own_key(channel: AbstractChannel, message: aio_pika.Message) -> None:
    events = await channel.get_exchange(topology.EVENTS, ensure=False)
    await events.publish(message, "alert.raised")


@pytest.mark.parametrize("sender", [None, FORGER])
@pytest.mark.parametrize(
    "send", [through_an_exchange, through_an_alternate_exchange, through_dead_letters, under_its_own_key]
)
async def test_no_service_speaks_for_another(send: Send, sender: str | None, vhost: Vhost) -> None:
    heard: asyncio.Queue[Event] = asyncio.Queue()
    listening = asyncio.Event()
    listener = EventListener(
        vhost.url_for("ingest"), ["#"], on_event=heard.put_nowait, on_connected=listening.set
    )
    running = asyncio.create_task(listener.run())
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    headers: Any = FORGED.headers()
    message = aio_pika.Message(FORGED.body(), headers=headers, user_id=sender)
    async with (
        channel_of(vhost, FORGER) as forger,
        channel_of(vhost, "archiver") as witness,
        Publisher(vhost.url_for("auth")) as auth,
    ):
        await asyncio.wait_for(listening.wait(), 20)
        seeing = await witness.declare_queue("", exclusive=True)
        await seeing.bind(topology.EVENTS, "#")
        await seeing.consume(arrived.put, no_ack=True)
        await send(forger, message)
        await asyncio.wait_for(arrived.get(), 20)  # the broker lets it through
        true = Event("auth.keys-rotated", "auth", "", {})
        await auth.publish(topology.EVENTS, true.type, true.body(), headers=true.headers())
        assert (await asyncio.wait_for(heard.get(), 20)).type == true.type
    await listener.stop()
    await running
    assert heard.empty()


# --- answers ----------------------------------------------------------------------------------------------


async def test_an_answer_to_another_question_is_no_answer(vhost: Vhost) -> None:
    """Whoever binds to the questions sees where an answer goes, and has auth answer another there."""
    async with (
        channel_of(vhost, FORGER) as spy,
        Requester(vhost.url_for("ingest")) as requester,
        Publisher(vhost.url_for("auth")) as auth,
    ):
        seeing = await spy.declare_queue("", exclusive=True)
        await seeing.bind(topology.COMMANDS, topology.AUTH_VERIFY_KEY)
        seen: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await seeing.consume(seen.put, no_ack=True)
        asking = asyncio.create_task(
            requester.request(topology.COMMANDS, topology.AUTH_VERIFY_KEY, b"made up", timeout_s=20)
        )
        question = await asyncio.wait_for(seen.get(), 20)
        commands = await spy.get_exchange(topology.COMMANDS, ensure=False)
        other = aio_pika.Message(
            b"an administrator's", reply_to=question.reply_to, correlation_id=question.correlation_id
        )
        await commands.publish(other, topology.AUTH_VERIFY_KEY)
        asked: asyncio.Queue[Delivery] = asyncio.Queue()
        consumer = LeanConsumer(
            vhost.url_for("auth"), topology.AUTH_VERIFY_KEY, prefetch=2, on_message=asked.put_nowait
        )
        consuming = asyncio.create_task(consumer.run())
        questions = {each.body: each for each in [await asyncio.wait_for(asked.get(), 20) for _ in range(2)]}
        await auth.reply(questions[other.body], b"yes")
        await auth.reply(questions[b"made up"], b"no")
        assert await asyncio.wait_for(asking, 20) == b"no"
        await consumer.stop()
        await consuming
