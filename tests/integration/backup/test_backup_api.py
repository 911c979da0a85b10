"""The backup API as it runs: who may ask for what, and what they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from esp_backup.app import run_api
from esp_backup.domain.modes import Mode
from esp_backup.domain.spans import Hole
from esp_backup.settings import BackupSettings
from esp_backup.store import catalogue, jobs
from esp_backup.store.catalogue import Entry
from esp_backup.store.migrations import migrate
from esp_common.database import Pool, create_pool
from esp_stack.programs import free_port
from waiting import until


@dataclass
class Api:
    """The running API, its catalogue, and who gives out credentials."""

    client: httpx.AsyncClient
    pool: Pool
    auth: Any
    began: datetime

    async def get(self, path: str = "", *scopes: str, **query: Any) -> httpx.Response:
        return await self.client.get(f"/api/v1/backups{path}", params=query, headers=self._key(scopes))

    async def post(self, path: str = "", body: Any = None, *scopes: str) -> httpx.Response:
        headers = self._key(scopes or ("backups:write",))
        return await self.client.post(f"/api/v1/backups{path}", json=body, headers=headers)

    def _key(self, scopes: tuple[str, ...]) -> dict[str, str]:
        return {"X-API-Key": self.auth.key(*(scopes or ("backups:read",)))}


@pytest.fixture(scope="module")
async def api(make_database, vhost, auth_service, redis_url) -> AsyncIterator[Api]:
    """The API over a catalogue with two backups."""
    async with open_api(make_database, vhost, auth_service, redis_url) as api:
        yield api


@pytest.fixture(scope="module")
async def managed_api(make_database, vhost, auth_service, redis_url) -> AsyncIterator[Api]:
    """The API beside a managed database."""
    async with open_api(make_database, vhost, auth_service, redis_url, mode=Mode.MANAGED) as api:
        yield api


@asynccontextmanager
async def open_api(make_database, vhost, auth_service, redis_url, **others: Any) -> AsyncIterator[Api]:
    """Serve the API while inside. `others`: settings."""
    database = make_database("postgres")
    migrate(database.url("esp_backup_owner"))
    settings = BackupSettings(
        database_url=database.url("esp_backup"),
        amqp_url=vhost.url_for("backup"),
        redis_url=redis_url,
        http_port=free_port(),
        **others,
    )
    stop = asyncio.Event()
    base_url = f"http://127.0.0.1:{settings.http_port}"
    async with (
        httpx.AsyncClient(base_url=base_url, timeout=30) as client,
        await create_pool(settings, role="test") as pool,
    ):
        began = datetime.now(UTC).replace(microsecond=0)
        await _fill(pool, began)
        serving = asyncio.create_task(run_api(settings, stop))

        async def ready() -> bool:
            try:
                return (await client.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready, "the API is ready", timeout_s=90)
        yield Api(client, pool, auth_service, began)
        stop.set()
        await serving


async def _fill(pool: Pool, now: datetime) -> None:
    def entry(kind: str, place: str, name: str, hours: int) -> Entry:
        began = now - timedelta(hours=hours)
        return Entry(kind, place, name, began, began + timedelta(minutes=5), 1000, 100)

    async with pool.acquire() as connection:
        fulls = [entry("full", "azure", f"f{hours}", hours) for hours in (1, 25)]
        await catalogue.note_found(connection, "full", ["azure"], fulls)
        await catalogue.note_found(connection, "dump", ["snapshots"], [entry("dump", "snapshots", "d", 2)])
        hole = Hole(now - timedelta(hours=20), now - timedelta(hours=1), "0" * 23 + "7", 3)
        await catalogue.note_holes(connection, [hole])
        await catalogue.note_archiving(connection, now - timedelta(seconds=20), "0" * 24, 1, behind=False)


async def test_backups_are_listed_newest_first_in_pages(api):
    first = (await api.get(limit=2)).json()
    assert [each["name"] for each in first["items"]] == ["f1", "d"]
    second = (await api.get(limit=2, cursor=first["next_cursor"])).json()
    assert [each["name"] for each in second["items"]] == ["f25"]
    assert second["next_cursor"] is None
    assert [each["name"] for each in (await api.get(kind="dump")).json()["items"]] == ["d"]


async def test_the_recovery_window_runs_from_the_oldest_full_backup_to_what_is_archived(api):
    window = (await api.get("/recovery-window")).json()
    assert datetime.fromisoformat(window["begin"]) == api.began - timedelta(hours=25) + timedelta(minutes=5)
    assert datetime.fromisoformat(window["end"]) == api.began - timedelta(seconds=20)
    assert 20 <= window["rpo_seconds"] < 120
    assert window["waiting_segments"] == 1
    (hole,) = window["holes"]
    assert datetime.fromisoformat(hole["begin"]) == api.began - timedelta(hours=20)
    assert (hole["first_segment"], hole["segments"]) == ("0" * 23 + "7", 3)


async def test_in_managed_mode_physical_backups_are_refused_and_the_provider_is_named(managed_api):
    refused = await managed_api.post(body={"kind": "full"})
    assert refused.status_code == 422
    assert "provider" in refused.json()["detail"]
    assert "ESP_BACKUP_MODE" in refused.json()["fix"]
    assert (await managed_api.post(body={"kind": "dump"})).status_code == 202
    window = (await managed_api.get("/recovery-window")).json()
    assert window["mode"] == "managed"
    assert window["physical_by"] == "the provider or operator of the managed database"
    assert "5 min" in window["rpo"]


async def test_a_backup_that_is_asked_for_waits_for_the_worker_and_is_not_asked_for_twice(api):
    answer = await api.post(body={"kind": "set"})
    assert answer.status_code == 202
    job = (await api.get(f"/jobs/{answer.json()['job_id']}")).json()
    assert (job["kind"], job["state"]) == ("set", "requested")
    assert job["requested_by"].startswith("key-")
    again = await api.post(body={"kind": "set"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    actions = await api.pool.fetch(
        "SELECT routing_key FROM backup.outbox WHERE exchange = 'esp.audit' ORDER BY id"
    )
    assert [row["routing_key"] for row in actions] == ["backup.set.requested"]


async def test_a_drill_is_asked_for_and_found_among_the_jobs(api):
    job_id = (await api.post("/drill")).json()["job_id"]
    (found,) = (await api.get("/jobs", kind="drill", state="requested")).json()["items"]
    assert found["job_id"] == job_id


async def test_what_a_killed_process_left_running_is_given_up_and_can_be_asked_for_again(api):
    async with api.pool.acquire() as connection:
        job_id = await jobs.request(connection, "dump", "key-x")
        await jobs.take(connection, "dump")
        assert await jobs.abandon(connection, "dump") == [job_id]
    job = (await api.get(f"/jobs/{job_id}")).json()
    assert (job["state"], job["error"]) == ("failed", jobs.ABANDONED)
    assert (await api.post(body={"kind": "dump"})).status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [("POST", "", "backups:read"), ("POST", "/drill", "backups:read"), ("GET", "/jobs", "telemetry:read")],
    ids=["take", "drill", "jobs"],
)
async def test_whoever_may_not_is_refused(api, method, path, scope):
    answer = await (api.post(path, {}, scope) if method == "POST" else api.get(path, scope))
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("path", "query"),
    [("", {"kind": "tape"}), ("", {"cursor": "x"}), ("/jobs", {"since": "now"}), ("/jobs/7", {})],
    ids=["kind", "cursor", "unknown parameter", "no id"],
)
async def test_what_cannot_be_is_refused(api, path, query):
    assert (await api.get(path, **query)).status_code == 422


async def test_a_job_nobody_has_is_not_found(api):
    assert (await api.get("/jobs/00000000-0000-0000-0000-000000000000")).status_code == 404
