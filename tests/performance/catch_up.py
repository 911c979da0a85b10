"""Measure how much the histories of some pumps delay the live readings of others.

Gateways publish live readings each second, first alone, then while the histories of 20 other pumps arrive,
are stored and judged. The delay is from publication to a WebSocket: through ingest's worker, diagnostics'
worker and its API. Where it arises is in their metrics: `esp_ingest_flush_seconds`,
`esp_diagnostics_lag_seconds` and `esp_diagnostics_round_seconds`.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from bed import SEED, Bed, Deployment, Role
from benchmark import Size, main
from diagnosis import Ear, role, scans_of
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.readings import Readings
from esp_common.messaging import Publisher
from esp_diagnostics.live.session import PATH
from esp_diagnostics.store.migrations import migrate
from esp_gateway.simulator.field import Field, build_field
from report import Figure
from websockets.asyncio.client import connect

BEHIND: Final = 20
"""Pumps whose history arrives."""

WARM_UP_S: Final = 2
LONGEST_S: Final = 600.0
MESSAGE_S: Final = 50
"""Span of the histories in one message: what a gateway sends at once after an outage."""

WAITING: Final = "SELECT coalesce(extract(epoch FROM sum(until - judged)), 0) FROM diagnostics.backlogs"


class Run(NamedTuple):
    """Delays (s) of live readings without and with histories, and readings of these judged per second."""

    alone: Sequence[float]
    beside: Sequence[float]
    past_per_s: float


def catch_up(bed: Bed, size: Size) -> Iterator[Figure]:
    """Yield the delay of live readings while histories of others arrive, and how fast those are judged."""
    history = size.readings * 4 // 3
    run = asyncio.run(_run(bed, size.live_pumps, history // BEHIND, max(size.load_s, 2)))
    alone, beside = (float(np.percentile(delays, 95)) for delays in (run.alone, run.beside))
    yield Figure(
        "published reading → told live beside a backlog, 95 of 100",
        [beside],
        "s",
        [alone],
        target=1.0,
        of="measured",
        at_most=True,
        note=f"{size.live_pumps} live pumps, {history:,} readings of {BEHIND} others; against without",
    )
    yield Figure("readings of a backlog judged beside live ones", [run.past_per_s], "/s", of="measured")


async def _run(bed: Bed, live: int, history: int, seconds: int) -> Run:
    bed.forget()
    deployment = bed.deploy("postgres", BEHIND + live)
    migrate(deployment.url("esp_diagnostics_owner"), "postgres")
    field, part = (build_field(SEED, pumps, interval_s=1.0) for pumps in (BEHIND + live, BEHIND))
    behind = [pump["pump_id"] for pump in part.assets()["pumps"]]
    past = _past(deployment, part, history)
    beside_s = 4 * seconds if seconds > 2 else seconds
    scans = scans_of(field, WARM_UP_S + seconds + beside_s)
    present = [scan.take(~np.isin(scan.pump_id, behind)) for scan in scans]
    worker, api = (role(deployment, name) for name in ("worker", "api"))
    ingest, gateways = deployment.ingest("worker"), _gateways(field)
    with bed.auth(deployment).running(), ingest.running(), api.running(), worker.running():
        async with (
            connect(f"ws://127.0.0.1:{api.port}{PATH}", compression=None) as socket,
            Publisher(bed.rabbitmq.url) as publisher,
            Publisher(bed.rabbitmq.url) as past_publisher,
        ):
            source, past_source = Source(publisher, gateways), Source(past_publisher, gateways)
            ear = Ear(socket)
            await ear.tune_in()
            await _live(source, present[:WARM_UP_S], ear, worker)
            alone = await _live(source, present[WARM_UP_S : WARM_UP_S + seconds], ear, worker)
            began = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_publish_past(past_source, past))
                beside = await _live(source, present[WARM_UP_S + seconds :], ear, worker)
            judged, took = len(past) - _waiting(deployment), time.monotonic() - began
    return Run(alone, beside, judged / took)


class Source(NamedTuple):
    """Publishes readings as their gateways do."""

    publisher: Publisher
    gateways: Mapping[str, str]

    async def send(self, readings: Readings) -> None:
        """Publish readings, a message for each gateway."""
        gateway_ids = np.array([self.gateways[pump_id] for pump_id in readings.pump_id])
        bodies = {each: arrow.encode(readings.take(gateway_ids == each)) for each in np.unique(gateway_ids)}
        publish = partial(self.publisher.publish, topology.INGEST, content_type=arrow.MEDIA_TYPE)
        await asyncio.gather(
            *(publish(topology.telemetry_key(gateway_id), body) for gateway_id, body in bodies.items())
        )


def _gateways(field: Field) -> dict[str, str]:
    """Return the gateway of each pump."""
    return {
        pump_id: gateway["gateway_id"]
        for gateway in field.assets()["gateways"]
        for pump_id in gateway["pumps"]
    }


def _past(deployment: Deployment, part: Field, history: int) -> Readings:
    """Return a history of `history` readings of each pump, one a second."""
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    past = part.columns(end - timedelta(seconds=history), end, 1.0)
    deployment.ensure_partitions(past)
    return past


async def _live(source: Source, present: Sequence[Readings], ear: Ear, worker: Role) -> list[float]:
    """Publish a reading of each pump each second; return their delays, s."""
    ear.delays.clear()
    # Beside histories a publication takes a while: what is told meanwhile must not wait for its end.
    listening = asyncio.create_task(ear.listen(until=time.time() + 2 * len(present) + LONGEST_S))
    for scan in present:
        began = time.time()
        scan.time_us[:] = round(began * 1e6)
        ear.expect(scan, began)
        await source.send(scan)
        await asyncio.sleep(max(0.0, began + 1.0 - time.time()))
    listening.cancel()
    await asyncio.wait([listening])
    await ear.hear_all(worker)
    return list(ear.delays)


async def _publish_past(source: Source, past: Readings) -> None:
    """Publish histories, oldest first."""
    number = (past.time_us - past.time_us.min()) // (MESSAGE_S * 1_000_000)
    for each in np.unique(number):
        await source.send(await asyncio.to_thread(past.take, number == each))


def _waiting(deployment: Deployment) -> float:
    """Return how many readings wait: one for each second of each pump."""
    return float(deployment.admin(WAITING)[0][0])


if __name__ == "__main__":
    main(catch_up)
