"""A broker or a Redis that stops, restarts, fills up or forgets: everything confirmed is stored once."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from esp_gateway.client import GatewayClient
from esp_gateway.link import with_credentials
from esp_gateway.spool import Spool
from rig import GATEWAY, batches, readings, until


@pytest.fixture(scope="module")
def engine():
    """None of this depends on how readings are stored."""
    return "postgres"


@asynccontextmanager
async def gateway(rig, tmp_path):
    """A real gateway with its spool, writing the rig's receipt."""
    key = rig.bed.rabbitmq.passwords[GATEWAY]
    url = with_credentials(f"amqp://127.0.0.1:{rig.bed.rabbitmq.ports.amqp}/", GATEWAY, key)
    spool = Spool(tmp_path / "spool.db", GATEWAY)
    try:
        async with GatewayClient(url, GATEWAY, spool, receipt=rig.receipt) as client:
            yield client
    finally:
        spool.close()


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_broker_restarted_under_load_loses_nothing(rig, tmp_path, how):
    worker = rig.worker()
    async with gateway(rig, tmp_path) as client:
        for number, batch in enumerate(batches(readings(6_000), 100)):
            await client.offer(batch)
            if number == 20:
                await until(lambda: client.confirmed > 0)
                stop = rig.bed.rabbitmq.stop if how == "restart" else rig.bed.rabbitmq.kill
                stop()
                await asyncio.to_thread(rig.bed.rabbitmq.start)
        await client.drained(60)
    found = await rig.reconciled()
    assert (found.receipt.stored, found.receipt.lost) == (found.receipt.confirmed, 0)
    assert rig.deployment.stored() == 6_000
    assert worker.is_ready()


async def test_redis_stopped_is_slower_never_wrong(rig):
    rig.worker()
    sent = batches(readings(2_000), 50)
    await rig.publish(sent)
    await until(lambda: rig.taken() == 2_000)
    rig.bed.redis.stop()
    try:
        await rig.publish(sent)
        await until(lambda: rig.taken() == 4_000)
        await rig.publish(batches(readings(100, start=datetime(2026, 1, 1, tzinfo=UTC)), 10))
        found = await rig.reconciled()
    finally:
        rig.bed.redis.start()
    assert (found.sums["stored"], found.sums["duplicates"], found.receipt.lost) == (2_100, 2_000, 0)


async def test_full_queue_refuses_the_publisher_and_keeps_what_it_confirmed(rig, tmp_path):
    policy = {
        "pattern": r"^ingest\.telemetry$",
        "definition": {"max-length": 5, "overflow": "reject-publish"},
        "apply-to": "queues",
    }
    rig.bed.rabbitmq.api("PUT", "policies/%2F/full", policy)
    async with gateway(rig, tmp_path) as client:
        try:
            for batch in batches(readings(3_000), 100):
                await client.offer(batch)
            await until(lambda: client.confirmed > 0)
            await asyncio.sleep(2)
            assert client.confirmed < 3_000, "the queue was never full"
        finally:
            rig.bed.rabbitmq.api("DELETE", "policies/%2F/full")
        rig.worker()
        await client.drained(60)
    found = await rig.reconciled()
    assert found.receipt.stored == 3_000


async def test_worker_whose_queue_vanishes_is_not_ready_until_it_consumes_again(rig):
    worker = rig.worker()
    rig.bed.rabbitmq.api("DELETE", "queues/%2F/ingest.telemetry")
    await until(worker.is_ready)
    await rig.publish(batches(readings(500), 50))
    found = await rig.reconciled()
    assert found.receipt.stored == 500
