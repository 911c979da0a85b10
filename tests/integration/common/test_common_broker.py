"""The FastStream broker: what it publishes is safe, and its consumers come back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aio_pika.exceptions import DeliveryError
from esp_common import topology
from esp_common.messaging.broker import consume_channel, consumers_alive, make_broker, subscription
from esp_common.settings import ServiceSettings
from esp_stack.servers import Vhost
from faststream import AckPolicy
from faststream.rabbit import RabbitBroker, RabbitMessage


class Audit:
    """A broker of the auth service that takes audit events."""

    def __init__(self, url: str) -> None:
        self.taken: asyncio.Queue[RabbitMessage] = asyncio.Queue()
        self.broker: RabbitBroker = make_broker(ServiceSettings(amqp_url=url), "auth")
        subscriber = self.broker.subscriber(
            **subscription(topology.AUTH_AUDIT), channel=consume_channel(10), ack_policy=AckPolicy.MANUAL
        )
        subscriber(self.take)

    async def take(self, message: RabbitMessage) -> None:
        await message.ack()
        self.taken.put_nowait(message)


@pytest.fixture(scope="module")
async def audit(vhost: Vhost) -> AsyncIterator[Audit]:
    """The auth service's broker, started."""
    audit = Audit(vhost.url_for("auth"))
    async with audit.broker:
        await audit.broker.start()
        yield audit


async def publish(audit: Audit, body: str) -> RabbitMessage:
    await audit.broker.publish(body, exchange=topology.AUDIT, routing_key="auth.login", mandatory=True)
    return await asyncio.wait_for(audit.taken.get(), 20)


async def until(audit: Audit, *, alive: bool) -> None:
    while True:
        if await consumers_alive(audit.broker) is alive:
            return
        await asyncio.sleep(0.005)


async def test_a_message_is_persistent_without_being_asked(audit: Audit) -> None:
    message = await publish(audit, "first")
    assert message.raw_message.delivery_mode == 2


async def test_a_message_nobody_takes_raises(audit: Audit) -> None:
    with pytest.raises(DeliveryError):
        await audit.broker.publish("x", exchange=topology.COMMANDS, routing_key="nobody", mandatory=True)


async def test_a_deleted_queue_is_noticed_and_consumed_again(audit: Audit, vhost: Vhost) -> None:
    assert await consumers_alive(audit.broker)
    vhost.server.api("DELETE", f"queues/{vhost.name}/{topology.AUTH_AUDIT}")
    await asyncio.wait_for(until(audit, alive=False), 20)
    await asyncio.wait_for(until(audit, alive=True), 20)
    assert (await publish(audit, "after")).body == b"after"
