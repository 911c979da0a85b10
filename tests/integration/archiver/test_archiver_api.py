"""The archive as its users and its worker see it: HTTP, the schedule's work, and what ingest answers."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import asyncpg
import httpx
import numpy as np
import pyarrow as pa
import pytest
from esp_archiver.app import run_api, run_worker
from esp_common import topology
from esp_common.auth import PERMISSIONS
from esp_common.contracts.events import Event, decode_event
from esp_common.errors import BrokerUnavailable, Unavailable
from esp_common.messaging import Delivery, LeanConsumer, Publisher, Requester
from esp_diagnostics.settings import DiagnosticsSettings
from esp_diagnostics.trends.archive import ArchiveReader
from esp_diagnostics.trends.resolution import Plan, Resolution, Span
from esp_diagnostics.trends.store import History
from esp_diagnostics.trends.trends import TrendRequest, Trends
from esp_ingest.archived import ArchivedDay, settle
from esp_ingest.store.retention import content
from esp_stack.programs import free_port
from waiting import beside, until

TEN_MINUTES = timedelta(minutes=10)
OLD, OLDER = date(2025, 3, 2), date(2025, 3, 1)


@dataclass
class Running:
    """The archive with its API and its worker; `client` has a key with every permission."""

    archive: Any
    client: httpx.AsyncClient
    auth: Any
    vhost: Any

    def key(self, *scopes: str) -> dict[str, str]:
        return {"X-API-Key": self.auth.key(*scopes)}

    async def get(self, path: str, **options: Any) -> Any:
        answer = await self.client.get(f"/api/v1/{path}", **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def done(self, path: str, state: str = "done") -> Any:
        """Wait until what was asked for is done, and return it."""

        async def over() -> Any:
            found = await self.get(path)
            assert found["state"] != "failed", found["problem"]
            return found if found["state"] == state else None

        return await until(over, f"{path} is {state}", 60)


@pytest.fixture(scope="module")
async def running(archive: Any, vhost: Any, auth_service: Any, redis_url: str) -> AsyncIterator[Running]:
    """Both roles over two archived days, of which ingest is not told."""
    for day in (OLDER, OLD):
        await archive.add(day, every=TEN_MINUTES)
    settings = archive.settings.model_copy(
        update={
            "amqp_url": vhost.url_for("archiver"),
            "redis_url": redis_url,
            "http_port": free_port(),
            "rate_limit_per_minute": 100_000,
            "poll_s": 0.1,
            "verify_share": 1.0,
        }
    )
    stop = asyncio.Event()
    api = asyncio.create_task(run_api(settings, stop))
    worker_settings = settings.model_copy(update={"metrics_port": free_port()})
    worker = asyncio.create_task(run_worker(worker_settings, stop))
    base_url = f"http://127.0.0.1:{settings.http_port}"
    async with httpx.AsyncClient(base_url=base_url, timeout=30) as client:
        running = Running(replace(archive, settings=settings), client, auth_service, vhost)
        client.headers.update(running.key(*PERMISSIONS))
        try:
            for port in (settings.http_port, worker_settings.metrics_port):
                await until(lambda port=port: ready(client, port), "roles are ready", 60)
            answer = await client.post("/api/v1/archive/runs")
            assert answer.status_code == 202
            await running.done(f"archive/runs/{answer.json()['run_id']}")
            yield running
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(api, worker), 30)


async def ready(client: httpx.AsyncClient, port: int) -> bool:
    try:
        return (await client.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


def span(day: date, days: int = 1) -> dict[str, str]:
    start = datetime.combine(day, time(), UTC)
    return {"from": start.isoformat(), "to": (start + timedelta(days=days)).isoformat()}


async def test_the_archive_is_listed_by_pages_newest_first(running: Running) -> None:
    first = await running.get("archive", params={"limit": 3})
    second = await running.get("archive", params={"limit": 3, "cursor": first["next_cursor"]})
    items = [*first["items"], *second["items"]]
    assert [(item["day"], item["field_id"]) for item in items] == [
        (day.isoformat(), field_id) for day in (OLD, OLDER) for field_id in ("south", "north")
    ]
    assert second["next_cursor"] is None
    assert items[1]["rows"] == 288
    assert items[1]["pumps"] == 2
    assert items[0]["checked_at"], "the run read it again"
    only = await running.get(
        "archive", params={"field_id": "south", "from": "2025-03-02", "dataset": "telemetry"}
    )
    assert len(only["items"]) == 1


async def test_readings_come_straight_from_the_archive_as_arrow(running: Running) -> None:
    asked = {"pump_id": "P-2", **span(OLDER, 2), "channels": "motor_temp_c,running"}
    answer = await running.client.get("/api/v1/archive/telemetry", params=asked)
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.column_names == ["pump_id", "time", "motor_temp_c", "running"]
    assert table.num_rows == 288
    expected = await running.archive.admin.fetch(
        "SELECT motor_temp_c FROM telemetry_v1.readings WHERE pump_id = 'P-2' AND time >= $1::date"
        " ORDER BY time",
        OLDER,
    )
    assert table.column("motor_temp_c").to_pylist() == [row[0] for row in expected]


async def test_readings_come_as_csv_to_who_wants_it(running: Running) -> None:
    asked = {"pump_id": "P-2", **span(OLD)}
    headers = {"Accept": "text/csv"}
    answer = await running.client.get("/api/v1/archive/telemetry", params=asked, headers=headers)
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert len(rows) == 144
    assert rows[0]["pump_id"] == "P-2"
    assert datetime.fromisoformat(rows[0]["time"]) == datetime.combine(OLD, time(), UTC)
    assert rows[0]["water_cut_pct"] == ""


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"pump_id": "nobody"}, 404, "nothing of pump nobody"),
        ({"channels": "motor_temp_f"}, 422, "unknown channels: motor_temp_f"),
        ({"to": "2025-02-01T00:00:00Z"}, 422, "not after"),
        ({"from": "2020-02-01T00:00:00Z"}, 422, "at most 400 days"),
        ({"from": "2025-03-01T00:00:00"}, 422, "has no offset"),
        ({"channel": "motor_temp_c"}, 422, "unknown query parameters"),
        ({"accept": "application/json"}, 406, "Arrow or CSV"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
async def test_what_cannot_be_answered_is_refused_with_the_reason(
    running: Running, change: dict[str, str], status: int, says: str
) -> None:
    asked = {"pump_id": "P-1", **span(OLD), **change}
    headers = {"Accept": asked.pop("accept", "*/*")}
    answer = await running.client.get("/api/v1/archive/telemetry", params=asked, headers=headers)
    assert answer.status_code == status
    assert says in answer.json()["detail"]


async def test_readings_are_brought_back_into_a_table_that_goes_again(running: Running) -> None:
    body = {"pump_ids": ["P-1", "P-3"], **span(OLDER, 2), "days": 1}
    asked = await running.client.post("/api/v1/archive/restore", json=body)
    assert asked.status_code == 202
    path = asked.headers["location"].removeprefix("/api/v1/")
    done = await running.done(path)
    assert done["rows"] == 2 * 2 * 144
    connection = await asyncpg.connect(running.archive.database.url("esp_diagnostics"))
    try:
        query = (
            "SELECT * FROM archive_v1.restored WHERE restore_id = $1::uuid AND pump_id = 'P-3' ORDER BY time"
        )
        restored = [dict(row) for row in await connection.fetch(query, done["restore_id"])]
        there = "SELECT * FROM telemetry_v1.readings WHERE pump_id = 'P-3' AND time >= $1::date ORDER BY time"
        raw = [dict(row) for row in await connection.fetch(there, OLDER)]
        assert len(restored) == 288
        assert [{name: row[name] for name in row if name in raw[0]} for row in restored] == [
            {name: row[name] for name in row if name in restored[0]} for row in raw
        ]
        assert (await running.client.delete(f"/api/v1/{path}")).status_code == 200
        await running.done(path, "expired")
        assert await connection.fetch(query, done["restore_id"]) == []
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "body",
    [
        {"pump_ids": []},
        {"pump_ids": ["P-1"] * 101},
        {"days": 31},
        {"more": 1},
        {"to": "2025-03-01T00:00:00Z"},
    ],
    ids=["nobody", "too-many", "too-long", "unknown", "empty-span"],
)
async def test_a_restore_that_cannot_be_is_refused(running: Running, body: dict[str, Any]) -> None:
    asked = {"pump_ids": ["P-1"], **span(OLDER, 2), **body}
    assert (await running.client.post("/api/v1/archive/restore", json=asked)).status_code == 422


async def test_restore_of_a_pump_the_archive_does_not_have_is_not_found(running: Running) -> None:
    asked = {"pump_ids": ["P-1", "P-1x", "P-2x"], **span(OLDER, 2)}
    answer = await running.client.post("/api/v1/archive/restore", json=asked)
    assert answer.status_code == 404
    assert "nothing of P-1x, P-2x in that time" in answer.json()["detail"]


async def test_who_may_read_may_not_have_anything_done(running: Running) -> None:
    reader = running.key("archive:read")
    assert (await running.client.get("/api/v1/archive", headers=reader)).status_code == 200
    for path in ("runs", "restore"):
        asked = {"pump_ids": ["P-1"], **span(OLDER)} if path == "restore" else None
        answer = await running.client.post(f"/api/v1/archive/{path}", json=asked, headers=reader)
        assert answer.status_code == 403
    stranger = running.key("telemetry:write")
    assert (await running.client.get("/api/v1/archive", headers=stranger)).status_code == 403


async def test_a_day_is_told_of_and_what_ingest_did_is_noted(running: Running) -> None:
    heard: list[Event] = []

    def take(delivery: Delivery) -> None:
        heard.append(decode_event(delivery.headers, delivery.body))
        consumer.done([delivery])

    consumer = LeanConsumer(
        running.vhost.url_for("ingest"), topology.INGEST_ARCHIVED, prefetch=10, on_message=take
    )
    async with beside(consumer.run()):
        await until(lambda: len(heard) >= 2, "both days are told of")
    told = {event.data["day"]: event.data for event in heard}
    assert {day: data["readings"] for day, data in told.items()} == {"2025-03-01": 432, "2025-03-02": 432}
    async with Publisher(running.vhost.url_for("ingest")) as ingest:
        for type_, day, reason in (("dropped", "2025-03-01", None), ("refused", "2025-03-02", "changed")):
            data = {"day": day, "archive_id": told[day]["archive_id"], "reason": reason}
            event = Event(f"retention.{type_}", "ingest", day, data)
            await ingest.publish(topology.EVENTS, event.type, event.body(), headers=event.headers())
    query = "SELECT day FROM archiver.days WHERE {} AND day = ANY ('{{2025-03-01,2025-03-02}}')"
    pool = running.archive.admin
    await until(lambda: pool.fetch(query.format("dropped_at IS NOT NULL")), "the drop is noted")
    assert [row["day"] for row in await pool.fetch(query.format("dropped_at IS NOT NULL"))] == [OLDER]
    await until(lambda: pool.fetch(query.format("refused = 'changed'")), "the refusal is noted")


@pytest.fixture
async def trends(running: Running) -> AsyncIterator[Trends]:
    """Trends as the diagnostics API makes them, with its rights."""
    url = running.archive.database.url("esp_diagnostics")
    async with (
        asyncpg.create_pool(url, min_size=1, server_settings={"timezone": "UTC"}) as pool,
        Requester(running.vhost.url_for("diagnostics"), timeout_s=10) as requester,
    ):
        yield Trends(History(pool), ArchiveReader(requester), None, None, DiagnosticsSettings())


async def test_a_trend_of_readings_joins_archive_and_database(running: Running, trends: Trends) -> None:
    both = Span(datetime.combine(OLDER, time(), UTC), datetime.combine(OLD + timedelta(days=1), time(), UTC))
    wanted = Plan(Resolution.RAW, both)
    asked = TrendRequest("P-2", both.start, both.end, ("motor_temp_c", "vibration_x_g"), Resolution.RAW, 1000)
    before = await trends.trend(asked, wanted)
    async with running.archive.admin.acquire() as connection:
        gone = ArchivedDay("by-test", OLDER, await content(connection, OLDER))
    assert (
        await settle(
            running.archive.admin,
            running.archive.database.engine,
            gone,
            today=running.archive.today,
            keep_days=30,
        )
        is None
    )
    left = "SELECT count(*) FROM telemetry_v1.readings WHERE pump_id = 'P-2' AND time < $1::date"
    assert await running.archive.admin.fetchval(left, OLD) == 0
    after = await trends.trend(asked, wanted)
    assert len(after) == len(before) == 288
    assert list(after.times) == list(before.times)
    for name, values in before.channels.items():
        np.testing.assert_array_equal(after.channels[name]["value"], values["value"])


async def test_a_trend_says_so_when_the_archive_cannot_be_asked(running: Running, trends: Trends) -> None:
    span = Span(datetime.combine(OLDER, time(), UTC), datetime.combine(OLD, time(), UTC))
    store = running.archive.store
    for part in await running.archive.parts(OLDER):
        await store.upload(part.name, io.BytesIO(b"not what it was"), 15, {}, over=True)
    asked = TrendRequest("P-2", span.start, span.end, ("motor_temp_c",), Resolution.RAW, 1000)
    with pytest.raises(Unavailable, match="cannot be read"):
        await trends.trend(asked, Plan(Resolution.RAW, span))


async def test_nobody_but_diagnostics_is_answered(running: Running) -> None:
    question = {"pump_id": "P-2", **span(OLD), "channels": [], "limit": 1}
    async with Requester(running.vhost.url_for("backup")) as stranger:
        with pytest.raises(BrokerUnavailable, match="no answer"):
            await stranger.request(
                topology.COMMANDS, topology.ARCHIVER_READ, json.dumps(question).encode(), timeout_s=0.5
            )
