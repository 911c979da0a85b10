"""Readings of the simulated field as messages, and a publisher that puts them into the queue confirmed."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from secrets import token_hex

import aio_pika
import numpy as np
import orjson
from bed import SEED
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.channels import CHANNEL_NAMES, CHANNELS
from esp_common.contracts.readings import Readings
from esp_gateway.simulator.field import build_field

PUMPS_PER_GATEWAY = 10
_RESOLUTION = np.array([channel.resolution for channel in CHANNELS])
_STEPS = np.round(1 / _RESOLUTION)
_IN_FLIGHT = 500


@dataclass(frozen=True)
class Message:
    """One message of a gateway."""

    gateway_id: str
    body: bytes
    content_type: str


def live_readings(count: int, pumps: int = 50) -> Readings:
    """Return `count` readings with all 24 channels, one a second and pump, up to a moment ago."""
    instants = -(-count // pumps)
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)
    field = build_field(SEED, pumps)
    readings = field.columns(end - timedelta(seconds=instants), end, 1)
    return _with_all_channels(readings.take(np.arange(count)))


def _with_all_channels(readings: Readings) -> Readings:
    """Fill what the field reports seldom, and round to what a gauge resolves."""
    random = np.random.default_rng(SEED)
    filler = random.uniform(10, 20, readings.values.shape) * np.where(_STEPS > 1000, 0.04, 1)
    values = np.where(np.isnan(readings.values), filler, readings.values)
    np.copyto(readings.values, np.round(values * _STEPS) / _STEPS)
    readings.running[:] = 1
    return readings


def arrow_messages(readings: Readings, size: int) -> list[Message]:
    """Return one Arrow message for each `size` readings of a gateway."""
    return [
        Message(gateway, arrow.encode(part), arrow.MEDIA_TYPE) for gateway, part in by_gateway(readings, size)
    ]


def json_messages(readings: Readings, size: int) -> list[Message]:
    """Return one JSON message for each `size` readings of a gateway; of one, the bare object."""
    messages = []
    for gateway, part in by_gateway(readings, size):
        objects = list(wire(part))
        body = objects[0] if size == 1 else {"readings": objects}
        messages.append(Message(gateway, orjson.dumps(body), "application/json"))
    return messages


def wire(readings: Readings) -> Iterator[dict[str, object]]:
    """Yield the readings as the JSON objects a gateway sends."""
    times = np.datetime_as_string(readings.time_us.astype("M8[us]"), unit="ms")
    for pump, time, row in zip(readings.pump_id, times, readings.values.tolist(), strict=True):
        yield {
            "pump_id": pump,
            "time": f"{time}Z",
            **dict(zip(CHANNEL_NAMES, row, strict=True)),
            "running": True,
        }


def by_gateway(readings: Readings, size: int) -> Iterator[tuple[str, Readings]]:
    """Cut readings into parts of `size` of one gateway, in the order of time, gateways taking turns."""
    numbers = gateway_numbers(readings)
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for at in range(0, int(counts.max()), size):
        for number, (start, count) in enumerate(zip(starts, counts, strict=True)):
            if at < count:
                yield _gateway(number), readings.take(order[start + at : start + min(at + size, count)])


def gateway_numbers(readings: Readings) -> np.ndarray:
    """Return the position of each reading's gateway."""
    return np.array([_gateway_number(pump) for pump in readings.pump_id])


@cache
def _gateway_number(pump_id: str) -> int:
    return (int(pump_id.rsplit("-", 1)[1]) - 1) // PUMPS_PER_GATEWAY


def _gateway(number: int) -> str:
    return f"gw-{number + 1:02d}"


def publish(url: str, messages: Sequence[Message]) -> None:
    """Publish `messages` to `esp.ingest` and return when the broker has confirmed every one."""
    asyncio.run(_publish(url, messages))


async def _publish(url: str, messages: Sequence[Message]) -> None:
    run = token_hex(4)
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(topology.INGEST, ensure=False)
        room = asyncio.Semaphore(_IN_FLIGHT)

        async def send(number: int, message: Message) -> None:
            async with room:
                await exchange.publish(
                    aio_pika.Message(
                        message.body,
                        content_type=message.content_type,
                        message_id=f"{run}-{number}",
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    topology.telemetry_key(message.gateway_id),
                )

        await asyncio.gather(*(send(number, message) for number, message in enumerate(messages)))
