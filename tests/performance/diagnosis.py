"""What a reading costs diagnostics' worker, and how many pumps one core can judge.

The judge is measured in this process, with what it hands to the store made ready as JSON: the processor
alone. Then the worker and the API as processes: how long from the publication of accepted readings to what a
client of the live stream has on its WebSocket, and from the time an alert is due to the alert there: one of a
limit, and one of the decision tree.
"""

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson
from bed import BOOTSTRAP_KEY, SEED, Bed, Deployment, Role
from benchmark import Size, main
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.events import event_headers
from esp_common.contracts.readings import Readings
from esp_common.messaging import Publisher
from esp_diagnostics.alerts.rules import shipped_alert_rules
from esp_diagnostics.detection.tree import default_rules
from esp_diagnostics.live.session import PATH
from esp_diagnostics.monitoring.pump_monitor import Past, PumpMonitor, Rulebook
from esp_diagnostics.monitoring.store.replay import Batch
from esp_diagnostics.pumps.store import KnownPump
from esp_diagnostics.store.migrations import migrate
from esp_gateway.simulator.field import Field, build_field
from report import Figure
from websockets.asyncio.client import ClientConnection, connect

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL_S: Final = 10.0
PUMPS: Final = 500
WARM_UP_S: Final = 5
OVERLOAD: Final = next(limit for limit in shipped_alert_rules().limits if limit.name == "motor_overload")
TREE: Final = "open_phase"
PHASES: Final = tuple(CHANNEL_INDEX[f"current_{phase}_a"] for phase in "abc")
TREE_DELAY_S: Final = 60.0 * float(default_rules().conditions[TREE].delay_min)
ILL: Final = 5
"""Pumps of each fault."""

EARLY_S: Final = 1.5
"""How soon after its onset is published, old already, an alert is due: between two readings."""
FAULTS: Final = (
    ("motor overloaded", OVERLOAD.condition, OVERLOAD.on_delay_s),
    ("phase open", TREE, TREE_DELAY_S),
)
PLATE: Final = (
    *("model", "stages", "curve", "motor_rated_kw", "motor_rated_current_a", "motor_rated_voltage_v"),
    *("motor_rated_frequency_hz", "setting_depth_ft", "expected_interval_s"),
)


def diagnosis(bed: Bed, size: Size) -> Iterator[Figure]:
    """Yield what judging a reading costs, 50 and 500 pumps' at once, and how soon it is told."""
    rounds = size.rounds
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
    delays, alerts = asyncio.run(_delays(bed, size.live_pumps, max(size.load_s, 5)))
    yield Figure(
        "accepted reading → told live, 95 of 100",
        [float(np.percentile(delays, 95))],
        "s",
        target=1.0,
        of="measured",
        at_most=True,
        note=f"{size.live_pumps} pumps each second, from publication to a WebSocket",
    )
    for name, condition, delay_s in FAULTS:
        late = alerts[condition]
        yield Figure(
            f"{name} → alert told live, slowest",
            [max(late)],
            "s",
            target=5.0,
            of="measured",
            at_most=True,
            note=f"{len(late)} pumps, beyond the {delay_s:.0f} s that the rule waits",
        )


async def _delays(bed: Bed, pumps: int, seconds: int) -> tuple[list[float], Mapping[str, list[float]]]:
    """Return how long readings of `seconds` seconds took to be told live; and alerts, by condition."""
    bed.forget()
    deployment = bed.deploy("postgres", pumps)
    migrate(deployment.url("esp_diagnostics_owner"), "postgres")
    worker, api = (role(deployment, name) for name in ("worker", "api"))
    field = build_field(SEED, pumps, interval_s=1.0)
    rated = {pump["pump_id"]: pump["motor_rated_current_a"] for pump in field.assets()["pumps"]}
    some = list(rated)[:: pumps // (2 * ILL)]
    ill = dict(zip((TREE, OVERLOAD.condition), (some[:ILL], some[ILL : 2 * ILL]), strict=True))
    scans = iter(scans_of(field, WARM_UP_S + len(FAULTS) + seconds))
    with bed.auth(deployment).running(), api.running(), worker.running():
        async with (
            connect(f"ws://127.0.0.1:{api.port}{PATH}", compression=None) as socket,
            Publisher(bed.rabbitmq.url) as publisher,
        ):
            ear = Ear(socket)
            await ear.tune_in()
            late_s = max(delay_s for *_, delay_s in FAULTS) - EARLY_S
            for scan in islice(scans, WARM_UP_S):
                await ear.listen(until=await publish(publisher, scan, ear, late_s=late_s) + 1.0)
            await ear.hear_all(worker)
            for _, condition, delay_s in sorted(FAULTS, key=lambda fault: -fault[2]):
                scan = next(scans)
                _fall_ill(scan, ill, rated, [c for c in ill if c == TREE or condition == c])
                began = await publish(publisher, scan, ear, late_s=delay_s - EARLY_S)
                ear.due |= {(pump_id, condition): began + EARLY_S for pump_id in ill[condition]}
                await ear.listen(until=began + 1.0)
            ear.delays.clear()
            for scan in scans:
                _fall_ill(scan, ill, rated, ill)
                await ear.listen(until=await publish(publisher, scan, ear) + 1.0)
            await ear.hear_all(worker)
    return ear.delays, ear.alerts


class Ear:
    """A client of the live stream, which notes how long it took to be told; seconds.

    Of a pump's readings that are judged together the newest is told: the older ones have waited for it.
    `due`: (pump, condition) → since when its alert is expected, epoch seconds.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._untold: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._live = False
        self.due: dict[tuple[str, str], float] = {}
        self.delays: list[float] = []
        self.alerts: defaultdict[str, list[float]] = defaultdict(list)

    async def tune_in(self) -> None:
        """Ask for everything, and wait until it is heard."""
        await self._socket.send(orjson.dumps({"token": BOOTSTRAP_KEY, "subscribe": {"fields": ["*"]}}))
        deadline = time.time() + 60
        while not self._live:
            if time.time() > deadline:
                raise SystemExit("the live stream does not begin")
            await self.listen(until=time.time() + 0.1)

    def expect(self, readings: Readings, since: float) -> None:
        """Wait for the live message of each of `readings`, published at `since`, epoch seconds."""
        for pump_id, time_us in zip(readings.pump_id.tolist(), readings.time_us.tolist(), strict=True):
            self._untold[pump_id][time_us] = since

    async def listen(self, until: float) -> None:
        """Note what is told up to `until`, epoch seconds."""
        while (left := until - time.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    text = await self._socket.recv()
            except TimeoutError:
                return
            self._note(orjson.loads(text), time.time())

    async def hear_all(self, role: Role) -> None:
        """Listen until nothing is missing; end the run if that takes too long."""
        deadline = time.time() + 60
        while (untold := sum(map(len, self._untold.values()))) or self.due:
            if time.time() > deadline:
                missing = f"{untold} readings and {len(self.due)} alerts not told live"
                raise SystemExit(f"{missing}:\n{role.tail()}")
            await self.listen(until=time.time() + 0.1)

    def _note(self, told: Mapping[str, Any], now: float) -> None:
        if told["kind"] == "reading":
            untold, told_us = self._untold[told["pump_id"]], _us(datetime.fromisoformat(told["time"]))
            for time_us in [time_us for time_us in untold if time_us <= told_us]:
                self.delays.append(now - untold.pop(time_us))
        elif told["kind"] == "alert":
            since = self.due.pop((told["pump_id"], told["condition"]), None)
            if since is not None:
                self.alerts[told["condition"]].append(now - since)
        elif told["kind"] == "stream":
            self._live = told["live"]


def role(deployment: Deployment, name: str) -> Role:
    """Return a role of diagnostics."""
    bed = deployment.bed
    environment = {
        "AMQP_URL": bed.rabbitmq.url_for("diagnostics"),
        "DATABASE_URL": deployment.url("esp_diagnostics"),
        "REDIS_URL": bed.redis.url,
        "LOG_LEVEL": "WARNING",
        "REPLAY_NEW_S": "0",
    }
    return Role(bed, "diagnostics", name, environment)


def scans_of(field: Field, count: int) -> list[Readings]:
    """Return a reading of each pump, `count` times."""
    readings = field.columns(START, START + timedelta(seconds=count), 1.0)
    return [readings.take(readings.time_us == instant) for instant in np.unique(readings.time_us)]


def _fall_ill(
    readings: Readings, ill: Mapping[str, Sequence[str]], rated: Mapping[str, float], which: Collection[str]
) -> None:
    """Have motors draw half as much again as they may, and others run on two of their three phases."""
    for condition in which:
        for row in np.flatnonzero(np.isin(readings.pump_id, ill[condition])):
            if condition == OVERLOAD.condition:
                readings.values[row, CHANNEL_INDEX[OVERLOAD.channel]] = 1.5 * rated[readings.pump_id[row]]
            else:
                readings.values[row, PHASES] *= (0.0, 3**0.5, 3**0.5)


def _us(time_: datetime) -> int:
    return round(time_.timestamp() * 1e6)


async def publish(publisher: Publisher, readings: Readings, ear: Ear, late_s: float = 0.0) -> float:
    """Publish a reading of each pump, `late_s` old, as ingest does; return since when, epoch seconds."""
    began = time.time()
    readings.time_us[:] = round((began - late_s) * 1e6)
    ear.expect(readings, began)
    await send(publisher, readings)
    return began


async def send(publisher: Publisher, readings: Readings) -> None:
    """Publish readings as ingest does when it has accepted them."""
    partitions = np.array([topology.partition(pump_id) for pump_id in readings.pump_id])
    for number in np.unique(partitions):
        headers = {
            topology.PARTITION_HEADER: str(number),
            **event_headers("telemetry.accepted", "ingest", "telemetry.sim"),
        }
        body = arrow.encode(readings.take(partitions == number))
        await publisher.publish(topology.TELEMETRY, "telemetry.sim", body, headers=headers, mandatory=False)


def _cost_ms(together: int, scans: int) -> float:
    """Return the processor time of one reading, of `together` pumps' readings judged at once."""
    field = build_field(SEED, together, interval_s=INTERVAL_S)
    pumps = _known(field.assets())
    judge = PumpMonitor(Rulebook(default_rules(), shipped_alert_rules()))
    judge.admit(pumps, {pump_id: Past() for pump_id in pumps})
    span = timedelta(seconds=INTERVAL_S * (scans + 5))
    readings = field.columns(START, START + span, INTERVAL_S)
    mask = np.zeros(len(readings), dtype=np.int32)
    batches = []
    for instant in np.unique(readings.time_us):
        of_instant = readings.time_us == instant
        batches.append(Batch(readings.take(of_instant), *[mask[of_instant]] * 3))
    _judge_all(judge, batches[:5])
    gc.collect()
    began = time.process_time()
    judged = _judge_all(judge, batches[5:])
    return (time.process_time() - began) * 1000 / judged


def _judge_all(judge: PumpMonitor, batches: Sequence[Batch]) -> int:
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


if __name__ == "__main__":
    main(diagnosis)
