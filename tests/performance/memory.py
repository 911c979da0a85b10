"""Memory: the worker under a flood of three times what it can take. The queue grows; its memory must not.

First the rate at which it drains a filled queue, then Arrow batches of 1,000 readings at three times that
rate, its resident memory sampled every second; then it drains the queue, and every reading published must
be in the store once and `esp-ingest reconcile` agree.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

import aio_pika
import numpy as np
import psutil
from bed import Bed, Deployment, wait_until
from benchmark import Size, main
from drain import drain_rate
from esp_common import topology
from esp_common.contracts import arrow
from report import Figure
from workload import arrow_messages, by_gateway, live_readings

TIMES = 3
BATCH = 1000
STEP_US = 250
MIB = 2**20


@dataclass
class Flood:
    """What was offered and what was seen of the worker meanwhile."""

    published: int = 0
    taken: int = 0
    seconds: float = 0
    rss: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


def memory(bed: Bed, size: Size) -> Iterator[Figure]:
    """Find what the worker can take, flood it, let it drain, and count."""
    deployment = bed.deploy(bed.engines[0])
    worker = deployment.ingest("worker")
    readings = live_readings(min(size.readings, 50_000))
    capacity = drain_rate(deployment, worker, arrow_messages(readings, BATCH), len(readings))
    deployment.forget()
    with worker.running():
        flood = asyncio.run(_flood(deployment, worker.pid, TIMES * capacity, size.flood_s))
        start = monotonic()
        wait_until(lambda: deployment.taken() >= flood.published, "queue drained", 60 + 20 * size.flood_s, 1)
        drained = (flood.published - flood.taken) / (monotonic() - start)
    yield from _figures(flood, size)
    yield Figure("flood: drained afterwards", [drained], "readings/s", [capacity], note="before the flood")
    stored = deployment.stored()
    yield Figure("flood: readings stored", [stored], "readings", [flood.published], 1, note="published")
    if stored != flood.published:
        raise SystemExit(f"{flood.published} readings published, {stored} stored")
    deployment.run("esp_ingest", "reconcile")


def _figures(flood: Flood, size: Size) -> Iterator[Figure]:
    quarter = len(flood.rss) // 4
    early, late = flood.rss[quarter : 2 * quarter], flood.rss[-quarter:]
    offered, taken = flood.published / flood.seconds, flood.taken / flood.seconds
    name = f"flood of {size.flood_s} s"
    yield Figure(f"{name}: offered", [offered], "readings/s", [taken], TIMES, note="taken meanwhile")
    yield Figure(
        f"{name}: queue at the end",
        [flood.waiting[-1]],
        "messages",
        [flood.waiting[len(flood.waiting) // 2]],
        note="half-way",
    )
    yield Figure(
        f"{name}: worker's memory, last quarter", late, "MiB", early, 1.1, at_most=True, note="second quarter"
    )
    yield Figure(f"{name}: worker's memory, peak", [max(flood.rss)], "MiB")


async def _flood(deployment: Deployment, pid: int, rate: float, seconds: int) -> Flood:
    flood = Flood()
    url = deployment.bed.rabbitmq.url
    over = monotonic() + seconds
    async with await aio_pika.connect(url) as connection:
        watching = asyncio.create_task(_watch(connection, pid, flood))
        start = monotonic()
        await _publish(connection, rate, over, flood)
        flood.seconds = monotonic() - start
        flood.taken = deployment.taken()
        watching.cancel()
    return flood


async def _publish(
    connection: aio_pika.abc.AbstractConnection, rate: float, over: float, flood: Flood
) -> None:
    """Publish batches of new readings at `rate` readings a second (or as fast as it goes) until `over`."""
    channel = await connection.channel(publisher_confirms=True)
    exchange = await channel.get_exchange(topology.INGEST, ensure=False)
    room = asyncio.Semaphore(50)
    start = monotonic()

    async def send(gateway: str, body: bytes) -> None:
        async with room:
            message = aio_pika.Message(body, content_type=arrow.MEDIA_TYPE, delivery_mode=2)
            await exchange.publish(message, topology.telemetry_key(gateway))

    async with asyncio.TaskGroup() as sending:
        for gateway, body in _batches():
            async with room:
                sending.create_task(send(gateway, body))
            flood.published += BATCH
            await asyncio.sleep(max(0, start + flood.published / rate - monotonic()))
            if monotonic() > over:
                return


def _batches() -> Iterator[tuple[str, bytes]]:
    """Yield Arrow batches without end, none of their readings twice, all of the last minutes."""
    parts = list(by_gateway(live_readings(5 * BATCH), BATCH))
    span_us = BATCH // 10 * STEP_US
    now_us = int(datetime.now(UTC).timestamp() * 1e6)
    lap = 0
    while True:
        for gateway, part in parts:
            part.time_us[:] = now_us + lap * span_us + np.repeat(np.arange(BATCH // 10) * STEP_US, 10)
            yield gateway, arrow.encode(part)
        lap += 1


async def _watch(connection: aio_pika.abc.AbstractConnection, pid: int, flood: Flood) -> None:
    process = psutil.Process(pid)
    channel = await connection.channel()
    while True:
        queue = await channel.declare_queue(topology.INGEST_TELEMETRY, passive=True)
        flood.rss.append(process.memory_info().rss / MIB)
        flood.waiting.append(queue.declaration_result.message_count or 0)
        await asyncio.sleep(1)


if __name__ == "__main__":
    main(memory)
