"""The topology: the broker has what the module says, and each user can do what it must and no more."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import aio_pika
import paho.mqtt.client as mqtt
import pytest
from aio_pika.exceptions import AMQPException
from aiormq.exceptions import ChannelAccessRefused
from esp_common import topology
from esp_common.messaging import Publisher
from esp_stack.servers import RabbitMQ, Vhost

GATEWAY = "gw-01"


def canonical(objects: dict[str, Any], vhost: str) -> dict[str, list[str]]:
    """Return definitions in an order that does not matter; the broker leaves some defaults out."""
    defaults = {"vhost": vhost, "internal": False, "type": "classic"}
    return {
        kind: sorted(json.dumps(defaults | entry, sort_keys=True) for entry in objects[kind])
        for kind in topology.objects(vhost)
    }


def in_broker(rabbitmq: RabbitMQ, vhost: str) -> dict[str, list[str]]:
    found = rabbitmq.api("GET", f"definitions/{quote(vhost, safe='')}").json()
    for queue in found["queues"]:
        queue.pop("type", None)  # the broker's word for the argument x-queue-type
    return canonical(found, vhost)


def in_module(vhost: str) -> dict[str, list[str]]:
    return canonical(topology.objects(vhost), vhost)


def test_loaded_definitions_are_what_the_broker_has(rabbitmq: RabbitMQ) -> None:
    assert in_broker(rabbitmq, "/") == in_module("/")


@pytest.fixture
def bare_vhost(rabbitmq: RabbitMQ) -> Iterator[Vhost]:
    """A virtual host with nothing in it."""
    rabbitmq.api("PUT", "vhosts/bare")
    yield Vhost("bare", rabbitmq)
    rabbitmq.api("DELETE", "vhosts/bare")


async def test_declaring_makes_the_same(bare_vhost: Vhost, rabbitmq: RabbitMQ) -> None:
    async with await aio_pika.connect(bare_vhost.url) as connection, connection.channel() as channel:
        await topology.declare(channel)
        await topology.declare(channel)
    assert in_broker(rabbitmq, "bare") == in_module("bare")


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_a_service_may_declare_its_own_queues_again(service: str, vhost: Vhost) -> None:
    async with await aio_pika.connect(vhost.url_for(service)) as connection, connection.channel() as channel:
        await topology.declare(channel, service)


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_a_service_may_not_touch_the_exchanges(service: str, vhost: Vhost) -> None:
    async with await aio_pika.connect(vhost.url_for(service)) as connection:
        channel = await connection.channel()
        with pytest.raises(ChannelAccessRefused):
            await channel.exchange_delete(topology.INGEST)


async def publishes(url: str, exchange: str, key: str) -> bool:
    """Return whether the user of `url` may publish this."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        target = await channel.get_exchange(exchange, ensure=False)
        try:
            await target.publish(aio_pika.Message(b"{}"), key, mandatory=False)
        except AMQPException:
            return False
        return True


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("telemetry.gw-01", True),
        ("telemetry.gw-01.SIM-001", True),
        ("telemetry.gw-02", False),
        ("telemetry.gw-0", False),
        ("telemetry.gw-011", False),
        ("telemetry._api", False),
        ("telemetry", False),
        ("gw-01", False),
    ],
)
async def test_a_gateway_publishes_under_its_own_id_only(key: str, allowed: bool, vhost: Vhost) -> None:
    assert await publishes(vhost.url_for(GATEWAY), topology.INGEST, key) is allowed


@pytest.mark.parametrize(
    "exchange", [e.name for e in topology.EXCHANGES if e.name != topology.INGEST] + ["amq.topic"]
)
async def test_a_gateway_publishes_nowhere_else(exchange: str, vhost: Vhost) -> None:
    assert not await publishes(vhost.url_for(GATEWAY), exchange, "telemetry.gw-01")


async def test_a_gateway_reads_and_declares_nothing(vhost: Vhost) -> None:
    async with await aio_pika.connect(vhost.url_for(GATEWAY)) as connection:
        for attempt in (
            lambda channel: channel.declare_queue("mine"),
            lambda channel: channel.declare_queue("", exclusive=True),
            lambda channel: channel.declare_exchange("mine"),
            lambda channel: consume(channel, topology.INGEST_TELEMETRY),
        ):
            channel = await connection.channel()
            with pytest.raises(ChannelAccessRefused):
                await attempt(channel)


async def consume(channel: Any, queue: str) -> None:
    await (await channel.get_queue(queue, ensure=False)).consume(print)


@pytest.mark.parametrize(
    ("user", "exchange", "key", "allowed"),
    [
        ("ingest", topology.EVENTS, "asset.pump-changed", True),
        ("ingest", topology.EVENTS, "finding.opened", False),
        ("ingest", topology.AUDIT, "ingest.quarantine.replayed", True),
        ("ingest", topology.AUDIT, "auth.login", False),
        ("ingest", topology.ALERTS, "x", False),
        ("auth", topology.TELEMETRY, "telemetry.sim", False),
        ("archiver", topology.INGEST, "telemetry.gw-01", False),
        ("diagnostics", topology.EVENTS, "alert.raised", True),
        ("backup", topology.EVENTS, "backup.completed", True),
    ],
)
async def test_a_service_says_only_what_is_its_own(
    user: str, exchange: str, key: str, allowed: bool, vhost: Vhost
) -> None:
    assert await publishes(vhost.url_for(user), exchange, key) is allowed


def test_no_user_relies_on_the_default_that_lets_every_key_through(rabbitmq: RabbitMQ) -> None:
    definitions = rabbitmq.definitions()
    set_for = {(entry["user"], entry["exchange"]) for entry in definitions["topic_permissions"]}
    topics = [exchange["name"] for exchange in definitions["exchanges"] if exchange["type"] == "topic"]
    for permission in definitions["permissions"]:
        if permission["user"] != "admin":
            reach = [name for name in topics if re.search(permission["write"], name)]
            assert {(permission["user"], name) for name in reach} <= set_for


@pytest.mark.parametrize("name", ["", "_api", "gw.01", "gw_01", "-gw", "g" * 65, "gw-01\n", "gw/01"])
def test_what_is_no_gateway_id_gets_no_rights(name: str) -> None:
    with pytest.raises(ValueError, match="not a gateway id"):
        topology.gateway_rights(name)


@pytest.fixture
async def mqtt_gateway(rabbitmq: RabbitMQ) -> AsyncIterator[mqtt.Client]:
    """A gateway that speaks MQTT 3.1.1 with its own key."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "gw-01-mqtt", protocol=mqtt.MQTTv311)
    client.username_pw_set(GATEWAY, rabbitmq.passwords[GATEWAY])
    client.connect("127.0.0.1", rabbitmq.ports.mqtt)
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


async def test_a_gateway_publishes_by_mqtt(mqtt_gateway: mqtt.Client, rabbitmq: RabbitMQ) -> None:
    sent = mqtt_gateway.publish("telemetry/gw-01", b"[1]", qos=1)
    await asyncio.to_thread(sent.wait_for_publish, 10)
    async with await aio_pika.connect(rabbitmq.url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(topology.INGEST_TELEMETRY, ensure=False)
        message = await queue.get(timeout=10)
        await message.ack()
    assert (message.routing_key, message.body) == ("telemetry.gw-01", b"[1]")


async def test_another_gateways_topic_closes_the_mqtt_connection(mqtt_gateway: mqtt.Client) -> None:
    closed, loop = asyncio.Event(), asyncio.get_running_loop()
    mqtt_gateway.on_disconnect = lambda *_: loop.call_soon_threadsafe(closed.set)
    sent = mqtt_gateway.publish("telemetry/gw-02", b"[1]", qos=1)
    await asyncio.wait_for(closed.wait(), 10)
    assert not sent.is_published()


async def test_an_odd_key_is_kept_in_unrouted(vhost: Vhost) -> None:
    async with Publisher(vhost.url_for("ingest")) as publisher:
        await publisher.publish(topology.AUDIT, "ingest.x", b"{}")
    async with await aio_pika.connect(vhost.url) as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(topology.INGEST, ensure=False)
        await exchange.publish(aio_pika.Message(b"odd"), "not-telemetry")
        message = await (await channel.get_queue(topology.UNROUTED_QUEUE)).get(timeout=10)
        await message.ack()
    assert message.body == b"odd"
