"""A database that stops or crashes under load: everything confirmed is stored once."""

import asyncio

import psutil
import pytest
from rig import batches, readings, until

OUTAGE_S = 30


# How long the worker waits does not depend on how readings are stored.
@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
async def test_database_stopped_for_30_s_catches_up_without_a_dead_letter(rig):
    # Long enough for the worker to give its messages back and wait for the database without any.
    worker = rig.worker(outage_pause_s=10)
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
