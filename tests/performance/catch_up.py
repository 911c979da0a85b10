"""Measure how much the histories of some pumps delay the live readings of others.

Live readings are published each second, first alone, then while the histories of 20 other pumps arrive and
are judged. The delay is from publication to a WebSocket.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
from bed import SEED, Bed, Deployment, Role
from benchmark import Size, main
from diagnosis import Ear, publish, role, scans_of, send
from esp_common.contracts.readings import Readings
from esp_common.messaging import Publisher
from esp_diagnostics.live.sockets import PATH
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

HISTORY: Final = """
INSERT INTO ingest.telemetry (pump_no, time, running, intake_pressure_psi, discharge_pressure_psi,
                              frequency_hz, motor_current_a, motor_temp_c)
SELECT pump_no, time, true, (18000 + 40 * random())::int4, (72000 + 60 * random())::int4, 5500,
       (420 + 6 * random())::int4, (2400 + 4 * random())::int4
FROM ingest.pumps, generate_series(%s::timestamptz, %s::timestamptz, INTERVAL '1 s') AS time
WHERE pump_id = ANY (%s)
"""
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
        "accepted reading → told live beside a backlog, 95 of 100",
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
    past = _store_past(deployment, part, behind, history)
    beside_s = 4 * seconds if seconds > 2 else seconds
    scans = scans_of(field, WARM_UP_S + seconds + beside_s)
    present = [scan.take(~np.isin(scan.pump_id, behind)) for scan in scans]
    worker, api = (role(deployment, name) for name in ("worker", "api"))
    with bed.auth(deployment).running(), api.running(), worker.running():
        async with (
            connect(f"ws://127.0.0.1:{api.port}{PATH}", compression=None) as socket,
            Publisher(bed.rabbitmq.url) as publisher,
            Publisher(bed.rabbitmq.url) as past_publisher,
        ):
            ear = Ear(socket)
            await ear.tune_in()
            await _live(publisher, present[:WARM_UP_S], ear, worker)
            alone = await _live(publisher, present[WARM_UP_S : WARM_UP_S + seconds], ear, worker)
            began = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_publish_past(past_publisher, past))
                beside = await _live(publisher, present[WARM_UP_S + seconds :], ear, worker)
            judged, took = len(past) - _waiting(deployment), time.monotonic() - began
    return Run(alone, beside, judged / took)


def _store_past(deployment: Deployment, part: Field, pump_ids: Sequence[str], history: int) -> Readings:
    """Store a history of `history` readings of each pump, one a second; return it as it was accepted."""
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    start = end - timedelta(seconds=history)
    past = part.columns(start, end, 1.0)
    deployment.ensure_partitions(past)
    deployment.admin(HISTORY, start, end, list(pump_ids))
    deployment.admin("ANALYZE ingest.telemetry")
    return past


async def _live(publisher: Publisher, present: Sequence[Readings], ear: Ear, worker: Role) -> list[float]:
    """Publish a reading of each pump each second; return their delays, s."""
    ear.delays.clear()
    # Beside histories a publication takes a while: what is told meanwhile must not wait for its end.
    listening = asyncio.create_task(ear.listen(until=time.time() + 2 * len(present) + LONGEST_S))
    for scan in present:
        began = await publish(publisher, scan, ear)
        await asyncio.sleep(max(0.0, began + 1.0 - time.time()))
    listening.cancel()
    await asyncio.wait([listening])
    await ear.hear_all(worker)
    return list(ear.delays)


async def _publish_past(publisher: Publisher, past: Readings) -> None:
    """Publish histories as ingest does, oldest first."""
    number = (past.time_us - past.time_us.min()) // (MESSAGE_S * 1_000_000)
    for each in np.unique(number):
        await send(publisher, await asyncio.to_thread(past.take, number == each))


def _waiting(deployment: Deployment) -> float:
    """Return how many readings wait: one for each second of each pump."""
    return float(deployment.admin(WAITING)[0][0])


if __name__ == "__main__":
    main(catch_up)
