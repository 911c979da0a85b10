"""The client against a real broker: what it was offered arrives, whatever the broker does."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue
from esp_common import topology
from esp_common.errors import BrokerUnavailable
from esp_gateway.client import GatewayClient
from esp_gateway.encoding import Encoding, decode
from esp_gateway.errors import LinkRefused, SpoolFull
from esp_gateway.spool import Spool, read_state
from esp_stack.servers import RabbitMQ, Vhost
from waiting import until

GATEWAY = "gw-01"
DEADLINE_S = 60.0


def readings(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"pump_id": f"P-{number}", "time": "2026-03-01T12:00:00+00:00", "motor_temp_c": number / 7}
        for number in range(start, start + count)
    ]


def pumps(messages: Sequence[aio_pika.abc.AbstractIncomingMessage]) -> Counter[str]:
    return Counter(
        reading["pump_id"]
        for message in messages
        for reading in decode(message.content_type or "", message.body)
    )


@pytest.fixture
async def queue(vhost: Vhost) -> AsyncIterator[AbstractQueue]:
    connection = await aio_pika.connect(vhost.url)
    channel = await connection.channel()
    queue = await channel.get_queue(topology.INGEST_TELEMETRY)
    await queue.purge()
    yield queue
    await connection.close()


@pytest.fixture
def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "gw.spool", GATEWAY)
    yield spool
    spool.close()


async def received(queue: AbstractQueue) -> list[aio_pika.abc.AbstractIncomingMessage]:
    messages = []
    while message := await queue.get(no_ack=True, fail=False):
        messages.append(message)
    return messages


@pytest.mark.parametrize("encoding", Encoding)
async def test_offered_readings_arrive_and_leave_the_spool(
    vhost: Vhost, queue: AbstractQueue, spool: Spool, encoding: Encoding
) -> None:
    async with GatewayClient(vhost.url_for(GATEWAY), GATEWAY, spool, encoding=encoding) as client:
        await asyncio.gather(*(client.offer(readings(3, 3 * number)) for number in range(400)))
        await client.drained(DEADLINE_S)
        assert client.confirmed == 1200
    messages = await received(queue)
    assert len(messages) == 400  # as they were grouped when offered
    assert pumps(messages) == Counter({f"P-{number}": 1 for number in range(1200)})
    assert {message.routing_key for message in messages} == {"telemetry.gw-01"}
    assert {message.delivery_mode for message in messages} == {aio_pika.DeliveryMode.PERSISTENT}
    state = read_state(spool.path)
    assert (state.batches, state.spooled, state.confirmed) == (0, 1200, 1200)


async def test_readings_taken_without_a_link_go_out_when_it_is_back(
    vhost: Vhost, queue: AbstractQueue, spool: Spool
) -> None:
    async with GatewayClient("amqp://gw-01:x@127.0.0.1:1/", GATEWAY, spool) as client:
        await client.offer(readings(10))
        with pytest.raises(BrokerUnavailable, match=r"nothing confirmed for 0\.5 s, link down"):
            await client.drained(0.5)
    assert read_state(spool.path).readings == 10
    async with GatewayClient(vhost.url_for(GATEWAY), GATEWAY, spool) as client:
        await client.drained(DEADLINE_S)
    assert pumps(await received(queue)) == Counter({f"P-{number}": 1 for number in range(10)})


async def test_a_batch_sent_again_after_a_crash_has_the_same_message_id(
    vhost: Vhost, queue: AbstractQueue, tmp_path: Path
) -> None:
    first = Spool(tmp_path / "first.spool", GATEWAY)
    async with GatewayClient("amqp://gw-01:x@127.0.0.1:1/", GATEWAY, first) as client:
        await client.offer(readings(700))
    first.close()
    # The disk as it is if the process dies after the broker's confirm and before the delete.
    shutil.copy(tmp_path / "first.spool", tmp_path / "crashed.spool")
    for name in ("first", "crashed"):
        spool = Spool(tmp_path / f"{name}.spool", GATEWAY)
        async with GatewayClient(vhost.url_for(GATEWAY), GATEWAY, spool) as client:
            await client.drained(DEADLINE_S)
        spool.close()
    messages = await received(queue)
    assert sorted(Counter(message.message_id for message in messages).values()) == [2, 2]
    assert len({(message.message_id, message.body) for message in messages}) == 2


async def test_what_a_full_queue_refuses_is_kept_until_it_has_room(
    vhost: Vhost, rabbitmq: RabbitMQ, queue: AbstractQueue, spool: Spool
) -> None:
    policy = f"policies/{vhost.name}/tiny"
    rabbitmq.api(
        "PUT",
        policy,
        {"pattern": "^ingest.telemetry$", "apply-to": "queues", "definition": {"max-length": 5}},
    )
    taken: list[aio_pika.abc.AbstractIncomingMessage] = []
    try:
        async with GatewayClient(vhost.url_for(GATEWAY), GATEWAY, spool) as client:
            await asyncio.gather(*(client.offer(readings(1, number)) for number in range(100)))
            try:
                holding = "holding: esp.ingest refused telemetry.gw-01"
                await until(lambda: read_state(spool.path).link == holding, timeout_s=DEADLINE_S)
                await asyncio.sleep(1.0)
                kept = read_state(spool.path)
                assert kept.batches > 0
                assert kept.batches + kept.confirmed == 100  # refused, and nothing of it forgotten
            finally:
                rabbitmq.api("DELETE", policy)
            await client.drained(DEADLINE_S)
            assert client.link == "up"
    finally:
        taken += await received(queue)
    assert set(pumps(taken)) == {f"P-{number}" for number in range(100)}
    assert len({message.message_id for message in taken}) == 100  # refused or not, a batch keeps its name


async def test_a_wrong_key_is_told_from_a_lost_link(vhost: Vhost, spool: Spool) -> None:
    url = vhost.url_for(GATEWAY).replace("gw-01:", "gw-01:wrong")
    async with GatewayClient(url, GATEWAY, spool) as client:
        await client.offer(readings(1))
        with pytest.raises(LinkRefused, match="ACCESS_REFUSED"):
            await client.drained(DEADLINE_S)
    assert read_state(spool.path).readings == 1


async def test_readings_of_another_gateway_are_refused_and_kept(
    vhost: Vhost, queue: AbstractQueue, spool: Spool
) -> None:
    async with GatewayClient(vhost.url_for("gw-02"), GATEWAY, spool) as client:
        await client.offer(readings(1))
        with pytest.raises(LinkRefused, match=r"telemetry\.gw-01"):
            await client.drained(DEADLINE_S)
    assert await received(queue) == []
    assert read_state(spool.path).readings == 1


async def test_a_full_spool_holds_readings_back_and_takes_them_after_a_confirmation(
    vhost: Vhost, queue: AbstractQueue, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "gw.spool", GATEWAY, max_bytes=1 << 16)
    async with GatewayClient("amqp://gw-01:x@127.0.0.1:1/", GATEWAY, spool) as client:
        number = 0
        with suppress(SpoolFull):
            for number in range(1000):
                await client.offer(readings(10, 10 * number))
    assert 0 < number < 999
    async with GatewayClient(vhost.url_for(GATEWAY), GATEWAY, spool) as client:
        while True:
            try:
                await client.offer(readings(10, 10 * number))
                break
            except SpoolFull:
                await client.settled(DEADLINE_S)
        await client.drained(DEADLINE_S)
    spool.close()
    assert pumps(await received(queue)) == Counter({f"P-{n}": 1 for n in range(10 * number + 10)})


async def test_the_receipt_has_every_confirmed_reading_as_it_was_sent(
    vhost: Vhost, queue: AbstractQueue, spool: Spool, tmp_path: Path
) -> None:
    receipt = tmp_path / "receipt.jsonl"
    sent = [*readings(600), {"pump_id": "odd", "time": "yesterday", "note": None}]
    async with GatewayClient(
        vhost.url_for(GATEWAY), GATEWAY, spool, receipt=receipt, encoding=Encoding.ARROW
    ) as client:
        await client.offer(sent)
        await client.drained(DEADLINE_S)
        lines = [json.loads(line) for line in receipt.read_text().splitlines()]  # before the client is closed
    assert {line["gateway_id"] for line in lines} == {GATEWAY}
    assert sorted((line["reading"] for line in lines), key=lambda r: r["pump_id"]) == sorted(
        sent, key=lambda r: r["pump_id"]
    )


async def test_one_bad_offer_does_not_spoil_those_made_with_it(
    vhost: Vhost, queue: AbstractQueue, spool: Spool
) -> None:
    async with GatewayClient(vhost.url_for(GATEWAY), GATEWAY, spool) as client:
        outcomes = await asyncio.gather(
            client.offer(readings(1)),
            client.offer([{"pump_id": object()}]),
            client.offer(readings(1, 1)),
            return_exceptions=True,
        )
        await client.drained(DEADLINE_S)
    assert [type(outcome) for outcome in outcomes] == [type(None), TypeError, type(None)]
    assert set(pumps(await received(queue))) == {"P-0", "P-1"}


async def test_a_broker_restarted_under_load_loses_nothing(
    vhost: Vhost, rabbitmq: RabbitMQ, spool: Spool
) -> None:
    async with GatewayClient(vhost.url_for(GATEWAY), GATEWAY, spool) as client:

        async def offer(start: int) -> None:
            for number in range(start, start + 1000):
                await client.offer(readings(1, number))

        offering = asyncio.gather(*(offer(1000 * number) for number in range(10)))
        await until(lambda: client.confirmed > 500, timeout_s=DEADLINE_S)
        await asyncio.to_thread(rabbitmq.restart)
        await offering
        await client.drained(DEADLINE_S)
    connection = await aio_pika.connect(vhost.url)
    async with connection:
        channel = await connection.channel()
        messages = await received(await channel.get_queue(topology.INGEST_TELEMETRY))
    assert set(pumps(messages)) == {f"P-{number}" for number in range(10_000)}
    assert len({message.message_id for message in messages}) == 10_000
    assert read_state(spool.path).batches == 0
