"""Servers that stop, restart or vanish under load: everything confirmed is stored once."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import psutil
import pytest
from esp_gateway.client import GatewayClient
from esp_gateway.link import with_credentials
from esp_gateway.spool import Spool
from rig import GATEWAY, batches, readings, until

OUTAGE_S = 30


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


@pytest.mark.parametrize("give_back_after_s", [10, 600])
async def test_database_stopped_for_30_s_catches_up_without_a_dead_letter(rig, give_back_after_s):
    worker = rig.worker(outage_pause_s=give_back_after_s)
    before, during, after = batches(readings(3_000), 1_000)
    await rig.publish(batches(before, 50))
    await until(lambda: rig.taken() == 1_000)
    rig.bed.postgres.stop()
    try:
        await rig.publish(batches(during, 50))
        await asyncio.sleep(OUTAGE_S)
    finally:
        rig.bed.postgres.start()
    await rig.publish(batches(after, 50))
    found = await rig.reconciled(60)
    assert (found.receipt.stored, found.dead_letters) == (3_000, 0)
    assert psutil.pid_exists(worker.pid)


async def test_database_killed_under_load_loses_nothing(rig):
    rig.worker(flush_readings=200)
    publishing = asyncio.create_task(rig.publish(batches(readings(10_000), 50)))
    await until(lambda: rig.taken() > 0)
    rig.bed.postgres.kill()
    rig.bed.postgres.start()
    await publishing
    found = await rig.reconciled()
    assert (found.receipt.stored, found.receipt.duplicated) == (10_000, 0)


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
