"""The audit trail over a real broker: every request is noted, waits for nobody, and arrives once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from esp_common.audit import MEMORY_BATCHES, RECORDED, AuditTrail
from esp_common.messaging import Publisher
from esp_stack.servers import RabbitMQ, Vhost
from prometheus_client import REGISTRY
from waiting import beside


def note(trail: AuditTrail, object_: str, **other: Any) -> None:
    trail.note(
        "GET /pumps/{id}", object_, **{"actor_id": "u-1", "actor_kind": "user", "status": 200, **other}
    )


def lost() -> float:
    return REGISTRY.get_sample_value("esp_audit_lost_total") or 0.0


@pytest.fixture
async def publisher(vhost: Vhost) -> AsyncIterator[Publisher]:
    """The ingest service's publisher."""
    async with Publisher(vhost.url_for("ingest")) as publisher:
        yield publisher


async def test_a_note_arrives_as_the_record_the_contract_has(auditor: Any, publisher: Publisher) -> None:
    trail = AuditTrail(publisher, "ingest")
    async with beside(trail.run()):
        note(trail, "/api/v1/pumps/P-1", source_address="10.0.0.1", trace_id="t-1", status=403)
        await auditor.until(1)
    (record,) = auditor.records.values()
    assert {name: value for name, value in record.items() if name not in ("id", "time")} == {
        "service": "ingest",
        "actor_id": "u-1",
        "actor_kind": "user",
        "action": "GET /pumps/{id}",
        "object": "/api/v1/pumps/P-1",
        "outcome": "denied",
        "status": 403,
        "source_address": "10.0.0.1",
        "trace_id": "t-1",
        "count": 1,
        "detail": {},
    }
    assert auditor.deliveries[0].routing_key == "ingest.requests"
    assert auditor.deliveries[0].headers["cloudEvents_type"] == RECORDED


async def test_five_thousand_notes_arrive_in_batches(auditor: Any, publisher: Publisher) -> None:
    trail = AuditTrail(publisher, "ingest")
    async with beside(trail.run()):
        slowest = 0.0
        for number in range(5000):
            started = time.perf_counter()
            note(trail, str(number))
            slowest = max(slowest, time.perf_counter() - started)
        await auditor.until(5000)
    assert auditor.objects() == list(map(str, range(5000)))
    assert len(auditor.deliveries) <= 30
    assert slowest < 0.1, "a note waits for nobody"


async def test_identical_posts_of_a_second_share_a_record(auditor: Any, publisher: Publisher) -> None:
    trail = AuditTrail(publisher, "ingest")
    async with beside(trail.run()):
        for number in range(300):
            trail.tally(
                "POST /telemetry", "/t", actor_id=f"k-{number % 2}", actor_kind="key", status=202 + number % 3
            )
        await auditor.until(300)
    assert Counter(record["actor_id"] for record in auditor.records.values()) == {"k-0": 3, "k-1": 3}
    assert {record["count"] for record in auditor.records.values()} == {50}


@pytest.fixture(scope="module")
def broker(server_home: Path) -> Iterator[RabbitMQ]:
    """A broker that a test may stop."""
    server = RabbitMQ(server_home / f"rabbitmq-{uuid4().hex[:8]}")
    server.start()
    yield server
    server.kill()


async def test_with_the_broker_away_records_are_spooled_and_arrive_once_and_in_order(
    broker: RabbitMQ, auditor_at: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "audit"
    auditor = auditor_at(broker.url_for("auth"))
    async with Publisher(broker.url_for("ingest")) as publisher:
        trail = AuditTrail(publisher, "ingest", folder)
        async with beside(trail.run(), auditor.run()):
            note(trail, "before")
            await auditor.until(1)
            await asyncio.to_thread(broker.stop)
            for number in range(1000):
                note(trail, str(number))
                if number % 100 == 0:
                    await asyncio.sleep(0.15)
            async with asyncio.timeout(20):
                while not list(folder.glob("*.json")):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            spooled = sorted(folder.glob("*.json"))
            assert {oct(path.stat().st_mode & 0o777) for path in spooled} == {"0o600"}
            assert oct(folder.stat().st_mode & 0o777) == "0o700"
            await asyncio.to_thread(broker.start)
            note(trail, "after")
            await auditor.until(1002)
            async with asyncio.timeout(20):
                while trail.buffered:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        await trail.close()
    assert auditor.objects() == ["before", *map(str, range(1000)), "after"]
    assert list(folder.iterdir()) == []


async def test_what_a_process_leaves_the_next_one_sends(auditor: Any, vhost: Vhost, tmp_path: Path) -> None:
    away = Publisher("amqp://127.0.0.1:1/")
    trail = AuditTrail(away, "ingest", tmp_path)
    for number in range(450):
        note(trail, str(number))
    trail.tally("POST /telemetry", "/t", actor_id="k", actor_kind="key", status=202)
    await trail.close()
    assert sum(int(path.name.split(".")[1]) for path in tmp_path.glob("*.json")) == 451  # noqa: ASYNC240
    (tmp_path / ".torn.5.json.part").write_bytes(b'{"rec')
    async with (
        Publisher(vhost.url_for("ingest")) as publisher,
        beside((heir := AuditTrail(publisher, "ingest", tmp_path)).run()),
    ):
        await auditor.until(451)
        async with asyncio.timeout(20):
            while heir.buffered:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert len(auditor.records) == 451


async def test_a_full_folder_loses_with_a_count_and_never_grows(tmp_path: Path) -> None:
    before = lost()
    trail = AuditTrail(Publisher("amqp://127.0.0.1:1/"), "ingest", tmp_path, spool_mib=0.2)
    for number in range(2000):
        note(trail, str(number))
    await trail.close()
    kept = sum(int(path.name.split(".")[1]) for path in tmp_path.glob("*.json"))  # noqa: ASYNC240
    assert 0 < kept < 2000
    assert lost() - before == 2000 - kept
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 0.2 * 2**20  # noqa: ASYNC240


async def test_without_a_folder_memory_is_bounded() -> None:
    before = lost()
    trail = AuditTrail(Publisher("amqp://127.0.0.1:1/"), "ingest")
    async with beside(trail.run()):
        for number in range((MEMORY_BATCHES + 20) * 200):
            note(trail, str(number))
        async with asyncio.timeout(20):
            while lost() == before:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert trail.buffered <= MEMORY_BATCHES * 200


async def test_a_folder_that_cannot_be_written_costs_records_but_no_request(tmp_path: Path) -> None:
    before = lost()
    trail = AuditTrail(Publisher("amqp://127.0.0.1:1/"), "ingest", tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    note(trail, "x")
    await trail.close()
    assert lost() == before + 1


async def test_a_broker_that_hangs_does_not_keep_notes_in_memory(
    broker: RabbitMQ, auditor_at: Any, tmp_path: Path
) -> None:
    auditor = auditor_at(broker.url_for("auth"))
    async with Publisher(broker.url_for("ingest")) as publisher:
        trail = AuditTrail(publisher, "ingest", tmp_path)
        async with beside(trail.run(), auditor.run()):
            await publisher.until_ready(20)
            await asyncio.to_thread(broker.pause)
            with suppress(TimeoutError):
                for number in range((MEMORY_BATCHES + 10) * 200):
                    note(trail, str(number))
                async with asyncio.timeout(20):
                    while not list(tmp_path.glob("*.json")):  # noqa: ASYNC110, ASYNC240
                        await asyncio.sleep(0.02)
            await asyncio.to_thread(broker.resume)
            await auditor.until((MEMORY_BATCHES + 10) * 200)
    assert len(auditor.records) == (MEMORY_BATCHES + 10) * 200
