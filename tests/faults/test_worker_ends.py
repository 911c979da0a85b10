"""Workers that are killed or told to end, at the worst moments."""

import asyncio
import signal

import aio_pika
from esp_common import topology
from rig import batches, readings, until


async def test_worker_killed_mid_batch_stores_each_reading_once_and_announces_all(rig, announced):
    sent = readings(20_000)
    await rig.publish(batches(sent, 100))
    for _ in range(3):
        worker = rig.worker(flush_readings=500)
        seen = rig.taken()
        await until(lambda seen=seen: rig.taken() > seen)
        rig.kill(worker)
    rig.worker()
    found = await rig.reconciled()
    assert (found.receipt.stored, found.receipt.duplicated, found.dead_letters) == (20_000, 0, 0)
    await until(lambda: announced.distinct == 20_000, 10, lambda: f"{announced.distinct} announced")


async def test_worker_killed_between_commit_and_publish_still_announces(rig, announced):
    async with await aio_pika.connect(rig.bed.rabbitmq.url) as connection:
        channel = await connection.channel()
        # A full queue that refuses what esp.telemetry brings holds the worker after its commit.
        full = await channel.declare_queue(
            "test.full", durable=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
        )
        await full.bind(topology.TELEMETRY, "#")
        worker = rig.worker()
        await rig.publish(batches(readings(1_000), 100))
        await until(lambda: rig.deployment.stored() == 1_000)
        rig.kill(worker)
        announced.keys.clear()
        await full.delete(if_unused=False, if_empty=False)
    rig.worker()
    await until(lambda: announced.distinct == 1_000, 30, lambda: f"{announced.distinct} announced")
    found = await rig.reconciled()
    assert (found.receipt.stored, found.sums["rows"]) == (1_000, 1_000)


async def test_worker_told_to_end_hands_back_what_it_has_not_stored(rig):
    publishing = asyncio.create_task(rig.publish(batches(readings(20_000), 50)))
    worker = rig.worker(flush_readings=500)
    await until(lambda: rig.taken() > 0)
    worker.signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    await publishing
    rig.worker()
    found = await rig.reconciled()
    assert (found.receipt.stored, found.dead_letters) == (20_000, 0)


async def test_two_workers_given_the_same_readings_interleaved_store_them_once(rig):
    rig.worker(flush_readings=300)
    rig.worker(flush_readings=700)
    sent = readings(6_000)
    await asyncio.gather(
        rig.publish(batches(sent, 100)),
        rig.publish(batches(sent, 130)),
        rig.publish(batches(list(reversed(sent)), 70)),
    )
    await until(lambda: rig.taken() == 18_000)
    found = await rig.reconciled()
    assert (found.receipt.confirmed, found.receipt.stored) == (18_000, 18_000)
    assert (found.sums["stored"], found.sums["duplicates"], found.sums["rows"]) == (6_000, 12_000, 6_000)
