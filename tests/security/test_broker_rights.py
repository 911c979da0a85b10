"""Every exchange and queue × every service and gateway: who publishes, binds and consumes what.

The tables here are the architecture's, written down a second time on purpose: they, and not the regular
expressions of the topology, are what the broker is held to. Gateways go through auth, as in the stack.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aio_pika
import paho.mqtt.client as mqtt
import pytest
from aio_pika.abc import AbstractChannel, AbstractRobustConnection
from aio_pika.exceptions import AMQPException, ProbableAuthenticationError
from deployed import Deployed
from esp_common import topology
from esp_common.auth import new_api_key
from esp_stack.servers import Vhost

EVERYBODY: Final = frozenset(topology.SERVICES)
SUBJECTS: Final[Mapping[str, frozenset[str]]] = {
    "ingest": frozenset({"asset", "quality", "retention"}),
    "diagnostics": frozenset({"finding", "alert", "pump"}),
    "auth": frozenset({"auth"}),
    "archiver": frozenset({"archive"}),
    "backup": frozenset({"backup"}),
}
READERS: Final[Mapping[str, frozenset[str]]] = {
    topology.INGEST: frozenset({"ingest"}),
    topology.TELEMETRY: frozenset({"diagnostics"}),
    topology.BY_PUMP: frozenset({"diagnostics"}),
    topology.EVENTS: EVERYBODY,
    topology.COMMANDS: EVERYBODY,
    topology.AUDIT: frozenset({"auth"}),
    topology.ALERTS: frozenset({"diagnostics"}),
    topology.DLX: EVERYBODY,
    topology.UNROUTED: frozenset({"ingest"}),
}
BUILT_IN: Final = ("amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match")
FIRST_WORDS: Final = sorted({"telemetry", "odd", *EVERYBODY, *frozenset().union(*SUBJECTS.values())})
WEIGHT: Final = "1"
"""What a consistent hash exchange takes for a key."""
ANSWERERS = ("auth", "archiver", "ingest")
OUR_EXCHANGES: Final = [exchange.name for exchange in topology.EXCHANGES]


def may_publish(service: str, exchange: str, first_word: str) -> bool:
    """Return whether a service may publish to an exchange under a key that begins with this word."""
    match exchange:
        case topology.INGEST | topology.TELEMETRY:
            return service == "ingest" and first_word == "telemetry"
        case topology.EVENTS:
            return first_word in SUBJECTS[service]
        case topology.AUDIT | topology.DLX:
            return first_word == service
        case topology.ALERTS:
            return service == "diagnostics"
    return exchange == topology.COMMANDS


class Client:
    """One connection; each attempt on a channel of its own, since a refusal closes it."""

    def __init__(self, connection: AbstractRobustConnection) -> None:
        self._connection = connection

    async def may(self, attempt: Callable[[AbstractChannel], Awaitable[object]]) -> bool:
        """Return whether the broker allows what `attempt` does."""
        channel = await self._connection.channel()
        try:
            await attempt(channel)
        except AMQPException:
            return False
        await channel.close()
        return True

    async def publishes(self, exchange: str, key: str) -> bool:
        """Return whether it may publish."""

        async def attempt(channel: AbstractChannel) -> None:
            target = await channel.get_exchange(exchange, ensure=False)
            await target.publish(aio_pika.Message(b"{}"), key, mandatory=False)

        return await self.may(attempt)

    async def binds(self, queue: str, exchange: str, key: str) -> bool:
        """Return whether it may bind a queue that it makes."""

        async def attempt(channel: AbstractChannel) -> None:
            made = await channel.declare_queue(queue, auto_delete=True)
            await made.bind(exchange, key)
            await made.delete(if_unused=False, if_empty=False)

        return await self.may(attempt)

    async def consumes(self, queue: str) -> bool:
        """Return whether it may read a queue."""

        async def attempt(channel: AbstractChannel) -> None:
            await (await channel.get_queue(queue, ensure=False)).consume(_ignore)

        return await self.may(attempt)


async def _ignore(_: Any) -> None:
    """Take a message; it comes again when the channel ends."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """Connect as the user of a URL."""
    async with await aio_pika.connect(url) as connection:
        yield Client(connection)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def vhost(deployed: Deployed) -> Iterator[Vhost]:
    """A virtual host with the topology in which nobody is at work."""
    vhost = deployed.rabbitmq.vhost()
    yield vhost
    vhost.delete()


# --- services ---------------------------------------------------------------------------------------------


def test_these_are_all_exchanges_and_services() -> None:
    assert set(OUR_EXCHANGES) == set(READERS)
    assert set(SUBJECTS) == EVERYBODY


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_who_publishes_where_is_as_the_topology_says(service: str, vhost: Vhost) -> None:
    async with connected(vhost.url_for(service)) as client:
        wrong = [
            (exchange, word)
            for exchange in (*OUR_EXCHANGES, *BUILT_IN)
            for word in FIRST_WORDS
            if await client.publishes(exchange, f"{word}.x") != may_publish(service, exchange, word)
        ]
        answers = await client.publishes("", topology.UNROUTED_QUEUE)
    assert wrong == []
    assert answers == (service in ANSWERERS), "only they answer questions, over the default exchange"


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_who_binds_to_what_is_as_the_topology_says(service: str, vhost: Vhost) -> None:
    async with connected(vhost.url_for(service)) as client:
        own = f"{service}.of-a-test"
        allowed = {
            exchange
            for exchange in (*OUR_EXCHANGES, *BUILT_IN)
            if await client.binds(own, exchange, WEIGHT if exchange == topology.BY_PUMP else f"{service}.x")
        }
        others = [other for other in (*EVERYBODY, "odd") if other != service]
        reach = [other for other in others if await client.binds(f"{other}.of-a-test", topology.EVENTS, "#")]
        letters = [key for key in ("#", *others) if await client.binds(own, topology.DLX, f"{key}.x")]
    assert allowed == {exchange for exchange, readers in READERS.items() if service in readers}
    assert reach == [], "queues of others are not to be made"
    assert letters == [], "dead letters of others are not to be read"


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_who_consumes_what_is_as_the_topology_says(service: str, vhost: Vhost) -> None:
    async with connected(vhost.url_for(service)) as client:
        allowed = {queue.name for queue in topology.QUEUES if await client.consumes(queue.name)}
    assert allowed == {queue.name for queue in topology.QUEUES if queue.service == service}


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_nobody_changes_what_is_not_their_own(service: str, vhost: Vhost) -> None:
    others = [queue.name for queue in topology.QUEUES if queue.service != service]
    async with connected(vhost.url_for(service)) as client:
        allowed = [
            name for name in OUR_EXCHANGES if await client.may(lambda c, name=name: c.exchange_delete(name))
        ]
        allowed += [name for name in others if await client.may(lambda c, name=name: c.queue_delete(name))]
        made = await client.may(lambda channel: channel.declare_exchange("mine"))
    assert (allowed, made) == ([], False)


@pytest.mark.parametrize("service", topology.SERVICES)
async def test_nobody_connects_without_the_right_password(service: str, deployed: Deployed) -> None:
    port = deployed.rabbitmq.ports.amqp
    for password in ("", "guest", service, deployed.gateway_keys["gw-01"], deployed.bootstrap_key):
        with pytest.raises(ProbableAuthenticationError):
            await aio_pika.connect(f"amqp://{service}:{password}@127.0.0.1:{port}/")


# --- gateways ---------------------------------------------------------------------------------------------


def gateway_url(deployed: Deployed, name: str, key: str) -> str:
    return f"amqp://{name}:{key}@127.0.0.1:{deployed.rabbitmq.ports.amqp}/"


@pytest.mark.parametrize(("gateway", "foreign"), [("gw-01", "gw-02"), ("gw-02", "gw-01")])
async def test_a_gateway_publishes_its_own_readings_and_nothing_else(
    gateway: str, foreign: str, deployed: Deployed
) -> None:
    own = {f"telemetry.{gateway}", f"telemetry.{gateway}.pump-1"}
    others = {f"telemetry.{foreign}", f"telemetry.{foreign}.{gateway}", f"telemetry.{gateway}1", "telemetry"}
    async with connected(gateway_url(deployed, gateway, deployed.gateway_keys[gateway])) as client:
        allowed = {
            (exchange, key)
            for exchange in ("", *OUR_EXCHANGES, *BUILT_IN)
            for key in sorted(own | others | {"#", "telemetry.#", topology.AUTH_VERIFY_KEY, "auth.x"})
            if await client.publishes(exchange, key)
        }
        reads = [queue.name for queue in topology.QUEUES if await client.consumes(queue.name)]
        binds = [
            (queue, exchange)
            for queue in ("mine", f"telemetry.{gateway}", "ingest.mine")
            for exchange in OUR_EXCHANGES
            if await client.binds(queue, exchange, "#")
        ]
    assert allowed == {(topology.INGEST, key) for key in own}
    assert (reads, binds) == ([], [])


@pytest.mark.parametrize(
    "name", ["gw-01", "gw-02", "gw-03", "ingest", "auth", "admin", "bootstrap", "", "gw-01/x"]
)
async def test_no_key_but_the_gateways_own_connects(name: str, deployed: Deployed) -> None:
    keys = deployed.gateway_keys
    tried = {
        "another gateway's": keys["gw-02" if name == "gw-01" else "gw-01"],
        "no gateway's": deployed.bootstrap_key,
        "made up": new_api_key("gw-01"),
        "empty": "",
    }
    for key in tried.values():
        with pytest.raises((ProbableAuthenticationError, ConnectionError, AMQPException)):
            await aio_pika.connect(gateway_url(deployed, name.replace("/", "%2F"), key))


class MqttGateway:
    """A gateway that speaks MQTT 3.1.1."""

    def __init__(self, deployed: Deployed, name: str) -> None:
        self.connected, self.ended = asyncio.Event(), asyncio.Event()
        self.subscribed: asyncio.Queue[list[Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, f"{name}:rights", protocol=mqtt.MQTTv311)
        client.username_pw_set(name, deployed.gateway_keys[name])
        client.on_connect = lambda *_: loop.call_soon_threadsafe(self.connected.set)
        client.on_disconnect = lambda *_: loop.call_soon_threadsafe(self.ended.set)
        client.on_subscribe = lambda *given: loop.call_soon_threadsafe(self.subscribed.put_nowait, given[3])
        client.connect("127.0.0.1", deployed.rabbitmq.ports.mqtt)
        client.loop_start()
        self.client = client

    def close(self) -> None:
        """End the connection."""
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
async def mqtt_gateway(deployed: Deployed) -> AsyncIterator[MqttGateway]:
    """gw-01, connected."""
    gateway = MqttGateway(deployed, "gw-01")
    await asyncio.wait_for(gateway.connected.wait(), 10)
    yield gateway
    gateway.close()


async def test_a_gateway_publishes_its_own_readings_by_mqtt(mqtt_gateway: MqttGateway) -> None:
    for topic in ("telemetry/gw-01", "telemetry/gw-01/pump-1"):
        sent = mqtt_gateway.client.publish(topic, b"[]", qos=1)
        await asyncio.to_thread(sent.wait_for_publish, 10)
        assert sent.is_published()


@pytest.mark.parametrize(
    "topic", ["telemetry/gw-02", "telemetry/gw-011", "telemetry", "auth/x", "telemetry/gw-02/gw-01"]
)
async def test_by_mqtt_too_anything_else_ends_the_connection(topic: str, mqtt_gateway: MqttGateway) -> None:
    sent = mqtt_gateway.client.publish(topic, b"[]", qos=1)
    await asyncio.wait_for(mqtt_gateway.ended.wait(), 10)
    assert not sent.is_published()


@pytest.mark.parametrize("topic", ["#", "telemetry/gw-01", "telemetry/#"])
async def test_by_mqtt_a_gateway_subscribes_to_nothing(topic: str, mqtt_gateway: MqttGateway) -> None:
    mqtt_gateway.client.subscribe(topic, qos=1)
    waiting = [
        asyncio.create_task(mqtt_gateway.subscribed.get()),
        asyncio.create_task(mqtt_gateway.ended.wait()),
    ]
    done, pending = await asyncio.wait(waiting, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    assert done, "neither refused nor ended"
    if waiting[0] in done:
        codes = waiting[0].result()
        assert all(code.is_failure for code in codes), codes
