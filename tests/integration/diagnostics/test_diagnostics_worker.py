"""The worker on real servers: accepted readings in; states, findings, alerts, events, live messages out."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import aio_pika
import asyncpg
import numpy as np
import orjson
import pytest
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.events import Event, event_headers
from esp_common.contracts.readings import RUNNING_ABSENT, Readings, empty_readings
from esp_common.database import create_pool
from esp_common.messaging import Publisher
from esp_common.redis import connect_redis
from esp_common.roles import until_first_ends
from esp_diagnostics.live.broadcast import LivePublisher, channel_of
from esp_diagnostics.monitoring.partitions import Membership
from esp_diagnostics.monitoring.store.states import Ownership
from esp_diagnostics.monitoring.worker import Worker, open_worker
from esp_diagnostics.settings import DiagnosticsSettings
from esp_stack.programs import free_port
from esp_stack.servers import Vhost
from waiting import until

HEALTHY = {"current_a_a": 40.0, "current_b_a": 40.2, "current_c_a": 39.9, "frequency_hz": 50.0}
OPEN_PHASE = {**HEALTHY, "current_a_a": 2.0}
"""Becomes a finding when it has lasted for a minute."""

STEP = timedelta(seconds=10)


def readings(pump_id: str, start: datetime, count: int, **channels: Any) -> Readings:
    """Return readings of a running pump every ten seconds from `start` on."""
    made = empty_readings(count)
    made.pump_id[:] = pump_id
    made.time_us[:] = [round((start + number * STEP).timestamp() * 1e6) for number in range(count)]
    made.running[:] = channels.pop("running", True)
    made.trip_code[:] = channels.pop("trip_code", 0)
    for name, value in channels.items():
        made.values[:, CHANNEL_INDEX[name]] = value
    return made


@dataclass
class Stream:
    """What ingest does with readings: it stores them, and publishes them as accepted."""

    fleet: Any
    publisher: Publisher
    vhost: Vhost
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    next_start: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    )

    def hour(self) -> datetime:
        """Return a time from which on no test has sent anything of any pump."""
        self.next_start += timedelta(minutes=3)
        return self.next_start

    async def store(self, of: Readings) -> None:
        carried = [name for name, at in CHANNEL_INDEX.items() if not np.isnan(of.values[:, at]).all()]
        for pump_id in set(of.pump_id):
            mine = of.take(of.pump_id == pump_id)
            start = datetime.fromtimestamp(mine.time_us[0] / 1e6, UTC)
            channels = {name: mine.values[:, CHANNEL_INDEX[name]] for name in carried}
            running = bool(mine.running[0])
            await self.fleet.store(pump_id, start, channels, step_s=STEP.total_seconds(), running=running)

    async def publish(self, of: Readings) -> None:
        for number in {topology.partition(pump_id) for pump_id in of.pump_id}:
            mine = np.array([topology.partition(pump_id) == number for pump_id in of.pump_id])
            await self.publish_body(number, arrow.encode(of.take(mine)))

    async def publish_body(self, partition: int, body: bytes) -> None:
        headers = {
            topology.PARTITION_HEADER: str(partition),
            **event_headers("telemetry.accepted", "ingest", "telemetry.north"),
        }
        await self.publisher.publish(
            topology.TELEMETRY, "telemetry.north", body, headers=headers, content_type=arrow.MEDIA_TYPE
        )

    async def send(self, of: Readings) -> None:
        await self.store(of)
        await self.publish(of)

    async def findings(self, pump_id: str, condition: str = "open_phase") -> list[dict[str, Any]]:
        query = "SELECT * FROM diagnostics.findings WHERE pump_id = $1 AND condition = $2 ORDER BY raised_at"
        return [dict(row) for row in await self.fleet.rows(query, pump_id, condition)]

    async def found(self, pump_id: str, condition: str = "open_phase") -> dict[str, Any]:
        """Return the one finding of a pump, once it is there."""
        found = await until(lambda: self.findings(pump_id, condition), f"{condition} of {pump_id} is found")
        assert len(found) == 1
        return found[0]

    async def judged(self, pump_id: str, through: datetime) -> dict[str, Any]:
        """Wait until a pump's reading of `through` was judged; return its status."""
        query = "SELECT * FROM diagnostics.pump_status WHERE pump_id = $1 AND time >= $2"

        async def there() -> list[Any]:
            return await self.fleet.rows(query, pump_id, through)

        return dict((await until(there, f"{pump_id} is judged through {through}"))[0])

    async def spells(self, pump_id: str) -> list[tuple[datetime, str, datetime | None, int | None]]:
        query = (
            "SELECT started_at, state, ended_at, trip_code FROM diagnostics.state_log"
            " WHERE pump_id = $1 ORDER BY started_at"
        )
        return [tuple(row) for row in await self.fleet.rows(query, pump_id)]

    async def add_pump(self, pump_id: str) -> None:
        await self.fleet.rows("INSERT INTO ingest.pumps (pump_id, well_id) VALUES ($1, 'W-1')", pump_id)

    async def backlog(self, pump_id: str) -> list[Any]:
        """Return what waits of a pump."""
        return await self.fleet.rows("SELECT * FROM diagnostics.backlogs WHERE pump_id = $1", pump_id)

    async def no_backlog(self, pump_id: str) -> bool:
        return not await self.backlog(pump_id)

    async def workers(self) -> set[str]:
        """Return those that are on record as living."""
        return {
            worker_id for (worker_id,) in await self.fleet.rows("SELECT worker_id FROM diagnostics.workers")
        }

    @asynccontextmanager
    async def locked(self, table: str) -> AsyncIterator[None]:
        """Have whoever reads or writes a table wait while inside."""
        connection = await asyncpg.connect(self.fleet.database.admin_url)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                yield
        finally:
            await connection.close()

    async def taken(self) -> bool:
        """Whether every accepted batch was given to a worker."""
        async with await aio_pika.connect(self.vhost.url) as connection:
            channel = await connection.channel()
            names = [topology.lane_queue(number) for number in range(topology.LANES)]
            queues = [await channel.declare_queue(name, passive=True) for name in names]
            return not any(queue.declaration_result.message_count for queue in queues)

    async def lane_queues(self) -> set[str]:
        """Return the queues of lanes that the broker has."""
        queues = self.vhost.server.api("GET", f"queues/{self.vhost.name}?columns=name").json()
        return {
            queue["name"] for queue in queues if re.fullmatch(r"diagnostics\.telemetry\.\d+", queue["name"])
        }

    async def awaited(self, table: str) -> None:
        """Wait until somebody waits for a locked table."""
        query = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted)"
        await until(lambda: self.fleet.value(query, table), f"somebody waits for {table}")

    def told(self, type_: str, pump_id: str) -> list[dict[str, Any]]:
        return [data for kind, data in self.events if kind == type_ and data.get("pump_id") == pump_id]


def last(of: Readings) -> datetime:
    """Return the time of the newest of readings."""
    return datetime.fromtimestamp(of.time_us.max() / 1e6, UTC)


@pytest.fixture(scope="module")
def worker_settings(diagnostics_settings: DiagnosticsSettings) -> DiagnosticsSettings:
    return diagnostics_settings.model_copy(
        update={
            "worker_heartbeat_s": 0.3,
            "worker_missing_s": 1.5,
            "snapshot_s": 3600,
            "rulebook_s": 1,
            "training_check_s": 3600,
            "backlog_settle_s": 0.5,
        }
    )


@asynccontextmanager
async def _work(settings: DiagnosticsSettings, *, crash: bool = False) -> AsyncIterator[Worker]:
    """Run a worker while inside; with `crash` it then ends without saving anything."""
    redis = connect_redis(settings.redis_url)
    pool = await create_pool(settings, role="test worker", max_size=8)
    stop = asyncio.Event()
    async with pool, open_worker(settings, pool, LivePublisher(redis)) as (worker, _, beside):
        running = asyncio.create_task(until_first_ends(worker.run(stop), *beside))
        try:
            await until(lambda: running.done() or (worker.alive), "the worker consumes")
            yield worker
        finally:
            if crash:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            else:
                stop.set()
                await running
            await redis.aclose()


@pytest.fixture(scope="module")
async def stream(fleet: Any, vhost: Vhost) -> AsyncIterator[Stream]:
    async with (
        Publisher(vhost.url_for("ingest")) as publisher,
        await aio_pika.connect(vhost.url) as connection,
    ):
        stream = Stream(fleet, publisher, vhost)
        await fleet.rows(
            "INSERT INTO ingest.pumps (pump_id, well_id, expected_interval_s)"
            " SELECT 'P-' || n, 'W-1', 10 FROM generate_series(11, 30) AS n"
        )
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.EVENTS, "finding.#")
        await queue.bind(topology.EVENTS, "alert.#")

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            stream.events.append((message.routing_key or "", orjson.loads(message.body)))

        await queue.consume(take, no_ack=True)
        yield stream


@pytest.fixture(scope="class")
async def worker(stream: Stream, worker_settings: DiagnosticsSettings) -> AsyncIterator[Worker]:
    """A worker for the tests that need no other."""
    async with _work(worker_settings) as worker:
        yield worker


class TestFindings:
    async def test_what_is_found_is_stored_told_and_shown_once(self, stream, worker, worker_settings):
        before = readings("P-1", stream.hour(), 3, **HEALTHY)
        await stream.send(before)
        await stream.judged("P-1", last(before))
        sent = readings("P-1", last(before) + STEP, 12, **OPEN_PHASE)
        live: list[dict[str, Any]] = []
        async with _listening(worker_settings.redis_url, "north", live):
            await stream.send(sent)
            found = await stream.found("P-1")
            await until(lambda: any(each["kind"] == "finding" for each in live), "it is told live")
            await until(lambda: any(each["kind"] == "alert" for each in live), "the alert is told live")
        assert (found["severity"], found["kind"], found["cleared_at"]) == ("critical", "tree", None)
        assert found["onset"] <= found["raised_at"] <= last(sent)
        assert orjson.loads(found["evidence"])["for"]
        measured = [each["values"].get("current_a_a") for each in live if each["kind"] == "reading"]
        assert 2.0 in measured
        [event] = await until(lambda: stream.told("finding.raised", "P-1"), "the event is sent")
        assert event["finding_id"] == str(found["finding_id"])
        [alert] = await stream.fleet.rows(
            "SELECT * FROM diagnostics.alerts WHERE pump_id = 'P-1' AND condition = 'open_phase'"
        )
        assert (alert["finding_id"], alert["active"]) == (found["finding_id"], True)
        status = await stream.judged("P-1", last(sent))
        assert orjson.loads(status["hypotheses"])[0]["condition"] == "open_phase"
        assert orjson.loads(status["latest"])["channels"]["current_a_a"]["value"] == 2.0

        await stream.publish(sent)
        newer = readings("P-1", last(sent) + STEP, 3, **OPEN_PHASE)
        await stream.send(newer)
        await stream.judged("P-1", last(newer))
        assert len(await stream.findings("P-1")) == 1
        assert len(stream.told("finding.raised", "P-1")) == 1

    async def test_a_refused_surface_transmitter_does_not_hide_an_overheating_motor(self, stream, worker):
        sent = readings("P-30", stream.hour(), 18, **HEALTHY | {"motor_temp_c": 260.0})
        assert np.isnan(sent.values[:, CHANNEL_INDEX["wellhead_pressure_psi"]]).all()
        refused = np.full(len(sent), 1 << CHANNEL_INDEX["wellhead_pressure_psi"], dtype=np.int32)
        await stream.store(sent)
        await stream.publish_body(topology.partition("P-30"), arrow.encode(sent, refused_mask=refused))
        await stream.judged("P-30", last(sent))
        query = "SELECT condition FROM diagnostics.alerts WHERE pump_id = 'P-30' AND active"

        async def alerts() -> list[Any]:
            return await stream.fleet.rows(query)

        assert ("limit_motor_temp_high",) in map(tuple, await until(alerts, "an alert is raised"))

    async def test_what_is_over_is_cleared_and_told(self, stream, worker):
        start = stream.hour()
        await stream.send(readings("P-2", start, 12, **OPEN_PHASE))
        await stream.found("P-2")
        healthy = readings("P-2", start + 12 * STEP, 200, **HEALTHY)
        await stream.send(healthy)
        await stream.judged("P-2", last(healthy))
        found = await stream.found("P-2")
        assert start < found["cleared_at"] <= last(healthy)
        [event] = await until(lambda: stream.told("finding.cleared", "P-2"), "the event is sent")
        assert event["finding_id"] == str(found["finding_id"])
        [alert] = await stream.fleet.rows(
            "SELECT * FROM diagnostics.alerts WHERE pump_id = 'P-2' AND condition = 'open_phase'"
        )
        assert not alert["active"]

    async def test_late_and_disordered_readings_leave_the_state_alone(self, stream, worker):
        start = stream.hour()
        newest = readings("P-3", start, 6, **HEALTHY)
        await stream.send(newest)
        status = await stream.judged("P-3", last(newest))
        late = readings("P-3", start - timedelta(minutes=2), 6, running=False, **HEALTHY)
        await stream.publish(late)
        newer = readings("P-3", last(newest) + STEP, 4, **HEALTHY)
        await stream.send(newer.take(np.array([3, 1, 0, 2])))
        after = await stream.judged("P-3", last(newer))
        assert (after["state"], after["since"]) == (status["state"], status["since"])
        assert [state for _, state, _, _ in await stream.spells("P-3")] == ["running"]

    async def test_spells_tell_starts_and_trips(self, stream, worker):
        start = stream.hour()
        before = readings("P-5", start, 3, **HEALTHY)
        await stream.send(before)
        await stream.judged("P-5", last(before))
        await stream.publish(readings("P-5", start + 3 * STEP, 3, running=False, trip_code=4, frequency_hz=0))
        again = readings("P-5", start + 6 * STEP, 3, **HEALTHY)
        await stream.publish(again)
        await stream.judged("P-5", last(again))
        assert await stream.spells("P-5") == [
            (start, "running", start + 3 * STEP, None),
            (start + 3 * STEP, "off", start + 6 * STEP, 4),
            (start + 6 * STEP, "starting", None, None),
        ]

    async def test_pump_whose_first_reading_says_nothing_of_its_drive_is_shown_as_unknown(
        self, stream, worker
    ):
        silent = readings("P-6", stream.hour(), 1, running=RUNNING_ABSENT, intake_pressure_psi=700.0)
        await stream.publish(silent)
        status = await stream.judged("P-6", last(silent))
        assert (status["state"], status["since"]) == ("unknown", last(silent))

    async def test_poison_is_buried_with_its_reason_and_its_neighbours_are_judged(self, stream, worker):
        before = readings("P-4", stream.hour(), 3, **HEALTHY)
        await stream.send(before)
        await stream.judged("P-4", last(before))
        after = readings("P-4", last(before) + STEP, 3, **HEALTHY)
        await stream.publish_body(topology.partition("P-4"), b"no batch at all")
        await stream.publish(after)
        await stream.judged("P-4", last(after))
        async with await aio_pika.connect(stream.vhost.url) as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(topology.dead_queue(topology.DIAGNOSTICS_TELEMETRY))
            letter = await until(lambda: queue.get(no_ack=True, fail=False), "the message is buried")
        assert letter.body == b"no batch at all"
        assert "Arrow" in str(letter.headers["esp-reason"])

    async def test_pump_that_is_new_is_judged_with_what_came_before_it_was_known(self, stream, worker):
        sent = readings("P-7", stream.hour(), 12, **OPEN_PHASE)
        await stream.publish(sent)
        await stream.fleet.rows("INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P-7', 'W-1')")
        await stream.store(sent)
        event = Event(type="asset.pump-changed", source="ingest", subject="P-7", data={})
        await stream.publisher.publish(
            topology.EVENTS, event.type, event.body(), headers=event.headers(), mandatory=False
        )
        await stream.found("P-7")

    async def test_past_of_a_pump_that_is_new_is_judged_before_what_comes_meanwhile(self, stream, worker):
        known = readings("P-1", stream.hour(), 3, **HEALTHY)
        await stream.send(known)
        await stream.judged("P-1", last(known))  # so that the partition is this worker's
        mine = topology.partition("P-1")
        new = next(f"P-{n}" for n in range(100, 200) if topology.partition(f"P-{n}") == mine)
        start = stream.hour()
        past = readings(new, start, 12, **OPEN_PHASE)
        async with stream.locked("diagnostics.pump_snapshots"):
            await stream.fleet.rows("INSERT INTO ingest.pumps (pump_id, well_id) VALUES ($1, 'W-1')", new)
            await stream.store(past)
            event = Event(type="asset.pump-changed", source="ingest", subject=new, data={})
            await stream.publisher.publish(
                topology.EVENTS, event.type, event.body(), headers=event.headers(), mandatory=False
            )
            await stream.awaited("diagnostics.pump_snapshots")
            await stream.publish(readings(new, last(past) + STEP, 1, **OPEN_PHASE))
            await until(stream.taken, "the reading is at the worker")
        assert (await stream.found(new))["onset"] == start


class TestContinuity:
    """Workers come and go; what was known is known, and what was missed is read from the store."""

    async def test_state_is_kept_over_a_restart(self, stream, worker_settings):
        start = stream.hour()
        first = readings("P-11", start, 4, **OPEN_PHASE)  # not long enough to be a finding
        async with _work(worker_settings) as worker:
            await stream.send(first)
            await stream.judged("P-11", last(first))
            spells = await stream.spells("P-11")
        assert worker.worker_id not in await stream.workers()
        second = readings("P-11", start + 4 * STEP, 4, **OPEN_PHASE)
        async with _work(worker_settings):
            await stream.publish(second)
            found = await stream.found("P-11")
            await stream.judged("P-11", last(second))
        assert found["onset"] == start
        assert await stream.spells("P-11") == spells

    async def test_worker_that_left_does_not_say_again_that_it_lives(self, stream, worker_settings):
        async with await create_pool(worker_settings, role="test membership", max_size=2) as pool:
            membership = Membership(Ownership(pool), "leaver", ttl_s=60, lanes=topology.LANES)
            await membership.share()
            assert "leaver" in await stream.workers()
            await asyncio.gather(membership.leave(), membership.share())
        assert "leaver" not in await stream.workers()

    async def test_lane_given_up_while_its_partitions_are_taken_over(self, stream, worker_settings):
        """It comes back, and its pumps are judged from their past all the same."""
        pumps = [f"P-{number}" for number in range(25, 31)]
        start = stream.hour()
        for pump_id in pumps:
            await stream.store(readings(pump_id, start, 12, **OPEN_PHASE))
        async with _work(worker_settings) as worker:
            async with stream.locked("diagnostics.partitions"):
                for pump_id in pumps:
                    await stream.publish(readings(pump_id, start + 12 * STEP, 1, **OPEN_PHASE))
                await stream.awaited("diagnostics.partitions")
                await stream.fleet.rows(
                    "INSERT INTO diagnostics.workers VALUES ('another', now() + INTERVAL '1 day')"
                )
                await until(lambda: len(worker.lanes) == 4, "half of the lanes are given up")
            await stream.fleet.rows("DELETE FROM diagnostics.workers WHERE worker_id = 'another'")
            found = [await stream.found(pump_id) for pump_id in pumps]
        assert {each["onset"] for each in found} == {start}

    async def test_crash_loses_nothing_and_nothing_is_found_twice(self, stream, worker_settings):
        start = stream.hour()
        first = readings("P-12", start, 12, **OPEN_PHASE)
        async with _work(worker_settings, crash=True):
            await stream.send(first)
            before = await stream.found("P-12")
            await stream.judged("P-12", last(first))
        second = readings("P-12", start + 12 * STEP, 4, **OPEN_PHASE)
        missed = readings("P-13", start, 12, **OPEN_PHASE)
        await stream.store(missed)
        async with _work(worker_settings):
            await stream.send(second)
            await stream.publish(readings("P-13", start + 13 * STEP, 1, **OPEN_PHASE))
            await stream.judged("P-12", last(second))
            await stream.found("P-13")
        after = await stream.found("P-12")
        assert [after[name] for name in ("finding_id", "onset", "raised_at")] == [
            before[name] for name in ("finding_id", "onset", "raised_at")
        ]
        assert len(stream.told("finding.raised", "P-12")) == 1
        assert len(await stream.spells("P-12")) == 1

    async def test_readings_that_went_past_the_queue_are_read_from_the_store(self, stream, worker_settings):
        start = stream.hour() - timedelta(minutes=30)
        first = readings("P-14", start, 3, **HEALTHY)
        live = readings("P-14", start + 3 * STEP, 1, **HEALTHY)
        missed = readings("P-14", start + 4 * STEP, 12, **OPEN_PHASE)
        second = readings("P-14", start + 16 * STEP, 1, **OPEN_PHASE)
        async with _work(worker_settings):
            await stream.send(first)
            await stream.judged("P-14", last(first))
            # That may have been the past, of which more is still read; this is not.
            await stream.publish(live)
            await stream.judged("P-14", last(live))
            await stream.store(missed)
            await stream.publish(second)
            found = await stream.found("P-14")
        assert found["onset"] == start + 4 * STEP

    async def test_backlog_is_judged_to_its_end_by_whoever_goes_on(self, stream, worker_settings):
        """A live reading overtakes it, the worker crashes, and no reading comes to wake the next one."""
        long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5)
        past = readings("P-9", long_ago, 400, **HEALTHY)
        past.values[100:130, CHANNEL_INDEX["current_a_a"]] = 2.0
        now = readings("P-9", datetime.now(UTC).replace(microsecond=0), 1, **HEALTHY)
        waiting = "SELECT until - judged FROM diagnostics.backlogs WHERE pump_id = 'P-9'"
        await stream.fleet.rows("INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P-9', 'W-1')")
        await stream.store(past)
        endless = worker_settings.model_copy(update={"backlog_settle_s": 3600})
        async with _work(endless, crash=True):
            await stream.publish(past)
            await until(lambda: stream.fleet.rows(waiting), "the readings wait")
            await stream.send(now)
            await stream.judged("P-9", last(now))
            assert await stream.fleet.rows(waiting)

        async with _work(worker_settings):

            async def judged() -> bool:
                return not await stream.fleet.rows(waiting)

            await until(judged, "the backlog is judged", 120)
        (found,) = await stream.findings("P-9")
        assert found["onset"] == long_ago + 100 * STEP
        assert found["cleared_at"] < last(past)
        # The live judge began in the middle; the past ends where that did.
        before, after = await stream.spells("P-9")
        assert (before[1], after[1]) == ("running", "running")
        assert (before[2], after[2]) == (after[0], None)
        (status,) = await stream.fleet.rows("SELECT time FROM diagnostics.pump_status WHERE pump_id = 'P-9'")
        assert status["time"] == last(now)

    async def test_history_that_comes_after_the_first_live_reading_is_judged_before_it(
        self, stream, worker_settings
    ):
        """Its newer half comes first; what the live reading led to is not found or logged again."""
        long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5)
        older = readings("P-60", long_ago, 200, **HEALTHY)
        older.values[100:130, CHANNEL_INDEX["current_a_a"]] = 2.0
        newer = readings("P-60", long_ago + 200 * STEP, 200, **HEALTHY)
        now = readings("P-60", datetime.now(UTC).replace(microsecond=0), 1, **HEALTHY)
        await stream.add_pump("P-60")
        settings = worker_settings.model_copy(update={"backlog_settle_s": 3, "replay_new_s": 0})
        async with _work(settings):
            await stream.send(now)
            await stream.judged("P-60", last(now))
            for part in (newer, older):
                await stream.send(part)
                await until(lambda: stream.backlog("P-60"), "the history waits")
            await until(lambda: stream.no_backlog("P-60"), "the history is judged", 120)
            (found,) = await stream.findings("P-60")
            (status,) = await stream.fleet.rows(
                "SELECT time FROM diagnostics.pump_status WHERE pump_id = 'P-60'"
            )
            again = readings("P-60", datetime.now(UTC).replace(microsecond=0), 1, **HEALTHY)
            await stream.send(again)
            await stream.judged("P-60", last(again))
        assert (found["onset"], found["cleared_at"] < last(newer)) == (long_ago + 100 * STEP, True)
        assert status["time"] == last(now)
        assert (await stream.spells("P-60"))[0][:2] == (long_ago, "running")

    async def test_history_before_what_has_been_judged_for_long_is_not_judged(self, stream, worker_settings):
        long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=5)
        history = readings("P-61", long_ago, 100, **OPEN_PHASE)
        first = readings("P-61", long_ago + timedelta(hours=4), 1, **HEALTHY)
        now = readings("P-61", datetime.now(UTC).replace(microsecond=0), 1, **HEALTHY)
        await stream.add_pump("P-61")
        settings = worker_settings.model_copy(update={"earlier_history_s": 1800, "replay_new_s": 0})
        async with _work(settings):
            await stream.send(first)
            await stream.judged("P-61", last(first))
            await stream.send(history)
            await stream.send(now)
            await stream.judged("P-61", last(now))
        assert await stream.no_backlog("P-61")
        assert await stream.findings("P-61") == []
        assert (await stream.spells("P-61"))[0][0] == last(first)

    async def test_workers_share_the_lanes_and_take_over_what_another_leaves(self, stream, worker_settings):
        pumps = [f"P-{number}" for number in range(15, 23)]
        start = stream.hour()
        first = [readings(pump_id, start, 4, **OPEN_PHASE) for pump_id in pumps]
        second = [readings(pump_id, start + 4 * STEP, 4, **OPEN_PHASE) for pump_id in pumps]
        async with _work(worker_settings) as one:
            for each in first:
                await stream.send(each)
            for pump_id, each in zip(pumps, first, strict=True):
                await stream.judged(pump_id, last(each))
            async with _work(worker_settings) as other:
                await until(lambda: len(one.lanes) == len(other.lanes) == 4, "the lanes are shared")
                assert one.lanes | other.lanes == set(range(topology.LANES))
                for each in second:
                    await stream.publish(each)
                found = [await stream.found(pump_id) for pump_id in pumps]
            await until(lambda: len(one.lanes) == topology.LANES, "all lanes are the one's again")
        assert {each["onset"] for each in found} == {start}
        assert {len(await stream.spells(pump_id)) for pump_id in pumps} == {1}

    async def test_worker_judges_what_was_published_before_there_were_64_partitions(
        self, stream, worker_settings
    ):
        start = stream.hour()
        before = readings("P-31", start, 4, **OPEN_PHASE)
        after = readings("P-31", start + 4 * STEP, 8, **OPEN_PHASE)
        await stream.add_pump("P-31")
        await stream.store(before)
        await stream.publish_body(crc32(b"P-31") % 8, arrow.encode(before))
        async with _work(worker_settings):
            await stream.judged("P-31", last(before))
            await stream.send(after)
            found = await stream.found("P-31")
            await until(stream.taken, "no message is left")
        assert found["onset"] == start
        assert len(await stream.spells("P-31")) == 1

    async def test_worker_waits_for_those_of_an_earlier_version_and_takes_over_their_backlogs(
        self, stream, worker_settings
    ):
        start = stream.hour()
        past = readings("P-32", start, 12, **OPEN_PHASE)
        await stream.add_pump("P-32")
        await stream.store(past)
        await stream.fleet.rows(
            "INSERT INTO diagnostics.backlogs (pump_id, partition, judged, until, body_through)"
            " VALUES ('P-32', 3, $1, $2, $1)",
            start - STEP,
            last(past),
        )
        await stream.fleet.rows(
            "INSERT INTO diagnostics.partitions (partition, worker_id) VALUES (3, 'older')"
        )
        await stream.fleet.rows("INSERT INTO diagnostics.workers VALUES ('older', now() + INTERVAL '1 day')")
        async with _work(worker_settings) as worker:
            assert worker.lanes == frozenset()
            assert worker.worker_id not in await stream.workers()
            await stream.fleet.rows("DELETE FROM diagnostics.workers WHERE worker_id = 'older'")
            found = await stream.found("P-32")
        assert found["onset"] == start
        numbers = "SELECT partition FROM diagnostics.partitions WHERE partition < 64"
        assert await stream.fleet.rows(numbers) == []

    async def test_lanes_are_a_setting_and_a_removed_one_loses_no_reading(self, stream, worker_settings):
        pumps = [f"P-{number}" for number in range(33, 53)]
        start = stream.hour()
        first = [readings(pump_id, start, 4, **OPEN_PHASE) for pump_id in pumps]
        second = [readings(pump_id, start + 4 * STEP, 8, **OPEN_PHASE) for pump_id in pumps]
        for pump_id in pumps:
            await stream.add_pump(pump_id)
        async with _work(worker_settings.model_copy(update={"lanes": 20})) as worker:
            assert worker.lanes == set(range(20))
            for each in first:
                await stream.send(each)
            for pump_id, each in zip(pumps, first, strict=True):
                await stream.judged(pump_id, last(each))
        for each in second[:10]:  # on 20 lanes, of which 12 go
            await stream.send(each)
        async with _work(worker_settings):
            for each in second[10:]:
                await stream.send(each)
            for each in second:
                await stream.publish(each.take(np.arange(len(each)) == len(each) - 1))
            found = [await stream.found(pump_id) for pump_id in pumps]
        assert {each["onset"] for each in found} == {start}
        assert await stream.lane_queues() == {topology.lane_queue(number) for number in range(8)}

    async def test_worker_that_lost_a_partition_writes_nothing_of_it(self, stream, worker_settings):
        start = stream.hour()
        first = readings("P-23", start, 3, **HEALTHY)
        async with _work(worker_settings, crash=True):
            await stream.send(first)
            await stream.judged("P-23", last(first))
            await stream.fleet.rows(
                "UPDATE diagnostics.partitions SET worker_id = 'another', epoch = epoch + 1"
                " WHERE partition = $1 RETURNING 1",
                topology.partition("P-23"),
            )
            second = readings("P-23", start + 3 * STEP, 12, **OPEN_PHASE)
            await stream.send(second)
            # It finds out, claims the partition anew, and begins with what is on record.
            await stream.found("P-23")
        owner = "SELECT worker_id, epoch FROM diagnostics.partitions WHERE partition = $1"
        [row] = await stream.fleet.rows(owner, topology.partition("P-23"))
        assert row["worker_id"] != "another"

    async def test_without_redis_readings_are_judged_all_the_same(self, stream, worker_settings):
        settings = worker_settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
        sent = readings("P-24", stream.hour(), 12, **OPEN_PHASE)
        async with _work(settings):
            await stream.send(sent)
            await stream.found("P-24")


@asynccontextmanager
async def _listening(redis_url: str, field_id: str, heard: list[dict[str, Any]]) -> AsyncIterator[None]:
    """Gather what is told live of a field."""
    redis = connect_redis(redis_url)
    async with redis.pubsub() as subscription:
        await subscription.subscribe(channel_of(field_id))

        async def listen() -> None:
            async for message in subscription.listen():
                heard.extend([orjson.loads(message["data"])] if message["type"] == "message" else [])

        listening = asyncio.create_task(listen())
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    await redis.aclose()
