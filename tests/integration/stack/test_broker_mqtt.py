"""MQTT 3.1.1 on the broker as the stack has it: what a gateway sees of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import paho.mqtt.client as mqtt
import pyarrow as pa
import pytest
from broker_field import Field, eventually
from esp_common import topology
from esp_common.database import create_pool
from esp_common.messaging import Publisher
from esp_ingest.consumers import open_worker
from esp_ingest.settings import IngestSettings
from esp_ingest.store.migrations import migrate as migrate_ingest
from esp_ingest.store.telemetry import prepare
from esp_stack.servers.rabbitmq import installed_major_version
from prometheus_client import REGISTRY
from waiting import until

MAX_BODY_BYTES = 4 * 1024 * 1024
LIMITS_PACKETS = installed_major_version() >= 4
"""RabbitMQ 4 limits the packet, topic included, and closes the connection by itself; 3.10 limits the body."""
LARGEST_BODY_BYTES = MAX_BODY_BYTES - (1024 if LIMITS_PACKETS else 0)
ARROW_ASSETS = """
INSERT INTO ingest.fields VALUES ('north', 'North');
INSERT INTO ingest.wells VALUES ('W1', 'north', 'W1');
INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P-arrow', 'W1');
INSERT INTO ingest.gateways VALUES ('gw-arrow', 'north', 'One');
INSERT INTO ingest.gateway_pumps VALUES ('gw-arrow', 'P-arrow')
"""


class Client:
    """An MQTT client that does not connect again by itself."""

    def __init__(self, field: Field, gateway_id: str, key: str, client_id: str) -> None:
        self.answer = ""
        """How the broker answered the connection; empty until it did."""
        self.closed = False
        self.subscribed: list[Any] = []
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, reconnect_on_failure=False
        )
        self._client.username_pw_set(gateway_id, key)
        self._client.tls_set_context(field.tls.client_context())
        self._client.on_connect = lambda *given: setattr(self, "answer", str(given[3]))
        self._client.on_disconnect = lambda *_: setattr(self, "closed", True)
        self._client.on_subscribe = lambda *given: self.subscribed.extend(given[3])
        self._client.connect("127.0.0.1", field.broker.ports.mqtt)
        self._client.loop_start()

    def publish(self, topic: str, body: bytes = b"[]", qos: int = 1) -> mqtt.MQTTMessageInfo:
        return self._client.publish(topic, body, qos=qos)

    def subscribe(self, topic: str, qos: int) -> None:
        self._client.subscribe(topic, qos)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
async def connect(field: Field) -> AsyncIterator[Callable[..., Any]]:
    """Connects as a gateway with a key of its own; `client_id` is the gateway's id unless given."""
    clients: list[Client] = []
    bindings = f"exchanges/%2F/{topology.BROKER_LOG}/bindings/source"
    await until(lambda: field.broker.api("GET", bindings).json(), "auth's worker reading the broker's log")

    async def connect(gateway_id: str, client_id: str | None = None) -> Client:
        _, key = await field.key(gateway_id)
        client_id = gateway_id if client_id is None else client_id
        client = await asyncio.to_thread(Client, field, gateway_id, key, client_id)
        clients.append(client)
        await until(lambda: client.answer, "an answer to CONNECT")
        return client

    yield connect
    for client in clients:
        await asyncio.to_thread(client.close)


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def test_a_body_over_the_limit_ends_the_connection_and_the_next_one_works(field, connect):
    before, stuck = await field.waiting(), metric("esp_auth_mqtt_stuck_total")
    client = await connect("gw-large")
    fits = client.publish("telemetry/gw-large", b"x" * LARGEST_BODY_BYTES)
    await until(fits.is_published, "a PUBACK for the largest body")
    large = client.publish("telemetry/gw-large", b"x" * (MAX_BODY_BYTES + 1))
    after = client.publish("telemetry/gw-large")
    await until(lambda: client.closed, "the connection's end")
    assert not large.is_published()
    assert not after.is_published()
    if not LIMITS_PACKETS:
        await until(lambda: metric("esp_auth_mqtt_stuck_total") == stuck + 1)
    again = await connect("gw-large")
    await until(again.publish("telemetry/gw-large").is_published, "a PUBACK on the next connection")
    assert await field.waiting() == before + 2


async def test_the_first_message_of_a_connection_may_be_the_one_over_the_limit(connect):
    client = await connect("gw-large")
    client.publish("telemetry/gw-large", b"x" * (MAX_BODY_BYTES + 1))
    await until(lambda: client.closed, "the connection's end")


async def test_an_amqp_connection_outlives_a_refused_message(field, connect):
    _, key = await field.key("gw-amqp")
    mqtt_client = await connect("gw-amqp")
    async with Publisher(field.url("gw-amqp", key)) as publisher:
        with pytest.raises(Exception, match="larger than configured max size"):
            await publisher.publish(topology.INGEST, "telemetry.gw-amqp", b"x" * (MAX_BODY_BYTES + 1))
        await until(lambda: publisher.connected)
        await publisher.publish(topology.INGEST, "telemetry.gw-amqp", b"[]")
    assert not mqtt_client.closed


async def test_a_full_queue_ends_the_connection_at_once(field, connect):
    client = await connect("gw-full")
    await until(client.publish("telemetry/gw-full").is_published, "a PUBACK")
    limit = {"pattern": f"^{topology.INGEST_TELEMETRY}$", "definition": {"max-length": 1}}
    field.broker.api("PUT", "policies/%2F/full", {**limit, "apply-to": "queues"})
    try:
        await eventually(lambda: _is_refused(connect))
    finally:
        field.broker.api("DELETE", "policies/%2F/full")
    await eventually(lambda: _is_taken(connect))


async def _is_refused(connect: Any) -> bool:
    client = await connect("gw-full")
    sent = client.publish("telemetry/gw-full")
    await until(lambda: client.closed or sent.is_published(), "a PUBACK or the connection's end")
    return not sent.is_published()


async def _is_taken(connect: Any) -> bool:
    return not await _is_refused(connect)


@pytest.mark.parametrize("client_id", ["gw-id", "gw-id:1", "gw-id/a", "gw-id_gw-other"])
async def test_a_client_id_begins_with_the_gateways(connect, client_id):
    assert (await connect("gw-id", client_id)).answer == "Success"


@pytest.mark.parametrize("client_id", ["gw-other", "gw-id-2", "gw-id2", "gw-i", "GW-ID", ":gw-id", ""])
async def test_any_other_client_id_is_refused(connect, client_id):
    other = await connect("gw-other")
    client = await connect("gw-id", client_id)
    assert client.answer == "Bad user name or password"
    assert not other.closed


async def test_the_last_connection_with_a_client_id_wins_and_that_is_counted(connect):
    before = metric("esp_auth_mqtt_takeovers_total")
    first = await connect("gw-twice")
    second = await connect("gw-twice")
    await until(lambda: first.closed, "the first connection's end")
    await until(second.publish("telemetry/gw-twice").is_published, "a PUBACK")
    await until(lambda: metric("esp_auth_mqtt_takeovers_total") == before + 1)


async def test_qos_2_is_taken_once_as_qos_1(field, connect):
    before = await field.waiting()
    client = await connect("gw-qos")
    await until(client.publish("telemetry/gw-qos", qos=2).is_published, "a PUBACK")
    assert await field.waiting() == before + 1


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_subscription_ends_the_connection_at_once(connect, qos):
    client = await connect("gw-sub")
    client.subscribe("telemetry/gw-sub", qos)
    await until(lambda: client.closed, "the connection's end")
    assert client.subscribed == []


async def test_arrow_stream_by_mqtt_is_stored(field, connect, make_database, redis_url):
    database = make_database("postgres")
    migrate_ingest(database.url("esp_ingest_owner"), "postgres")
    settings = IngestSettings(
        database_url=database.url("esp_ingest"),
        amqp_url=f"{field.broker.url_for('ingest')}?cafile={field.tls.authority}",
        redis_url=redis_url,
    )
    times = [datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=age) for age in range(3)]
    sent = pa.table(
        {
            "pump_id": ["P-arrow"] * 3,
            "time": pa.array(times, pa.timestamp("ms", "UTC")),
            "motor_current_a": [41.0, 41.5, None],
            "frequency_hz": [50.0, 50.0, 50.0],
        }
    )
    body = pa.BufferOutputStream()
    with pa.ipc.new_stream(body, sent.schema) as stream:
        stream.write_table(sent)
    stop = asyncio.Event()
    async with (
        asyncpg.create_pool(database.admin_url, min_size=1, max_size=1) as admin,
        await create_pool(settings, role="test", init=prepare) as pool,
        open_worker(settings, pool) as worker,
    ):
        await admin.execute(ARROW_ASSETS)
        running = asyncio.create_task(worker.run(stop))
        client = await connect("gw-arrow")
        # MQTT names no media type.
        await until(
            client.publish("telemetry/gw-arrow", body.getvalue().to_pybytes()).is_published, "a PUBACK"
        )
        query = "SELECT time, motor_current_a, frequency_hz FROM telemetry_v1.readings ORDER BY time DESC"

        async def stored() -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await admin.fetch(query)]

        await until(stored, "the readings", 60)
        expected = [(times[0], 41.0, 50.0), (times[1], 41.5, 50.0), (times[2], None, 50.0)]
        assert await stored() == expected
        stop.set()
        await running
