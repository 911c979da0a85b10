"""The worker on real servers: from a gateway's message to the row, the announcement and the ack."""

import asyncio
import os
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import orjson
import pytest
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.contracts.channels import CHANNEL_INDEX, MASK_BIT
from esp_common.contracts.events import Event
from esp_common.contracts.readings import JUDGED_HEADER, empty_readings
from esp_common.database import create_pool
from esp_common.errors import Conflict, Nacked, NotFound
from esp_common.messaging import Delivery, LeanConsumer, Publisher, dead_letter
from esp_ingest import intake
from esp_ingest.coalescer import Coalescer
from esp_ingest.consumers import Worker, open_worker
from esp_ingest.dead_letters import DeadLetters
from esp_ingest.domain.decode import ARROW_TYPE, JSON_TYPE, Body
from esp_ingest.quarantine import Edited, Quarantine, body_of
from esp_ingest.reconcile import Reconciliation, reconcile
from esp_ingest.settings import IngestSettings
from esp_ingest.store.migrations import migrate
from esp_ingest.store.telemetry import prepare
from esp_stack.servers import Vhost
from pamqp import commands
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs
from waiting import beside, until

NOW = datetime.now(UTC).replace(microsecond=0)
RUN_WORKER = """
import asyncio, sys
from esp_common.database import create_pool
from esp_ingest.consumers import open_worker
from esp_ingest.settings import IngestSettings
from esp_ingest.store.telemetry import prepare

async def main():
    settings = IngestSettings.load()
    async with await create_pool(settings, role="worker", init=prepare) as pool:
        async with open_worker(settings, pool) as worker:
            await worker.run(asyncio.Event())

asyncio.run(main())
"""


ASSETS = """
INSERT INTO ingest.fields VALUES ('north', 'North'), ('south', 'South');
INSERT INTO ingest.wells VALUES ('W1', 'north', 'W1'), ('W2', 'south', 'W2');
INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P1', 'W1'), ('P2', 'W2');
INSERT INTO ingest.gateways VALUES ('gw-01', 'north', 'One'), ('gw-02', 'south', 'Two');
INSERT INTO ingest.gateway_pumps VALUES ('gw-01', 'P1'), ('gw-02', 'P2')
"""


@dataclass
class Field:
    """The servers of a module, with two pumps of two gateways, and what a test wants to know of them."""

    settings: IngestSettings
    admin: "asyncpg.Pool[Any]"
    vhost: Vhost
    publisher: Publisher
    channel: aio_pika.abc.AbstractChannel
    announced: list[aio_pika.abc.AbstractIncomingMessage] = field(default_factory=list)
    running: Worker | None = None
    next_time: datetime = NOW - timedelta(hours=4)

    def reading(self, pump_id: str = "P1", **values: Any) -> dict[str, Any]:
        """A good reading at an instant of its own."""
        self.next_time += timedelta(seconds=1)
        sent = {"pump_id": pump_id, "time": self.next_time.isoformat(), "frequency_hz": 50.0} | values
        return {name: value for name, value in sent.items() if value is not ...}

    async def send(self, sent: Any, gateway_id: str = "gw-01", **properties: Any) -> None:
        body = sent if isinstance(sent, bytes) else orjson.dumps(sent)
        await self.publisher.publish(topology.INGEST, f"telemetry.{gateway_id}", body, **properties)

    async def stored(self, sent: dict[str, Any]) -> Any:
        query = "SELECT * FROM telemetry_v1.readings WHERE pump_id = $1 AND time = $2"
        return await self.admin.fetchrow(query, sent["pump_id"], datetime.fromisoformat(sent["time"]))

    async def refused(self) -> list[Any]:
        return list(await self.admin.fetch("SELECT * FROM ingest.quarantine ORDER BY received_at"))

    async def count(self) -> int:
        return int(await self.admin.fetchval("SELECT count(*) FROM ingest.telemetry"))

    async def reconciled(self, receipt: Path | None = None) -> Reconciliation:
        async with await create_pool(self.settings, role="reconcile") as pool:
            return await reconcile(pool, self.settings.amqp_url, receipt)

    async def ledger(self) -> dict[str, int]:
        row = await self.admin.fetchrow(
            "SELECT coalesce(sum(messages), 0) AS messages, coalesce(sum(readings), 0) AS readings,"
            " coalesce(sum(stored), 0) AS stored, coalesce(sum(merged), 0) AS merged,"
            " coalesce(sum(duplicates), 0) AS duplicates, coalesce(sum(quarantined), 0) AS quarantined"
            " FROM ingest.ledger"
        )
        return dict(row)

    async def drained(self) -> None:
        """Wait until nothing is in the queue nor on its way through the worker, three looks in a row."""
        calm = 0

        async def look() -> bool:
            nonlocal calm
            idle = self.running is None or self.running.intake.idle
            calm = calm + 1 if idle and await self.ready(topology.INGEST_TELEMETRY) == 0 else 0
            return calm >= 3

        await until(look, "the queue is drained")

    async def ready(self, queue: str) -> int:
        """How many messages wait in `queue`."""
        declared = await self.channel.declare_queue(queue, passive=True)
        return int(declared.declaration_result.message_count or 0)

    @asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[Worker]:
        """Run a worker while inside, and stop it in good order."""
        settings = self.settings.model_copy(update=changes)
        stop = asyncio.Event()
        async with (
            await create_pool(settings, role="worker", max_size=4, init=prepare) as pool,
            open_worker(settings, pool) as worker,
        ):
            running = asyncio.create_task(worker.run(stop))
            self.running = worker
            try:
                yield worker
            finally:
                self.running = None
                stop.set()
                await running


@pytest.fixture(scope="module")
async def servers(database: Any, vhost: Vhost, redis_url: str) -> AsyncIterator[Field]:
    await asyncio.to_thread(migrate, database.url("esp_ingest_owner"), database.engine)
    settings = IngestSettings(
        amqp_url=vhost.url_for("ingest"),
        database_url=database.url("esp_ingest"),
        redis_url=redis_url,
        flush_ms=20,
    )
    async with (
        await asyncpg.create_pool(database.admin_url, min_size=1, max_size=3) as admin,
        Publisher(vhost.url) as publisher,
        await aio_pika.connect(vhost.url) as connection,
        connection.channel() as channel,
    ):
        await admin.execute(ASSETS)
        field_ = Field(settings, admin, vhost, publisher, channel)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.TELEMETRY, "#")

        async def on_announced(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            field_.announced.append(message)

        await queue.consume(on_announced, no_ack=True)
        yield field_


@pytest.fixture
async def site(servers: Field) -> Field:
    """The module's servers with nothing stored and nothing queued."""
    for name in (topology.INGEST_TELEMETRY, topology.INGEST_TELEMETRY_DEAD):
        queue = await servers.channel.get_queue(name)
        await queue.purge()
    await servers.admin.execute(
        "TRUNCATE ingest.telemetry, ingest.quarantine, ingest.quarantine_days, ingest.ledger, ingest.outbox"
    )
    async with Redis.from_url(servers.settings.redis_url) as redis:
        await redis.flushdb()
    servers.announced.clear()
    return servers


async def test_readings_of_every_form_are_stored_and_announced(site: Field) -> None:
    one, two, three = site.reading(), site.reading(motor_current_a=20.14), site.reading("P2", running=True)
    batch = empty_readings(2)
    batch.pump_id[:] = "P1"
    batch.time_us[:] = (
        int(site.next_time.timestamp() + 10) * 1_000_000,
        int(site.next_time.timestamp() + 11) * 1_000_000,
    )
    batch.values[:, 8] = 51.5, 52.5
    async with site.worker():
        await site.send(one)
        await site.send([two])
        await site.send({"readings": [three]}, "gw-02")
        await site.send(arrow.encode(batch), content_type=ARROW_TYPE)
        await site.drained()
    assert (await site.stored(two))["motor_current_a"] == pytest.approx(20.1)
    assert (await site.stored(three))["running"] is True
    assert await site.count() == 5
    announced = [arrow.decode(message.body) for message in site.announced]
    assert sum(map(len, announced)) == 5
    assert {message.routing_key for message in site.announced} == {"telemetry.north", "telemetry.south"}
    for message, readings in zip(site.announced, announced, strict=True):
        partitions = {topology.partition(pump_id) for pump_id in readings.pump_id}
        assert partitions == {int(message.headers[topology.PARTITION_HEADER])}
    assert await site.ledger() == {
        "messages": 4, "readings": 5, "stored": 5, "merged": 0, "duplicates": 0, "quarantined": 0
    }  # fmt: skip


async def test_backlog_of_a_gateway_does_not_delay_the_reading_of_another(site: Field) -> None:
    async with site.worker(flush_readings=2, flushes_in_flight=1):
        await site.send(site.reading())  # the first message settles how many are sent ahead
        await site.drained()
        site.announced.clear()
        async with site.admin.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE ingest.telemetry IN SHARE ROW EXCLUSIVE MODE")
            for _ in range(8):
                await site.send([site.reading() for _ in range(10)])
            await site.send(site.reading("P2"), "gw-02")
            await until(lambda: _is_empty(site), "the worker holds all messages")
        await site.drained()
    fields = [message.routing_key for message in site.announced]
    assert len(fields) == 9
    assert fields.index("telemetry.south") <= 2


async def _is_empty(site: Field) -> bool:
    return await site.ready(topology.INGEST_TELEMETRY) == 0


async def test_the_trace_of_a_message_goes_on_with_what_was_accepted_of_it(site: Field) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with site.worker():
        await site.send(site.reading(), headers={"traceparent": parent})
        await until(lambda: _true(bool(site.announced)), "announced")
    assert site.announced[0].headers["traceparent"] == parent


async def test_the_same_messages_again_and_interleaved_change_nothing(site: Field) -> None:
    first = [site.reading(motor_current_a=float(n)) for n in range(50)]
    async with site.worker():
        for at in range(0, 50, 10):
            await site.send(first[at : at + 10], message_id=f"m{at}")
        await site.drained()
        for at in range(40, -1, -10):
            await site.send(first[at : at + 10], message_id=f"m{at}")
            await site.send([*first[at + 5 : at + 10], site.reading()])
        await site.drained()
    assert await site.count() == 55
    ledger = await site.ledger()
    assert (ledger["stored"], ledger["readings"], ledger["duplicates"]) == (55, 130, 75)
    assert await site.refused() == []


async def test_what_redis_remembers_of_another_database_is_stored_all_the_same(
    site: Field, database: Any, make_database: Any
) -> None:
    sent = [site.reading() for _ in range(3)]
    async with site.worker():
        await site.send(sent, message_id="before the restore")
        await site.drained()
    restored = make_database(database.engine)
    await asyncio.to_thread(migrate, restored.url("esp_ingest_owner"), database.engine)
    async with (
        await asyncpg.create_pool(restored.admin_url, min_size=1, max_size=1) as admin,
        site.worker(database_url=restored.url("esp_ingest")),
    ):
        await admin.execute(ASSETS)
        for _ in range(2):
            await site.send(sent, message_id="before the restore")
            await site.drained()
        assert await admin.fetchval("SELECT count(*) FROM ingest.telemetry") == 3
        assert await admin.fetchval("SELECT sum(duplicates) FROM ingest.ledger") == 3


async def test_gauge_and_drive_of_one_instant_become_one_row(site: Field) -> None:
    together, apart = site.reading(), site.reading()
    gauge = {"frequency_hz": ..., "intake_pressure_psi": 1000.0}

    def of(sent: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in (sent | gauge).items() if value is not ...}

    async with site.worker():
        await site.send([together, of(together), apart])
        await site.drained()
        await site.send(of(apart))
        await site.drained()
    for sent in (together, apart):
        row = await site.stored(sent)
        assert (row["frequency_hz"], row["intake_pressure_psi"]) == (50.0, 1000.0)
    ledger = await site.ledger()
    assert (ledger["stored"], ledger["merged"], ledger["readings"]) == (2, 2, 4)


async def test_a_contradiction_is_kept_in_quarantine_and_the_first_value_stays(site: Field) -> None:
    sent, other = site.reading(), site.reading()
    async with site.worker():
        await site.send([sent, sent | {"frequency_hz": 51.0}, other])
        await site.drained()
        await site.send(other | {"frequency_hz": 49.0, "motor_current_a": 7.0})
        await site.drained()
    assert (await site.stored(sent))["frequency_hz"] == 50.0
    row = await site.stored(other)
    assert (row["frequency_hz"], row["motor_current_a"]) == (50.0, 7.0)
    assert row["refused_channels"] == (await site.stored(sent))["refused_channels"] == ["frequency_hz"]
    refused = await site.refused()
    assert [(row["reason"], row["channel"]) for row in refused] == [("conflict", "frequency_hz")] * 2
    assert {orjson.loads(row["payload"])["frequency_hz"] for row in refused} == {51.0, 49.0}
    ledger = await site.ledger()
    assert (
        ledger["readings"]
        == ledger["stored"] + ledger["merged"] + ledger["duplicates"] + ledger["quarantined"]
    )


async def test_bad_readings_are_quarantined_one_by_one_and_only_once(site: Field) -> None:
    good = site.reading()
    bad = [
        site.reading(pump_id="P9"),
        site.reading(pump_id="P2"),
        site.reading(frequency_hz=900.0),
        site.reading(time=(NOW + timedelta(hours=1)).isoformat()),
        site.reading(frequency_hz=..., spin=1),
        site.reading(frequency_hz="a\u0000b"),
    ]
    async with site.worker():
        await site.send([*bad, good], message_id="m")
        await site.send(b"{", content_type="application/json")
        await site.send(b"x", content_type="text/plain")
        await site.send([good], "gw-99")
        await site.drained()
        await site.send([*bad, good], message_id="other name")
        await site.drained()
    assert await site.count() == 1
    refused = await site.refused()
    assert sorted(row["reason"] for row in refused) == [
        "foreign-gateway",
        "invalid-schema",
        "out-of-range",
        "time-in-future",
        "undecodable",
        "unknown-channel",
        "unknown-gateway",
        "unknown-pump",
        "unsupported-media-type",
    ]


async def test_a_bad_channel_costs_its_reading_nothing_else(site: Field) -> None:
    sent = site.reading(motor_current_a=41.5, motor_temp_c=120, wellhead_pressure_psi=-9999, choke_pct=100.2)
    other = site.reading(running="Bad", water_cut_pct="No Data", spin=1)
    batch = empty_readings(1)
    batch.pump_id[:] = "P1"
    batch.time_us[:] = round((site.next_time + timedelta(seconds=1)).timestamp() * 1e6)
    batch.values[:, [CHANNEL_INDEX["motor_temp_c"], CHANNEL_INDEX["wellhead_pressure_psi"]]] = 121, 1e38
    async with site.worker():
        for _ in range(2):
            await site.send([sent])
            await site.send(other)
            await site.send(arrow.encode(batch), content_type=ARROW_TYPE)
            await site.drained()
    row = await site.stored(sent)
    assert (row["motor_temp_c"], row["motor_current_a"], row["wellhead_pressure_psi"]) == (120, 41.5, None)
    assert row["refused_channels"] == ["wellhead_pressure_psi"]
    assert (row["clamped_channels"], row["choke_pct"]) == (["choke_pct"], 100)
    assert (await site.stored(other))["refused_channels"] == ["water_cut_pct", "running"]
    assert await site.count() == 3
    refused = {(row["channel"], row["reason"]) for row in await site.refused()}
    assert refused == {
        ("wellhead_pressure_psi", "sentinel-value"),
        ("running", "status-text"),
        ("water_cut_pct", "status-text"),
        ("spin", "unknown-channel"),
    }
    payloads = [orjson.loads(row["payload"]) for row in await site.refused()]
    assert len(payloads) == 5
    kept = {"pump_id": "P1", "time": sent["time"], "wellhead_pressure_psi": -9999}
    assert kept in payloads
    announced = [arrow.decode_accepted(message.body) for message in site.announced]
    hot = [
        each for each in announced if (each.readings.values[:, CHANNEL_INDEX["motor_temp_c"]] == 120).any()
    ]
    assert hot[0].refused_mask[0] == 1 << MASK_BIT["wellhead_pressure_psi"]
    ledger = await site.ledger()
    assert (ledger["stored"], ledger["duplicates"], ledger["quarantined"]) == (3, 3, 0)
    assert (await site.reconciled()).agrees


async def test_a_refused_channel_fills_its_reading_once_its_cause_is_mended(site: Field) -> None:
    sent = site.reading(spin=1450.0)
    async with site.worker() as worker:
        await site.send(sent)
        await site.drained()
        [refused] = await site.refused()
        await site.admin.execute(
            "INSERT INTO ingest.tag_maps (gateway_id, tag, channel, factor, offset_)"
            " VALUES ('gw-01', 'spin', 'motor_voltage_v', 1, 0)"
        )
        try:
            await worker.registry.load()
            async with await create_pool(site.settings, role="replay") as pool:
                await Quarantine(pool, site.publisher).replay(refused["id"], "u-1")
            await site.drained()
        finally:
            await site.admin.execute("TRUNCATE ingest.tag_maps")
    row = await site.stored(sent)
    assert (row["motor_voltage_v"], row["frequency_hz"]) == (1450, 50)
    assert row["refused_channels"] == []
    [refused] = await site.refused()
    assert refused["state"] == "replayed"
    assert (await site.reconciled()).agrees


async def test_a_channel_refused_again_is_pending_again_under_its_id(site: Field) -> None:
    sent = site.reading(wellhead_pressure_psi=-12.5)
    async with site.worker():
        await site.send(sent)
        await site.drained()
        [refused] = await site.refused()
        async with await create_pool(site.settings, role="replay") as pool:
            await Quarantine(pool, site.publisher).replay(refused["id"], "u-1")
        await site.drained()
        [again] = await site.refused()
        assert (again["id"], again["state"]) == (refused["id"], "pending")
        assert again["channel"] == "wellhead_pressure_psi"
        await site.send({**sent, "wellhead_pressure_psi": 12.5})
        await site.drained()
    row = await site.stored(sent)
    assert (row["wellhead_pressure_psi"], row["refused_channels"]) == (12.5, [])
    assert (await site.reconciled()).agrees


async def test_a_receipt_accounts_for_channels(site: Field, tmp_path: Path) -> None:
    sent = [
        site.reading(wellhead_pressure_psi=-9999),
        site.reading(choke_pct=50),
        site.reading(choke_pct=50, water_cut_pct=10),
    ]
    other = sent[1] | {"choke_pct": 51}
    async with site.worker():
        await site.send([*sent, other])
        await site.drained()
    receipt = tmp_path / "receipt.jsonl"
    lines = [orjson.dumps({"gateway_id": "gw-01", "reading": each}) for each in (*sent, other)]
    receipt.write_bytes(b"\n".join(lines))
    outcome = await site.reconciled(receipt)
    assert outcome.receipt is not None
    assert (outcome.receipt.confirmed, outcome.receipt.stored, outcome.receipt.lost) == (4, 4, 0)
    assert (outcome.receipt.channels_stored, outcome.receipt.channels_refused) == (7, 2)
    assert "7 channels stored / 2 refused" in outcome.text()
    await site.admin.execute("UPDATE ingest.telemetry SET water_cut_pct = NULL")
    await site.admin.execute("DELETE FROM ingest.quarantine WHERE reason = 'conflict'")
    broken = await site.reconciled(receipt)
    assert broken.receipt is not None
    assert broken.receipt.lost == 2
    assert any("channels refused" in difference for difference in broken.differences)


async def test_every_error_id_names_a_row_of_quarantine(site: Field) -> None:
    deep: Any = 1
    for _ in range(33):
        deep = [deep]
    # The API's clock is a minute behind: what it finds too far ahead, the worker's own would store.
    ahead = datetime.now(UTC) + timedelta(seconds=270)
    bodies = [
        {},
        site.reading(deep=deep),
        {"deep": deep},
        site.reading(time=ahead.isoformat()),
        site.reading(wellhead_pressure_psi="Bad"),
        [site.reading(), {}, 5],
    ]
    async with Publisher(site.vhost.url_for("ingest")) as publisher, site.worker() as worker:
        await until(lambda: _true(worker.registry.loaded), "registry loaded")
        coalescer = Coalescer(publisher, worker.registry, site.settings, now=lambda: time.time() - 60)
        receipts = await asyncio.gather(
            *(coalescer.post(Body(orjson.dumps(body), JSON_TYPE, "gw-01")) for body in bodies)
        )
        await site.drained()
    answered = {refusal.row.id for receipt in receipts for refusal in receipt.rejected}
    assert {row["id"] for row in await site.refused()} == answered
    assert [receipt.accepted for receipt in receipts] == [0, 1, 0, 0, 1, 1]
    assert await site.count() == 3


async def test_one_message_causes_few_rows_of_quarantine_and_its_good_readings_are_stored(
    site: Field, tmp_path: Path
) -> None:
    good = site.reading()
    foreign = [site.reading(pump_id="P2") for _ in range(300)]
    colours = [site.reading(colour=1) for _ in range(200)]
    sent = [*range(2000), *foreign, *colours, good]
    async with site.worker():
        await site.send(sent, message_id="m")
        await site.drained()
        assert len(await site.refused()) == 101
        await site.send(sent, message_id="other")
        await site.drained()
    rows = {row["reason"]: row for row in await site.refused()}
    summary = rows["too-many-refused"]
    assert (summary["rest_readings"], summary["rest_channels"]) == (1900 + 300, 200)
    assert body_of(orjson.loads(summary["payload"]))[0] == orjson.dumps(sent)
    assert len(await site.refused()) == 101
    assert await site.count() == 201
    assert await site.stored(good)
    ledger = await site.ledger()
    assert (ledger["readings"], ledger["quarantined"], ledger["stored"]) == (2 * 2501, 2300, 201)
    receipt = tmp_path / "receipt"
    lines = [orjson.dumps({"gateway_id": "gw-01", "reading": each}) for each in (*foreign, *colours, good)]
    receipt.write_bytes(b"\n".join(lines))
    outcome = await site.reconciled(receipt)
    assert outcome.agrees, outcome.text()
    assert outcome.receipt is not None
    assert (outcome.receipt.stored, outcome.receipt.quarantined, outcome.receipt.lost) == (201, 300, 0)
    assert outcome.receipt.channels_refused == 200


async def test_refusals_beyond_a_gateways_day_are_counted_and_its_good_readings_are_stored(
    site: Field,
) -> None:
    name = "esp_ingest_refusals_unkept_total"
    before = REGISTRY.get_sample_value(name) or 0
    with capture_logs() as logs:
        async with site.worker(quarantine_rows_per_day=60):
            await site.send([*range(50), site.reading()])
            await site.drained()
            await site.send([*range(100, 150), site.reading()])
            await site.drained()
            await site.send([*range(200, 250), site.reading()])
            await site.send([*range(50)], "gw-02")
            await site.drained()
    rows = Counter(row["gateway_id"] for row in await site.refused())
    assert rows == {"gw-01": 60, "gw-02": 50}
    assert await site.count() == 3
    assert (REGISTRY.get_sample_value(name) or 0) - before == 90
    assert [each["gateway_id"] for each in logs if each["event"] == "quarantine.full"] == ["gw-01"]
    outcome = await site.reconciled()
    assert outcome.agrees, outcome.text()
    assert "90 readings and 0 channels not kept" in outcome.text()


async def test_a_replayed_summary_stores_what_is_mended_and_is_pending_again(site: Field) -> None:
    later = [site.reading(pump_id="P5") for _ in range(150)]
    async with site.worker() as worker:
        await site.send([*range(250), *later])
        await site.drained()
        await site.admin.execute(
            "INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P5', 'W1');"
            "INSERT INTO ingest.gateway_pumps VALUES ('gw-01', 'P5')"
        )
        [summary] = [row for row in await site.refused() if row["rest_readings"]]
        await worker.registry.load()
        await Quarantine(worker.pool, worker.publisher).replay(summary["id"], "someone")
        await site.drained()
    assert await site.count() == 150
    assert {row["state"] for row in await site.refused()} == {"pending"}
    assert (await site.reconciled()).agrees


async def test_every_error_id_names_a_row_however_many_posts_share_messages(site: Field) -> None:
    bodies = [[*range(n * 1000, n * 1000 + 40), site.reading()] for n in range(1, 7)]
    bodies.append([*range(500), site.reading()])
    async with Publisher(site.vhost.url_for("ingest")) as publisher, site.worker() as worker:
        await until(lambda: _true(worker.registry.loaded), "registry loaded")
        coalescer = Coalescer(publisher, worker.registry, site.settings)
        receipts = await asyncio.gather(
            *(coalescer.post(Body(orjson.dumps(body), JSON_TYPE, "gw-01")) for body in bodies)
        )
        await site.drained()
    answered = {refusal.row.id for receipt in receipts for refusal in receipt.rejected}
    answered |= {receipt.summary.id for receipt in receipts if receipt.summary}
    assert {row["id"] for row in await site.refused()} == answered
    assert [receipt.rejected_total for receipt in receipts] == [40] * 6 + [500]
    assert [receipt.accepted for receipt in receipts] == [1] * 7
    assert await site.count() == 7


async def test_the_time_of_a_verdict_is_only_believed_of_the_service_itself(site: Field) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with site.worker():
        stamp = {JUDGED_HEADER: str(round(later.timestamp() * 1e6))}
        await site.send(site.reading(time=later.isoformat()), headers=stamp)
        await site.drained()
    assert [row["reason"] for row in await site.refused()] == ["time-in-future"]


async def test_a_pump_registered_a_moment_ago_is_known(site: Field) -> None:
    async with site.worker() as worker:
        await until(lambda: _true(worker.registry.loaded), "registry loaded")
        await asyncio.sleep(2.5)  # past the start's loads: between two there is at least a second
        await site.admin.execute(
            "INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P3', 'W1');"
            "INSERT INTO ingest.gateway_pumps VALUES ('gw-01', 'P3')"
        )
        await site.send(site.reading("P3"))
        await site.drained()
    assert await site.count() == 1


async def _true(value: object) -> object:
    return value


async def test_an_asset_event_renews_the_registry(site: Field) -> None:
    async with site.worker() as worker:
        await until(lambda: _true(worker.registry.loaded), "registry loaded")
        await asyncio.sleep(1.5)
        await site.admin.execute("INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P4', 'W1')")
        event = Event("asset.pump-changed", "ingest", "P4", {})
        await worker.publisher.publish(
            topology.EVENTS, event.type, event.body(), headers=event.headers(), mandatory=False
        )
        await until(lambda: _true("P4" in worker.registry.current.pumps), "registry renewed", 8)


async def test_without_redis_everything_still_holds(site: Field) -> None:
    sent = [site.reading() for _ in range(3)]
    async with site.worker(redis_url="redis://127.0.0.1:1/0"):
        await site.send(sent, message_id="m")
        await site.drained()
        await site.send(sent, message_id="m")
        await site.drained()
    ledger = await site.ledger()
    assert (await site.count(), ledger["stored"], ledger["duplicates"]) == (3, 3, 3)


async def test_a_poison_message_is_buried_with_its_reason_and_its_neighbours_pass(
    site: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = intake.decode

    def choke(bodies: Any) -> Any:
        assert not any(b"POISON" in body.content for body in bodies), "cannot swallow this"
        return decode(bodies)

    monkeypatch.setattr(intake, "decode", choke)
    monkeypatch.setattr(dead_letter, "POISON_PAUSE_S", 0.01)
    async with site.worker():
        await site.send(site.reading())
        await site.send(b'{"pump_id":"POISON"}', message_id="bad")
        for _ in range(5):
            await site.send(site.reading())

        async def buried() -> bool:
            return await site.ready(topology.INGEST_TELEMETRY_DEAD) == 1

        await until(buried, "the poison is buried")
        await site.drained()
    assert await site.count() == 6
    dead = await site.channel.get_queue(topology.INGEST_TELEMETRY_DEAD)
    message = await dead.get(no_ack=True)
    assert message is not None
    assert message.body == b'{"pump_id":"POISON"}'
    assert (message.message_id, message.headers["esp-routing-key"]) == ("bad", "telemetry.gw-01")
    assert "cannot swallow this" in str(message.headers["esp-reason"])
    assert message.headers["esp-error-id"]


async def _deliver_in_vain(site: Field, times: int, count: int) -> None:
    """Deliver all `count` messages of the queue that often to a consumer that goes away without a word."""
    for _ in range(times):
        taken: list[Delivery] = []
        url, queue = site.settings.amqp_url, topology.INGEST_TELEMETRY
        consumer = LeanConsumer(url, queue, prefetch=count, on_message=taken.append)
        async with beside(consumer.run()):
            await until(lambda taken=taken: len(taken) == count, "delivered")


async def test_messages_of_a_crash_loop_are_taken_in_groups(site: Field) -> None:
    for _ in range(640):
        await site.send(site.reading())
    await _deliver_in_vain(site, 3, 640)
    async with site.worker():
        await site.drained()
    flushes = await site.admin.fetchval("SELECT count(*) FROM ingest.ledger")
    assert (await site.count(), flushes < 640 / 8) == (640, True)
    assert (await site.reconciled()).agrees


async def test_a_message_that_cannot_be_stored_is_found_by_halving(
    site: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = intake.decode, 0

    def choke(bodies: Any) -> Any:
        nonlocal calls
        calls += 1
        assert not any(b"POISON" in body.content for body in bodies), "cannot swallow this"
        return decode(bodies)

    monkeypatch.setattr(intake, "decode", choke)
    monkeypatch.setattr(dead_letter, "POISON_PAUSE_S", 0.01)
    for _ in range(100):
        await site.send(site.reading())
    await site.send(b'{"pump_id":"POISON"}')
    for _ in range(100):
        await site.send(site.reading())
    async with site.worker():
        await until(lambda: _true_if(site.ready(topology.INGEST_TELEMETRY_DEAD), 1), "dead-lettered")
        await site.drained()
    assert await site.count() == 200
    assert calls < 100


KILLED_BY_POISON = RUN_WORKER.replace(
    "async def main",
    """
import os
from esp_ingest import intake
decode = intake.decode

def fatal(bodies):
    if any(b"POISON" in body.content for body in bodies):
        os._exit(139)
    return decode(bodies)

intake.decode = fatal

async def main""",
)


async def test_a_message_that_kills_workers_is_dead_lettered_alone(site: Field) -> None:
    environment = {
        "ESP_INGEST_AMQP_URL": site.settings.amqp_url,
        "ESP_INGEST_DATABASE_URL": site.settings.database_url,
        "ESP_INGEST_REDIS_URL": site.settings.redis_url,
    }
    for _ in range(150):
        await site.send(site.reading())
    await site.send(b'{"pump_id":"POISON"}')
    for _ in range(150):
        await site.send(site.reading())
    await _deliver_in_vain(site, 3, 301)  # as a worker does that holds all of them when it is killed
    for _ in range(topology.DELIVERY_LIMIT):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            KILLED_BY_POISON,
            env=os.environ | environment,
            stdout=asyncio.subprocess.DEVNULL,
        )
        ended = asyncio.create_task(process.wait())
        try:
            await until(lambda ended=ended: _ended_or_alone(site, ended), "killed, or done", 60)
        finally:
            if not ended.done():
                process.kill()
            await ended
        if await site.ready(topology.INGEST_TELEMETRY_DEAD):
            break
    async with site.worker():
        await site.drained()
    [letter] = await DeadLetters(site.settings.amqp_url).list()
    assert (letter.body, letter.reason) == (b'{"pump_id":"POISON"}', "delivery_limit")
    assert await site.count() == 300


async def _ended_or_alone(site: Field, ended: "asyncio.Task[int]") -> bool:
    return ended.done() or await site.ready(topology.INGEST_TELEMETRY_DEAD) == 1


async def test_a_database_that_answers_but_takes_no_rows_gets_nothing_dead_lettered(site: Field) -> None:
    sent = site.reading()
    async with site.worker(outage_pause_s=0.2) as worker:
        await site.admin.execute("REVOKE INSERT ON ingest.ledger FROM esp_ingest")
        try:
            await site.send(sent)
            await until(lambda: _true(worker.consumer.paused), "given back")
            assert worker.intake.stalled
            # Each giving back counts as a delivery, and the sixth is one too many.
            for _ in range(60):
                assert await site.ready(topology.INGEST_TELEMETRY_DEAD) == 0
                await asyncio.sleep(0.1)
        finally:
            await site.admin.execute("GRANT INSERT ON ingest.ledger TO esp_ingest")
        await until(lambda: site.stored(sent), "stored")
        await site.drained()
        assert not worker.intake.stalled
    assert await site.count() == 1
    assert sum(len(arrow.decode(message.body)) for message in site.announced) == 1
    assert (await site.reconciled()).agrees


async def test_a_poison_message_that_cannot_be_buried_is_left_to_the_broker(
    site: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choke(_: Any) -> Any:
        raise AssertionError("cannot swallow this")

    async with site.worker() as worker:
        publish = worker.publisher.publish

        async def refuse(exchange: str, *rest: Any, **options: Any) -> None:
            if exchange == topology.DLX:
                raise Nacked("the queue is full")
            await publish(exchange, *rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr(worker.publisher, "publish", refuse)
            patch.setattr(intake, "decode", choke)
            patch.setattr(dead_letter, "POISON_PAUSE_S", 0.01)
            await site.send(b"[]", headers={"x-delivery-count": "a lie"})

            async def buried() -> bool:
                return await site.ready(topology.INGEST_TELEMETRY_DEAD) == 1

            await until(buried, "the broker has buried it")
        await site.send(site.reading())
        await site.drained()
    assert await site.count() == 1


async def test_sigterm_style_stop_leaves_nothing_unacknowledged(site: Field) -> None:
    async with site.worker(flush_ms=5000) as worker:
        await until(lambda: _true(worker.consumer.alive), "consuming")
        for _ in range(20):
            await site.send(site.reading())
    assert await site.count() == 20
    await site.drained()


async def test_bodies_beyond_the_memory_limit_all_get_through(site: Field) -> None:
    padded = [orjson.dumps(site.reading()) + b" " * 1_000_000 for _ in range(24)]
    for body in padded:
        await site.send(body)
    for _ in range(200):
        await site.send(site.reading())
    async with site.worker(max_buffered_mib=4):
        await site.drained()
    assert await site.count() == 224


async def test_killed_between_commit_and_announcement_it_is_announced_after_redelivery(site: Field) -> None:
    """Block the worker's publishing with a queue that refuses: committed, not announced, then killed."""
    full = await site.channel.declare_queue(
        "refuses",
        durable=True,
        arguments={"x-max-length": 0, "x-overflow": "reject-publish", "x-queue-type": "classic"},
    )
    await full.bind(topology.TELEMETRY, "#")
    environment = {
        "ESP_INGEST_AMQP_URL": site.settings.amqp_url,
        "ESP_INGEST_DATABASE_URL": site.settings.database_url,
        "ESP_INGEST_REDIS_URL": site.settings.redis_url,
    }
    sent = [site.reading() for _ in range(10)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN_WORKER, env=os.environ | environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await site.send(sent, message_id="m")

        async def committed() -> bool:
            return await site.count() == 10

        await until(committed, "committed")
        await asyncio.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()

    async def returned() -> bool:
        return await site.ready(topology.INGEST_TELEMETRY) == 1

    await until(returned, "the message is back")
    await full.delete(if_empty=False)
    site.announced.clear()
    async with site.worker():
        await site.drained()
    assert sum(len(arrow.decode(message.body)) for message in site.announced) == 10
    assert await site.count() == 10


async def test_a_refused_reading_is_replayed_once_its_cause_is_mended(site: Field) -> None:
    sent = site.reading("P6")

    async def refused() -> bool:
        return bool(await site.refused())

    async with site.worker() as worker:
        await site.send(sent)
        # A message on its way from the broker to the worker is seen by neither, so wait for its effect.
        await until(refused, "the reading is in quarantine")
        [row] = await site.refused()
        quarantine = Quarantine(worker.pool, worker.publisher)
        await quarantine.replay(row["id"], "someone")
        await site.drained()
        [row] = await site.refused()
        assert (row["state"], row["reason"]) == ("pending", "unknown-pump")
        await site.admin.execute(
            "INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P6', 'W1');"
            "INSERT INTO ingest.gateway_pumps VALUES ('gw-01', 'P6')"
        )
        worker.registry.note_change()
        await until(lambda: _true("P6" in worker.registry.current.pumps), "registry renewed")
        await quarantine.replay(row["id"], "someone")
        await site.drained()
        with pytest.raises(Conflict):
            await quarantine.discard(row["id"], "someone")
        with pytest.raises(NotFound):
            await quarantine.replay(UUID(int=0), "someone")
    assert await site.stored(sent)
    [row] = await site.refused()
    assert (row["state"], row["resolved_by"]) == ("replayed", "someone")
    audited = await site.admin.fetch("SELECT routing_key FROM ingest.outbox")
    assert {row["routing_key"] for row in audited} == {"ingest.quarantine.replayed"}


async def test_an_undecodable_body_is_replayed_to_the_byte(site: Field) -> None:
    async with site.worker() as worker:
        await site.send(b"\xff{", content_type="application/json")
        await site.drained()
        [row] = await site.refused()
        await Quarantine(worker.pool, worker.publisher).replay(row["id"], "someone")
        await site.drained()
    [again] = await site.refused()
    assert (again["id"], again["payload"], again["state"]) == (row["id"], row["payload"], "pending")


async def test_an_edited_body_is_sent_in_the_place_of_the_one_refused(site: Field) -> None:
    sent = site.reading()
    async with site.worker() as worker:
        await site.send(b'{"pump_id": "P1", broken', content_type="application/json")
        await site.drained()
        [row] = await site.refused()
        quarantine = Quarantine(worker.pool, worker.publisher)
        await quarantine.replay(row["id"], "someone", Edited(b"still {broken", "application/json"))
        await site.drained()
        rows = {each["state"]: each for each in await site.refused()}
        assert rows["replayed"]["payload"] == row["payload"], "what first came is kept"
        again = Edited(orjson.dumps(sent), "application/json")
        await quarantine.replay(rows["pending"]["id"], "someone", again)
        await site.drained()
    assert await site.stored(sent)
    assert {each["state"] for each in await site.refused()} == {"replayed"}
    audited = await site.admin.fetch("SELECT body FROM ingest.outbox ORDER BY id")
    assert sha256(again.body).hexdigest() in audited[-1]["body"].decode()


async def test_times_that_cannot_be_read_are_null_in_quarantine(site: Field) -> None:
    times = ["rubbish", None, "0001-01-01T00:00:00Z", "2026-06-30T23:59:60Z", "2026-06-30T24:00:00Z"]
    async with site.worker():
        await site.send([site.reading(time=time) for time in times])
        await site.drained()
    rows = await site.refused()
    assert [(row["reason"], row["time"]) for row in rows] == [("invalid-time", None)] * len(times)
    assert {"leap second", "next day"} <= {
        words for row in rows for words in ("leap second", "next day") if words in row["detail"]
    }


async def test_dead_letters_are_listed_shown_replayed_and_discarded(site: Field) -> None:
    sent = site.reading()
    for body, name in ((orjson.dumps(sent), "good"), (b"rubbish", "bad")):
        headers = {"esp-routing-key": "telemetry.gw-01", "esp-reason": "why", "esp-error-id": "e1"}
        await site.publisher.publish(
            topology.DLX, topology.INGEST_TELEMETRY, body, headers=headers, message_id=name
        )
    letters = DeadLetters(site.settings.amqp_url)
    good, bad = await letters.list()
    assert (good.message_id, good.routing_key, good.reason, good.error_id) == (
        "good",
        "telemetry.gw-01",
        "why",
        "e1",
    )
    assert (await letters.show(bad.id)).body == b"rubbish"
    async with site.worker() as worker:
        assert await letters.replay([good.id], "someone", worker.publisher, worker.pool) == 1
        await site.drained()
        assert await letters.discard(None, "someone", worker.pool) == 1
        with pytest.raises(NotFound):
            await letters.discard([bad.id], "someone", worker.pool)
    assert await letters.list() == []
    assert await site.stored(sent)
    audited = await site.admin.fetch("SELECT routing_key FROM ingest.outbox ORDER BY id")
    assert [row["routing_key"] for row in audited] == [
        "ingest.dead-letter.replayed",
        "ingest.dead-letter.discarded",
    ]


async def test_a_dead_letter_is_its_senders_whatever_its_headers_say(site: Field) -> None:
    death = {
        "queue": topology.INGEST_TELEMETRY,
        "exchange": topology.INGEST,
        "reason": "rejected",
        "routing-keys": ["telemetry._api"],
        "count": 1,
        "time": NOW,
    }
    lies = [{"esp-routing-key": "telemetry._api"}, {"x-death": [death]}, {"x-death": "rubbish"}]
    for number, headers in enumerate(lies):
        await site.send(b"poison", headers=headers, message_id=f"m-{number}")
        queue = await site.channel.get_queue(topology.INGEST_TELEMETRY)
        message = await queue.get()
        assert message is not None
        await message.reject(requeue=False)
    found = await until(lambda: _letters(site, len(lies)), "buried")
    assert [letter.routing_key for letter in found] == ["telemetry.gw-01", "unknown", "telemetry.gw-01"]
    letters = DeadLetters(site.settings.amqp_url)
    async with site.worker() as worker:
        assert await letters.replay(None, "someone", worker.publisher, worker.pool) == 2
        with pytest.raises(Conflict):
            await letters.replay([found[1].id], "someone", worker.publisher, worker.pool)
        await site.drained()
    assert {row["gateway_id"] for row in await site.refused()} == {"gw-01"}


HOSTILE = {
    "message id that is not UTF-8": (1 << 7, b"\x04\xff\xfe\0\x1b"),
    "content encoding and media type that are not UTF-8": (3 << 14, b"\x01\xff\x01\xff"),
    "header name that is not UTF-8": (1 << 13, b"\0\0\0\3\1\xffV"),
    "timestamp beyond all years": (1 << 6, b"\xff" * 8),
    "an x-death of its own": (1 << 13, b"\0\0\0\x0d\x07x-deathA\0\0\0\0"),
}


class RawProperties(commands.Basic.Properties):
    """Properties that no client library lets anyone write: flags and their values as bytes."""

    def __init__(self, flags: int, values: bytes) -> None:
        super().__init__()
        self._raw = struct.pack(">H", flags) + values

    def marshal(self) -> bytes:
        return self._raw


async def _send_raw(site: Field, body: bytes, flags: int, values: bytes) -> None:
    properties = RawProperties(flags, values)
    await site.publisher._publish(topology.INGEST, "telemetry.gw-01", body, properties, mandatory=True)


async def test_readings_under_odd_properties_are_stored_and_the_consumer_goes_on(site: Field) -> None:
    readings = [site.reading() for _ in HOSTILE]
    async with site.worker() as worker:
        await until(lambda: _true(worker.consumer.alive), "consuming")
        generation = worker.consumer._generation
        for sent, (flags, values) in zip(readings, HOSTILE.values(), strict=True):
            await _send_raw(site, orjson.dumps(sent), flags, values)
        await _send_raw(site, b"{}", *HOSTILE["message id that is not UTF-8"])
        await until(lambda: _true_if(site.count(), len(HOSTILE) - 1), "stored")
        await site.drained()
        assert worker.consumer._generation == generation, "the connection was lost over a message"
    refused = {row["reason"]: row["message_id"] for row in await site.refused()}
    assert refused == {
        "invalid-schema": r"\xff\xfe\x00\x1b",
        "unsupported-media-type": None,
    }
    assert (await site.reconciled()).agrees


async def _true_if(found: Awaitable[int], wanted: int) -> bool:
    return await found == wanted


async def test_dead_letters_with_odd_properties_are_listed_replayed_and_discarded(site: Field) -> None:
    bodies = {name: orjson.dumps(site.reading()) for name in HOSTILE}
    for name, (flags, values) in HOSTILE.items():
        await _send_raw(site, bodies[name], flags, values)

    def dead_letter(delivery: Delivery) -> None:
        consumer.reject(delivery, requeue=False)

    consumer = LeanConsumer(
        site.settings.amqp_url, topology.INGEST_TELEMETRY, prefetch=10, on_message=dead_letter
    )
    async with beside(consumer.run()):
        found = await until(lambda: _letters(site, len(HOSTILE)), "dead-lettered")
    assert {letter.body for letter in found} == set(bodies.values())
    assert {letter.reason for letter in found} == {"rejected"}
    assert {letter.routing_key for letter in found} == {"telemetry.gw-01"}
    letters = DeadLetters(site.settings.amqp_url)
    assert (await site.reconciled()).dead_letters == len(HOSTILE)
    odd = next(letter for letter in found if letter.message_id)
    assert (await letters.show(odd.id)).message_id == r"\xff\xfe\x00\x1b"
    async with site.worker() as worker:
        assert await letters.discard([odd.id], "someone", worker.pool) == 1
        assert await letters.replay(None, "someone", worker.publisher, worker.pool) == len(HOSTILE) - 1
        await site.drained()
    assert await letters.list() == []
    assert await site.count() + len(await site.refused()) == len(HOSTILE) - 1


async def _letters(site: Field, count: int) -> Any:
    found = await DeadLetters(site.settings.amqp_url).list()
    return found if len(found) == count else None


async def test_reconciliation_finds_each_confirmed_reading_or_says_it_is_lost(
    site: Field, tmp_path: Path
) -> None:
    good = [site.reading(intake_pressure_psi=1234.5678, running=True) for _ in range(3)]
    bad, buried = site.reading(frequency_hz=1e9), site.reading()
    async with site.worker():
        await site.send([*good, bad])
        await site.send(b'{"frequency_hz": NaN, "pump_id": "P1", "time": "2026-01-01T00:00:00Z"}')
        await site.drained()
    await site.publisher.publish(
        topology.DLX,
        topology.INGEST_TELEMETRY,
        orjson.dumps(buried),
        headers={"esp-routing-key": "telemetry.gw-01"},
    )
    receipt = tmp_path / "receipt"
    nan = (
        b'{"gateway_id":"gw-01","reading":{"frequency_hz":NaN,"pump_id":"P1","time":"2026-01-01T00:00:00Z"}}'
    )
    lines = [orjson.dumps({"gateway_id": "gw-01", "reading": sent}) for sent in (*good, bad, buried)]
    receipt.write_bytes(b"\n".join([*lines, nan]))
    outcome = await site.reconciled(receipt)
    assert outcome.agrees, outcome.text()
    found = outcome.receipt
    assert found is not None
    assert (found.confirmed, found.stored, found.quarantined, found.dead_lettered) == (6, 3, 2, 1)
    assert (found.lost, found.duplicated, found.unexpected) == (0, 0, 0)
    lost = orjson.dumps({"gateway_id": "gw-01", "reading": good[0] | {"intake_pressure_psi": 1234.58}})
    receipt.write_bytes(b"\n".join([*lines[1:], lost]))
    outcome = await site.reconciled(receipt)
    assert not outcome.agrees
    assert outcome.receipt is not None
    assert outcome.receipt.lost == 1
    assert "is stored otherwise" in outcome.text()
    receipt.write_bytes(lines[3])
    await site.admin.execute("UPDATE ingest.quarantine SET state = 'replayed' WHERE pump_id = 'P1'")
    outcome = await site.reconciled(receipt)
    assert (outcome.receipt and outcome.receipt.lost) == 1, "sent in again, and arrived nowhere"
    await site.admin.execute("DELETE FROM ingest.telemetry")
    assert any("rows stored" in difference for difference in (await site.reconciled()).differences)
