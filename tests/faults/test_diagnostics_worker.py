"""Diagnostics' worker killed, and its servers restarted, while readings come: each finding once."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from bed import Role
from esp_common import topology
from esp_diagnostics.store.migrations import migrate
from rig import Rig, batches, until

PUMPS = 10
STEP = timedelta(seconds=10)
_TABLES = (
    "findings",
    "pump_status",
    "state_log",
    "pump_snapshots",
    "partitions",
    "workers",
    "outbox",
    "alerts",
    "backlogs",
)


@pytest.fixture(scope="module")
def engine() -> str:
    """One engine: what differs between them is not this service's."""
    return "postgres"


@pytest.fixture(scope="module")
def _schema(deployment: Any) -> None:
    migrate(deployment.url("esp_diagnostics_owner"), "postgres")


class Judged:
    """The platform with diagnostics' workers, and what they have found."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._roles: list[Role] = []
        self.start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)

    def worker(self, **settings: object) -> Role:
        """Start a worker of diagnostics and return it when it is ready."""
        deployment = self.rig.deployment
        environment = {
            "AMQP_URL": deployment.bed.rabbitmq.url_for("diagnostics"),
            "DATABASE_URL": deployment.url("esp_diagnostics"),
            "REDIS_URL": deployment.bed.redis.url,
            "WORKER_HEARTBEAT_S": 0.5,
            "WORKER_MISSING_S": 2,
            "SNAPSHOT_S": 2,
            "LOG_LEVEL": "WARNING",
            **{name.upper(): value for name, value in settings.items()},
        }
        role = Role(deployment.bed, "diagnostics", "worker", {k: str(v) for k, v in environment.items()})
        self._roles.append(role)
        role.start()
        return role

    def stop(self) -> None:
        """End what was started."""
        for role in self._roles:
            role.stop()

    def readings(self, first: int, count: int, *, fault: bool) -> list[dict[str, Any]]:
        """Return readings `first` to `first + count` of each pump, healthy or with an open phase."""
        return [
            {
                "pump_id": f"SIM-{pump + 1:03d}",
                "time": (self.start + number * STEP).isoformat(),
                "current_a_a": (2.0 if fault else 40.0) + number % 2 / 10,
                "current_b_a": 40.2,
                "current_c_a": 39.9,
                "frequency_hz": 50.0,
                "running": True,
            }
            for number in range(first, first + count)
            for pump in range(PUMPS)
        ]

    def history(self, pumps: int, count: int, ill: range) -> list[dict[str, Any]]:
        """Return readings of some pumps, up to `start`; those of `ill` with an open phase."""
        return [
            {**reading, "time": (self.start + (number - count) * STEP).isoformat()}
            for number in range(count)
            for reading in self.readings(number, 1, fault=number in ill)[:pumps]
        ]

    def live(self, pump_id: str) -> dict[str, Any]:
        """Return a healthy reading of now."""
        now = datetime.now(UTC).isoformat()
        return {**self.readings(0, 1, fault=False)[0], "pump_id": pump_id, "time": now}

    def shown(self, reading: dict[str, Any]) -> bool:
        """Return whether a pump's status is that of a reading or newer."""
        query = "SELECT count(*) FROM diagnostics.pump_status WHERE pump_id = %s AND time >= %s"
        return bool(self.rig.deployment.admin(query, reading["pump_id"], reading["time"])[0][0])

    def backlogs(self) -> dict[str, float]:
        """Return how much of each pump's past waits to be judged, seconds."""
        query = "SELECT pump_id, extract(epoch FROM until - judged)::float8 FROM diagnostics.backlogs"
        return dict(self.rig.deployment.admin(query))

    @contextmanager
    def unreadable_history(self) -> Iterator[None]:
        """Have whoever reads stored readings wait; storing and publishing them goes on."""
        with psycopg.connect(self.rig.deployment.url("postgres")) as connection:
            # LOCK TABLE would lock the tables below the view as well.
            connection.execute("ALTER VIEW telemetry_v1.readings SET (security_barrier = false)")
            yield
            connection.rollback()

    def open_phases(self) -> Counter[str]:
        """Return how often each pump was found to have an open phase."""
        rows = self.rig.deployment.admin(
            "SELECT pump_id, count(*) FROM diagnostics.findings WHERE condition = 'open_phase' GROUP BY 1"
        )
        return Counter(dict(rows))

    def judged(self, number: int) -> int:
        """Return how many pumps were judged up to reading `number`."""
        query = "SELECT count(*) FROM diagnostics.pump_status WHERE time >= %s"
        return int(self.rig.deployment.admin(query, self.start + number * STEP)[0][0])

    def spells(self) -> int:
        """Return how many spells were logged."""
        return int(self.rig.deployment.admin("SELECT count(*) FROM diagnostics.state_log")[0][0])

    def dead_letters(self) -> int:
        """Return how many messages died."""
        queue = topology.dead_queue(topology.DIAGNOSTICS_TELEMETRY)
        return int(self.rig.bed.rabbitmq.api("GET", f"queues/%2F/{queue}").json().get("messages", 0))


@pytest.fixture
def judged(rig: Rig, _schema: None) -> Iterator[Judged]:
    rig.deployment.admin(f"TRUNCATE {', '.join(f'diagnostics.{table}' for table in _TABLES)} CASCADE")
    judged = Judged(rig)
    yield judged
    judged.stop()


async def test_worker_killed_mid_batch_finds_each_thing_once(judged):
    rig = judged.rig
    rig.worker()
    sending = asyncio.create_task(rig.publish(batches(judged.readings(0, 12, fault=False), 20)))
    worker = judged.worker()
    await sending
    await until(lambda: judged.judged(11) == PUMPS, 30, lambda: f"{judged.judged(11)} judged")
    for round_ in range(2):
        await rig.publish(batches(judged.readings(12 + 6 * round_, 6, fault=True), 10))
        rig.kill(worker)
        worker = judged.worker()
    await rig.publish(batches(judged.readings(24, 6, fault=True), 10))
    await until(lambda: judged.judged(29) == PUMPS, 60, lambda: f"{judged.judged(29)} judged")
    assert judged.open_phases() == {f"SIM-{pump + 1:03d}": 1 for pump in range(PUMPS)}
    onsets = rig.deployment.admin("SELECT DISTINCT onset FROM diagnostics.findings")
    assert onsets == [(judged.start + 12 * STEP,)]
    assert judged.spells() == PUMPS
    assert judged.dead_letters() == 0


async def test_restarts_of_broker_and_database_lose_nothing(judged):
    rig = judged.rig
    rig.worker()
    judged.worker()
    await rig.publish(batches(judged.readings(0, 6, fault=False), 20))
    await until(lambda: judged.judged(5) == PUMPS, 30, lambda: f"{judged.judged(5)} judged")
    await rig.publish(batches(judged.readings(6, 4, fault=True), 20))
    rig.bed.postgres.stop()
    await rig.publish(batches(judged.readings(10, 4, fault=True), 20))
    rig.bed.postgres.start()
    await until(lambda: judged.judged(13) == PUMPS, 60, lambda: f"{judged.judged(13)} judged")
    rig.bed.rabbitmq.stop()
    rig.bed.rabbitmq.start()
    await rig.publish(batches(judged.readings(14, 4, fault=True), 20))
    await until(lambda: judged.judged(17) == PUMPS, 90, lambda: f"{judged.judged(17)} judged")
    assert judged.open_phases() == {f"SIM-{pump + 1:03d}": 1 for pump in range(PUMPS)}
    assert judged.spells() == PUMPS
    assert judged.dead_letters() == 0


async def test_worker_told_to_end_saves_what_it_knows(judged):
    rig = judged.rig
    rig.worker()
    worker = judged.worker(snapshot_s=3600)
    await rig.publish(batches(judged.readings(0, 6, fault=False), 20))
    await until(lambda: judged.judged(5) == PUMPS, 30, lambda: f"{judged.judged(5)} judged")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    saved = rig.deployment.admin("SELECT count(*), max(through) FROM diagnostics.pump_snapshots")
    assert saved == [(PUMPS, judged.start + 5 * STEP)]
    assert rig.deployment.admin("SELECT count(*) FROM diagnostics.workers") == [(0,)]


async def test_backlog_is_judged_once_and_live_readings_before_it(judged):
    """A worker is killed between two parts of a backlog, with live readings before and after that."""
    rig, pumps, count, first = judged.rig, 3, 240, 60
    ill = range(20, 40)  # healthy from then on for longer than the half hour that clears a finding
    history = judged.history(pumps, count, ill)
    waiting = [f"SIM-{pump + 1:03d}" for pump in range(pumps)]
    rig.worker()
    worker = judged.worker(snapshot_s=1, backlog_settle_s=60, replay_new_s=0)
    await show_live(judged, "SIM-010")
    await rig.publish(batches(history[: first * pumps], 300))
    await until(lambda: judged.open_phases() == Counter(waiting), 60, lambda: f"{judged.open_phases()} found")
    await until(lambda: set(judged.backlogs().values()) == {0}, 60, lambda: f"{judged.backlogs()} wait")
    with judged.unreadable_history():
        await rig.publish(batches(history[first * pumps :], 300))
        await until(lambda: min(judged.backlogs().values()) > 0, 60, lambda: f"{judged.backlogs()} wait")
        await show_live(judged, "SIM-010", "SIM-001")
        rig.kill(worker)
        judged.worker(snapshot_s=1, backlog_settle_s=1, replay_new_s=0)
        await show_live(judged, "SIM-001")
        assert sorted(judged.backlogs()) == waiting
    await until(lambda: not judged.backlogs(), 120, lambda: f"{judged.backlogs()} left")
    findings = rig.deployment.admin(
        "SELECT pump_id, onset, cleared_at < %s FROM diagnostics.findings WHERE condition = 'open_phase'"
        " ORDER BY pump_id",
        judged.start,
    )
    onset = judged.start + (ill.start - count) * STEP
    assert findings == [(pump_id, onset, True) for pump_id in waiting]
    await show_live(judged, "SIM-001")
    assert judged.dead_letters() == 0


async def show_live(judged: Judged, *pump_ids: str) -> None:
    """Publish a reading of now of each pump, and wait until it is its status."""
    live = [judged.live(pump_id) for pump_id in pump_ids]
    await judged.rig.publish([live])
    await until(lambda: all(map(judged.shown, live)), 60, lambda: "live readings are not shown")
