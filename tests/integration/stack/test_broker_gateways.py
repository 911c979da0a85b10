"""Gateways on the broker as the stack has them: TLS, no users of its own, and auth to say who may what."""

import asyncio
import json
import socket
import ssl

import aio_pika
import aiormq
import asyncpg
import paho.mqtt.client as mqtt
import pytest
from broker_field import CACHE_S, SWEEP_S, TESTER, Field, eventually
from esp_common import topology
from esp_common.auth import new_api_key
from esp_common.errors import EspError, InvalidInput
from esp_common.messaging import Publisher
from esp_gateway.accounts import from_endpoints, from_key_file

REFUSED = (aiormq.exceptions.AMQPError, EspError, ConnectionError, RuntimeError)


async def publish(url: str, routing_key: str, exchange: str = topology.INGEST) -> None:
    """Publish once over a connection of its own; raises what it is refused with."""
    async with Publisher(url, timeout_s=20) as publisher:
        if publisher.failure:
            raise publisher.failure
        await publisher.publish(exchange, routing_key, b"[]")


async def test_a_gateway_publishes_with_its_key_under_its_own_id(field):
    _, key = await field.key("gw-own")
    await publish(field.url("gw-own", key), "telemetry.gw-own")
    await publish(field.url("gw-own", key), "telemetry.gw-own.P-1")


async def test_the_gateways_account_says_whom_to_believe(field, tmp_path):
    _, key = await field.key("gw-file")
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text(key)
    address = f"{field.broker.address}/"
    account = from_key_file(address, "gw-file", tmp_path / "key", field.tls.authority)
    await publish(account.url, "telemetry.gw-file")
    with pytest.raises(InvalidInput, match="no file"):
        from_key_file(address, "gw-file", tmp_path / "key", tmp_path / "nothing.pem")


async def test_a_running_stacks_endpoints_are_enough_for_a_gateway(field, tmp_path):
    _, key = await field.key("gw-demo")
    document = {
        "amqp": field.broker.url,
        "ca_file": str(field.tls.authority),
        "gateway": {"id": "gw-demo", "key": key},
    }
    (tmp_path / "endpoints.json").touch(0o600)
    (tmp_path / "endpoints.json").write_text(json.dumps(document))
    await publish(from_endpoints(tmp_path / "endpoints.json").url, "telemetry.gw-demo")


@pytest.mark.parametrize(
    ("exchange", "routing_key"),
    [
        (topology.INGEST, "telemetry.gw-other"),
        (topology.INGEST, "telemetry.gw-ownx"),
        (topology.INGEST, "telemetry"),
        (topology.EVENTS, "telemetry.gw-own"),
        (topology.TELEMETRY, "telemetry.gw-own"),
        (topology.COMMANDS, topology.AUTH_VERIFY_KEY),
        ("", topology.INGEST_TELEMETRY),
    ],
)
async def test_a_gateway_publishes_nowhere_else(field, exchange, routing_key):
    _, key = await field.key("gw-own")
    with pytest.raises(REFUSED):
        await publish(field.url("gw-own", key), routing_key, exchange)


async def test_a_gateway_reads_and_declares_nothing(field):
    _, key = await field.key("gw-own")
    for queue in (topology.INGEST_TELEMETRY, "mine"):
        async with await aio_pika.connect(field.url("gw-own", key)) as connection:
            channel = await connection.channel()
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await (await channel.declare_queue(queue, passive=queue != "mine")).get(fail=False)


async def test_the_audit_log_says_which_gateway_was_let_in_and_which_refused(field):
    _, key = await field.key("gw-audited")
    with pytest.raises(REFUSED):
        await publish(field.url("gw-audited", new_api_key("another")), "telemetry.gw-audited")
    await publish(field.url("gw-audited", key), "telemetry.gw-audited")
    connection = await asyncpg.connect(field.auth_settings.database_url)
    query = "SELECT DISTINCT outcome FROM auth.audit_log WHERE object = '/broker/user' AND actor_id = $1"

    async def both_recorded() -> bool:
        rows = await connection.fetch(query, "gw-audited")
        return {row["outcome"] for row in rows} == {"denied", "success"}

    try:
        await eventually(both_recorded, 60)
    finally:
        await connection.close()


@pytest.mark.parametrize("listener", ["amqp", "mqtt"])
@pytest.mark.parametrize(
    ("ciphers", "taken"),
    [
        ("ECDHE+AESGCM:ECDHE+CHACHA20", True),
        ("ECDHE+AES:!AESGCM:!AESCCM", False),
        ("RSA+AESGCM", False),
    ],
    ids=["aead", "cbc", "no-forward-secrecy"],
)
def test_only_suites_that_authenticate_are_taken(
    field: Field, listener: str, ciphers: str, taken: bool
) -> None:
    context = ssl.create_default_context(cafile=str(field.tls.authority))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    address = ("127.0.0.1", getattr(field.broker.ports, listener))
    try:
        with (
            socket.create_connection(address, timeout=20) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1"),
        ):
            was_taken = True
    except (ssl.SSLError, ConnectionError):
        was_taken = False
    assert was_taken is taken


@pytest.mark.parametrize("wrong", ["another-gateways", "unknown", "malformed", "empty"])
async def test_a_key_that_is_not_the_gateways_opens_no_connection(field, wrong):
    _, key = await field.key("gw-right")
    _, others = await field.key("gw-wrong")
    password = {
        "another-gateways": others,
        "unknown": new_api_key("unknown"),
        "malformed": key[:-1] + "_",
        "empty": "",
    }[wrong]
    with pytest.raises(aiormq.exceptions.ProbableAuthenticationError):
        await aio_pika.connect(field.url("gw-right", password))


async def test_a_service_is_not_a_gateway_and_auth_is_not_asked_about_it(field):
    with pytest.raises(InvalidInput, match="ingest is a reserved name"):
        await field.key("ingest")
    _, key = await field.key("gw-own")
    with pytest.raises(aiormq.exceptions.ProbableAuthenticationError):
        await aio_pika.connect(field.url("ingest", key))


async def test_the_broker_speaks_no_plain_amqp(field):
    _, key = await field.key("gw-own")
    with pytest.raises((OSError, aiormq.exceptions.AMQPError)):
        await aio_pika.connect(field.url("gw-own", key).replace("amqps", "amqp"), timeout=10)
    with pytest.raises(aiormq.exceptions.AMQPConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        await aio_pika.connect(field.url("gw-own", key).split("?")[0])


async def test_mqtt_over_tls_has_the_same_rules(field):
    _, key = await field.key("gw-mqtt")
    before = await field.waiting()
    assert await asyncio.to_thread(mqtt_publish, field, "gw-mqtt", key, "telemetry/gw-mqtt") == "Success"
    await eventually(lambda: _exceeds(field, before))
    wrong = new_api_key("gw-mqtt")
    assert await asyncio.to_thread(mqtt_publish, field, "gw-mqtt", wrong, "telemetry/gw-mqtt") != "Success"


async def _exceeds(field: Field, before: int) -> bool:
    return await field.waiting() > before


def mqtt_publish(field: Field, gateway_id: str, key: str, topic: str) -> str:
    """Publish by MQTT; return how the broker answered the connection."""
    answers: list[str] = []
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=gateway_id)
    client.username_pw_set(gateway_id, key)
    client.tls_set_context(field.tls.client_context())
    client.on_connect = lambda *arguments: answers.append(str(arguments[3]))
    client.connect("127.0.0.1", field.broker.ports.mqtt)
    while not answers:
        client.loop(1)
    if answers[0] == "Success":
        sent = client.publish(topic, b"[]", qos=1)
        while not sent.is_published():
            client.loop(1)
    client.disconnect()
    return answers[0]


@pytest.mark.parametrize("pause_s", [0.01, 1.0], ids=["busy", "slow"])
async def test_a_connection_ends_soon_after_its_key_is_revoked(field, pause_s):
    gateway_id = f"gw-revoked-{int(pause_s)}"
    key_id, key = await field.key(gateway_id)
    async with await aio_pika.connect(field.url(gateway_id, key)) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.INGEST, ensure=False)

        async def publish_until_refused() -> None:
            while True:
                await exchange.publish(aio_pika.Message(b"[]"), topology.telemetry_key(gateway_id))
                await asyncio.sleep(pause_s)

        publishing = asyncio.create_task(publish_until_refused())
        await until_listed(field, gateway_id)
        assert not publishing.done()
        await field.identity.api_keys.revoke(key_id, TESTER)
        async with asyncio.timeout(30):
            with pytest.raises(REFUSED):
                await publishing
    # What the broker was told last counts until its cache forgets it.
    await eventually(lambda: _is_refused(field.url(gateway_id, key)), CACHE_S + 20)


async def _is_refused(url: str) -> bool:
    try:
        await (await aio_pika.connect(url)).close()
    except aiormq.exceptions.ProbableAuthenticationError:
        return True
    return False


async def test_a_gateway_with_another_valid_key_goes_on_with_it(field):
    old_id, old = await field.key("gw-two")
    _, new = await field.key("gw-two")
    async with Publisher(field.url("gw-two", old)) as publisher:
        await until_listed(field, "gw-two")
        await field.identity.api_keys.revoke(old_id, TESTER)
        await eventually(lambda: _is_cut(publisher))
    async with Publisher(field.url("gw-two", new)) as publisher:
        await until_listed(field, "gw-two")
        for _ in range(5):
            await publisher.publish(topology.INGEST, "telemetry.gw-two", b"[]")
            await asyncio.sleep(SWEEP_S)
        assert publisher.connected


async def _is_cut(publisher: Publisher) -> bool:
    return not publisher.connected


async def until_listed(field: Field, user: str) -> None:
    """Wait until the management API knows the connection of `user`, which takes it some seconds."""

    async def is_listed() -> bool:
        found = await asyncio.to_thread(field.broker.api, "GET", "connections?columns=user,connected_at")
        return any(one.get("user") == user and one.get("connected_at") for one in found.json())

    await eventually(is_listed)


def test_the_broker_has_no_gateways_of_its_own_and_forgets_those_it_had(field):
    field.broker.api("PUT", "users/gw-01", {"password": "old", "tags": ""})
    field.broker.wait_ready()
    users = {user["name"] for user in field.broker.api("GET", "users").json()}
    assert users == {"admin", "session-keeper", *topology.SERVICES}
