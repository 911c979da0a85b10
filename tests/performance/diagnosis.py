"""What a reading costs diagnostics' worker, and how many pumps one core can judge.

The judge is measured in this process, with what it hands to the store made ready as JSON: the processor
alone. Then the worker as a process: how long from the publication of accepted readings to what is told live.
"""

import asyncio
import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import orjson
from bed import SEED, Bed, Role
from benchmark import Size
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.events import event_headers
from esp_common.contracts.readings import Readings
from esp_common.messaging import Publisher
from esp_diagnostics.domain.alert_rules import shipped_alert_rules
from esp_diagnostics.domain.diagnosis import default_rules
from esp_diagnostics.live import CHANNEL_PREFIX
from esp_diagnostics.store.migrations import migrate
from esp_diagnostics.store.pumps import KnownPump
from esp_diagnostics.store.replay import Batch
from esp_diagnostics.watch import Judge, Past, Rulebook
from esp_gateway.simulator.field import build_field
from redis.asyncio import Redis
from report import Figure

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL_S: Final = 10.0
PUMPS: Final = 500
LIVE_PUMPS: Final = 500
PLATE: Final = (
    *("model", "stages", "curve", "motor_rated_kw", "motor_rated_current_a", "motor_rated_voltage_v"),
    *("motor_rated_frequency_hz", "setting_depth_ft", "expected_interval_s"),
)


def diagnosis(bed: Bed, size: Size) -> Iterator[Figure]:
    """Yield what judging a reading costs, 50 and 500 pumps' at once, and how soon it is told."""
    rounds = max(size.rounds, 2)
    for together in (50, PUMPS):
        costs = [_cost_ms(together, scans) for scans in [30 * PUMPS // together // 2] * rounds]
        yield Figure(
            f"judging a reading, {together} at a time",
            costs,
            "ms of a core",
            target=1.0,
            of="measured",
            at_most=True,
            note="tree, detector, limits and what is written of it",
        )
        if together == 50:
            yield Figure(
                "pumps a core can judge, a reading each 10 s",
                [INTERVAL_S / (cost / 1000) for cost in costs],
                "pumps",
                target=5000,
                of="measured",
            )
    delays = asyncio.run(_delays(bed, max(size.load_s, 5)))
    yield Figure(
        "accepted reading → told live, 95 of 100",
        [float(np.percentile(delays, 95))],
        "s",
        target=1.0,
        of="measured",
        at_most=True,
        note=f"{LIVE_PUMPS} pumps each second, from publication to Redis pub/sub",
    )


async def _delays(bed: Bed, seconds: int) -> list[float]:
    """Return how long each of a few seconds' readings took to be told live."""
    deployment = bed.deploy("postgres", LIVE_PUMPS)
    migrate(deployment.url("esp_diagnostics_owner"), "postgres")
    environment = {
        "AMQP_URL": bed.rabbitmq.url_for("diagnostics"),
        "DATABASE_URL": deployment.url("esp_diagnostics"),
        "REDIS_URL": bed.redis.url,
        "LOG_LEVEL": "WARNING",
        "REPLAY_NEW_S": "0",
    }
    readings = build_field(SEED, LIVE_PUMPS, interval_s=1.0).columns(START, START + timedelta(seconds=1), 1.0)
    delays: list[float] = []
    published: dict[datetime, float] = {}
    role = Role(bed, "diagnostics", "worker", environment)
    async with Redis.from_url(bed.redis.url).pubsub() as heard, Publisher(bed.rabbitmq.url) as publisher:
        await heard.psubscribe(f"{CHANNEL_PREFIX}*")
        with role.running():
            for warm in [True] * seconds + [False] * seconds:
                now = datetime.now(UTC).replace(microsecond=0)
                published[now] = began = time.time()
                await _publish(publisher, readings, now)
                told = await _told(heard, published, until=began + 1.0)
                delays += [] if warm else told
    return delays


async def _publish(publisher: Publisher, readings: Readings, now: datetime) -> None:
    """Publish a reading of each pump, as ingest does."""
    readings.time_us[:] = round(now.timestamp() * 1e6)
    partitions = np.array([topology.partition(pump_id) for pump_id in readings.pump_id])
    for number in np.unique(partitions):
        headers = {
            topology.PARTITION_HEADER: str(number),
            **event_headers("telemetry.accepted", "ingest", "telemetry.sim"),
        }
        body = arrow.encode(readings.take(partitions == number))
        await publisher.publish(topology.TELEMETRY, "telemetry.sim", body, headers=headers, mandatory=False)


async def _told(heard: Any, published: Mapping[datetime, float], until: float) -> list[float]:
    """Return how long after their publication readings were told, of those told up to `until`."""
    delays = []
    while (left := until - time.time()) > 0:
        message = await heard.get_message(ignore_subscribe_messages=True, timeout=left)
        told = orjson.loads(message["data"]) if message is not None else {}
        if told.get("kind") == "reading":
            delays.append(time.time() - published[datetime.fromisoformat(told["time"])])
    return delays


def _cost_ms(together: int, scans: int) -> float:
    """Return the processor time of one reading, of `together` pumps' readings judged at once."""
    field = build_field(SEED, together, interval_s=INTERVAL_S)
    pumps = _known(field.assets())
    judge = Judge(Rulebook(default_rules(), shipped_alert_rules()))
    judge.admit(pumps, {pump_id: Past() for pump_id in pumps})
    span = timedelta(seconds=INTERVAL_S * (scans + 5))
    readings = field.columns(START, START + span, INTERVAL_S)
    mask = np.zeros(len(readings), dtype=np.int32)
    batches = []
    for instant in np.unique(readings.time_us):
        of_instant = readings.time_us == instant
        batches.append(Batch(readings.take(of_instant), mask[of_instant], mask[of_instant]))
    _judge_all(judge, batches[:5])
    gc.collect()
    began = time.process_time()
    judged = _judge_all(judge, batches[5:])
    return (time.process_time() - began) * 1000 / judged


def _judge_all(judge: Judge, batches: Sequence[Batch]) -> int:
    for batch in batches:
        judge.judge(batch, batch.readings.time_us[0] / 1e6)
    return sum(map(len, batches))


def _known(document: dict[str, Any]) -> dict[str, KnownPump]:
    fields = {well["well_id"]: well["field_id"] for well in document["wells"]}
    return {
        pump["pump_id"]: KnownPump(
            pump_id=pump["pump_id"],
            field_id=fields[pump["well_id"]],
            well_id=pump["well_id"],
            nameplate={name: pump.get(name) for name in PLATE},
            extras={},
            curve=None,
            head_factor=None,
            flow_factor=None,
            calibrated_at=None,
            in_service=True,
            overrides={},
        )
        for pump in document["pumps"]
    }
