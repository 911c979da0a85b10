"""History imported over several nights: whatever the archive took meanwhile, its trends are complete."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from broker_field import is_ready
from esp_common.auth import PERMISSIONS
from esp_common.database import Engine
from esp_diagnostics.app import run_api as run_diagnostics_api
from esp_diagnostics.settings import DiagnosticsSettings
from esp_diagnostics.store.migrations import migrate as migrate_diagnostics
from esp_ingest.app import run_api, run_worker
from esp_ingest.archived import ArchivedDay, settle
from esp_ingest.rollups import roll_up
from esp_ingest.settings import IngestSettings
from esp_ingest.store.migrations import migrate
from esp_ingest.store.retention import content
from esp_stack.programs import free_port
from waiting import until

DAYS, NIGHTS = 2, 3
STEP = timedelta(minutes=10)
READINGS_A_DAY = timedelta(days=1) // STEP
BEGIN = (datetime.now(UTC) - timedelta(days=60)).replace(hour=0, minute=0, second=0, microsecond=0)
START_S = 240
ASSETS = """
INSERT INTO ingest.fields VALUES ('north', 'North');
INSERT INTO ingest.wells VALUES ('W1', 'north', 'W1');
INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P1', 'W1');
"""


@dataclass
class Site:
    """Ingest's API and worker, diagnostics' API, and the database as the schema's owner."""

    engine: Engine
    owner: "asyncpg.Pool[Any]"
    ingest: httpx.AsyncClient
    diagnostics: httpx.AsyncClient

    async def send(self, night: int) -> None:
        """Post the readings of a night and wait until they are stored."""
        readings = [
            {
                "pump_id": "P1",
                "time": (BEGIN + number * STEP + night * timedelta(minutes=3)).isoformat(),
                "motor_current_a": 40 + night,
            }
            for number in range(DAYS * READINGS_A_DAY)
        ]
        answer = await self.ingest.post("/api/v1/telemetry", json=readings)
        assert (answer.status_code, answer.json()["rejected"]) == (202, [])
        query = "SELECT coalesce(sum(readings), 0)::int FROM ingest.ledger"
        wanted = (night + 1) * len(readings)

        async def stored() -> bool:
            return int(await self.owner.fetchval(query)) == wanted

        await until(stored, f"the readings of night {night}", START_S)

    async def maintain(self, night: int) -> None:
        """Roll up, then drop each day for an archive that has it, as maintenance and archiver do at night."""
        today = datetime.now(UTC).date()
        await roll_up(self.owner, self.engine, today)
        for number in range(DAYS):
            day = (BEGIN + timedelta(days=number)).date()
            async with self.owner.acquire() as connection:
                archived = ArchivedDay(f"night-{night}-{number}", day, await content(connection, day))
            assert await settle(self.owner, self.engine, archived, today=today, keep_days=30) is None

    async def trend(self, resolution: str) -> dict[str, Any]:
        """Return the trend of the whole history."""
        span = {"from": BEGIN.isoformat(), "to": (BEGIN + timedelta(days=DAYS)).isoformat()}
        query = span | {"resolution": resolution, "channels": "motor_current_a", "max_points": "5000"}
        answer = await self.diagnostics.get("/api/v1/pumps/P1/telemetry", params=query)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


Role = Callable[[Any, asyncio.Event], Coroutine[Any, Any, None]]


@pytest.fixture
async def site(database: Any, vhost: Any, auth_service: Any, redis_url: str) -> AsyncIterator[Site]:
    migrate(database.url("esp_ingest_owner"), database.engine)
    migrate_diagnostics(database.url("esp_diagnostics_owner"), database.engine)
    common = {"redis_url": redis_url, "rate_limit_per_minute": 0}
    ingest = IngestSettings(
        database_url=database.url("esp_ingest"),
        amqp_url=vhost.url_for("ingest"),
        http_port=free_port(),
        **common,
    )
    diagnostics = DiagnosticsSettings(
        database_url=database.url("esp_diagnostics"),
        amqp_url=vhost.url_for("diagnostics"),
        http_port=free_port(),
        **common,
    )
    stop = asyncio.Event()
    key = {"X-API-Key": auth_service.key(*PERMISSIONS)}
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(
            asyncpg.create_pool(
                database.url("esp_ingest_owner"), min_size=1, server_settings={"timezone": "UTC"}
            )
        )
        await owner.execute(ASSETS)
        roles: list[tuple[Role, Any]] = [
            (run_api, ingest),
            (run_worker, ingest),
            (run_diagnostics_api, diagnostics),
        ]
        running = [asyncio.create_task(role(settings, stop)) for role, settings in roles]
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}", headers=key, timeout=60)
            )
            for settings in (ingest, diagnostics)
        ]
        try:
            for client in clients:
                await until(lambda client=client: is_ready(client), "the API", START_S)
            yield Site(database.engine, owner, *clients)
        finally:
            stop.set()
            await asyncio.gather(*running)


async def test_history_posted_over_several_nights_ends_with_complete_trends(site: Site) -> None:
    for night in range(NIGHTS):
        await site.send(night)
        await site.maintain(night)
    left = await site.owner.fetchval("SELECT count(*) FROM ingest.telemetry")
    assert left == 0, "the archive has every day"
    average = 40 + (NIGHTS - 1) / 2
    for resolution, buckets in (("1day", DAYS), ("1hour", DAYS * 24)):
        trend = await site.trend(resolution)
        current = trend["channels"]["motor_current_a"]
        assert trend["readings"] == [NIGHTS * DAYS * READINGS_A_DAY // buckets] * buckets
        assert current["avg"] == pytest.approx([average] * buckets, abs=0.01)
        assert (set(current["min"]), set(current["max"])) == ({40.0}, {40.0 + NIGHTS - 1})
    minutes = await site.trend("1min")
    assert sum(minutes["readings"]) == NIGHTS * DAYS * READINGS_A_DAY
    assert len(minutes["time"]) == NIGHTS * DAYS * READINGS_A_DAY
