"""What the same servers give to a program that does nothing but the one thing: the ceilings."""

import asyncio
import gc
from collections.abc import Sequence
from io import BytesIO
from time import perf_counter
from typing import Any, Literal

import aio_pika
import asyncpg
import numpy as np
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from esp_common import topology
from esp_common.contracts.channels import CHANNELS
from esp_common.contracts.readings import Readings
from esp_ingest.store.batch import MASKS
from esp_ingest.store.copy import Column, encode, pg_timestamps

Acks = Literal["each", "multiple"]
_ACK_EVERY = 100


def copy_bodies(
    readings: Readings, pump_numbers: dict[str, int], size: int, *, as_arrived: bool = False
) -> list[bytes]:
    """Return the readings as binary COPY streams of `size` rows for `ingest.telemetry`, scaled.

    Each is sorted by its key, as is best for inserting, unless `as_arrived`.
    """
    numbers = np.array([pump_numbers[pump] for pump in readings.pump_id], dtype=np.int32)
    steps = np.array([round(1 / channel.resolution) for channel in CHANNELS])
    scaled = np.nan_to_num(np.round(readings.values * steps)).astype(np.int32)
    absent = np.isnan(readings.values)
    bodies = []
    for at in range(0, len(readings), size):
        rows = np.arange(at, min(at + size, len(readings)))
        if not as_arrived:
            rows = rows[np.lexsort((readings.time_us[rows], numbers[rows]))]
        nothing = Column(np.zeros(len(rows), np.int32), np.ones(len(rows), bool))
        channels = [Column(scaled[rows, i], absent[rows, i]) for i in range(len(CHANNELS))]
        times = pg_timestamps(readings.time_us[rows])
        columns = [Column(numbers[rows]), Column(times), *channels, Column(readings.running[rows])]
        bodies.append(encode([*columns, nothing, *[nothing] * len(MASKS)]))
    return bodies


def copy_rate(url: str, bodies: Sequence[bytes], rows: int) -> float:
    """Return rows a second of COPY into staging and INSERT ON CONFLICT, a transaction for each body."""
    return uvloop.run(_copy_rate(url, bodies, rows))


async def _copy_rate(url: str, bodies: Sequence[bytes], rows: int) -> float:
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TEMP TABLE staging (LIKE ingest.telemetry) ON COMMIT DELETE ROWS")
        start = perf_counter()
        for body in bodies:
            async with connection.transaction():
                await connection.copy_to_table("staging", source=BytesIO(body), format="binary")
                await connection.execute(
                    "INSERT INTO ingest.telemetry SELECT * FROM staging ON CONFLICT DO NOTHING"
                )
        return rows / (perf_counter() - start)
    finally:
        await connection.close()


def consumer_rate(url: str, count: int, prefetch: int, acks: Acks) -> float:
    """Return messages a second that aio-pika takes from the telemetry queue when it only acks them."""
    gc.collect()
    gc.freeze()
    return uvloop.run(_consumer_rate(url, count, prefetch, acks))


async def _consumer_rate(url: str, count: int, prefetch: int, acks: Acks) -> float:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=prefetch)
        queue = await channel.get_queue(topology.INGEST_TELEMETRY, ensure=False)
        done = asyncio.Event()
        seen = 0

        async def ack_each(message: AbstractIncomingMessage) -> None:
            nonlocal seen
            await message.ack()
            seen += 1
            if seen == count:
                done.set()

        async def ack_multiple(message: AbstractIncomingMessage) -> None:
            nonlocal seen
            seen += 1
            if seen % _ACK_EVERY == 0 or seen == count:
                await message.ack(multiple=True)
            if seen == count:
                done.set()

        start = perf_counter()
        await queue.consume(ack_each if acks == "each" else ack_multiple)
        await done.wait()
        return count / (perf_counter() - start)


async def answer_202(scope: Any, receive: Any, send: Any) -> None:
    """Bare ASGI application: read the body, answer 202."""
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
