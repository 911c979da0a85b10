"""Diagnostics with a sample fleet: ingest's schema and its own, readings to ask for, and the API if it runs.

`fleet` is on plain PostgreSQL, `fleet_on_engine` on each engine in turn: for what touches their SQL.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import asyncpg
import httpx
import numpy as np
import orjson
import pytest
from esp_common.auth import PERMISSIONS
from esp_common.contracts.channels import CHANNELS
from esp_common.redis import connect_redis
from esp_diagnostics.app import run_api
from esp_diagnostics.settings import DiagnosticsSettings
from esp_diagnostics.store.migrations import migrate as migrate_diagnostics
from esp_ingest.store.migrations import migrate as migrate_ingest
from esp_stack.programs import free_port
from esp_stack.servers import Vhost
from waiting import until

STEPS_PER_UNIT = {channel.name: round(1 / channel.resolution) for channel in CHANNELS}
AN550 = orjson.loads(files("esp_diagnostics.physics").joinpath("an550.json").read_bytes())
CURVE = {name: value for name, value in AN550.items() if name != "model"}
GRAINS = {"1min": timedelta(minutes=1), "1hour": timedelta(hours=1), "1day": timedelta(days=1)}

ASSETS = """
INSERT INTO ingest.fields VALUES ('north', 'North'), ('south', 'South');
INSERT INTO ingest.wells
SELECT format('W-%s', n), CASE WHEN n <= 4 THEN 'north' ELSE 'south' END, format('Well %s', n)
FROM generate_series(1, 6) AS n;
INSERT INTO ingest.pumps (pump_id, well_id, model, stages, curve, motor_rated_kw, motor_rated_current_a,
                          motor_rated_voltage_v, setting_depth_ft, expected_interval_s)
SELECT format('P-%s', n), format('W-%s', n), 'AN550', 250, '{curve}', 60, 30, 1500, 6000, 10
FROM generate_series(1, 5) AS n;
INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P-6', 'W-6')
"""
"""P-1 to P-4 in the north and P-5 in the south are alike; P-6 in the south is a pump nothing is known of."""


@dataclass(frozen=True)
class Fleet:
    """A database with two fields, six pumps and the readings that a test stores."""

    database: Any
    engine: str

    def url(self, role: str = "esp_diagnostics") -> str:
        """Return the URL for a role of `esp_platform.databases.ROLES`."""
        return str(self.database.url(role))

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database as its administrator."""
        connection = await asyncpg.connect(self.database.admin_url, server_settings={"timezone": "UTC"})
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def value(self, query: str, *arguments: Any) -> Any:
        """Ask the database for one value, as its administrator."""
        return (await self.rows(query, *arguments))[0][0]

    async def events(self, pattern: str) -> list[dict[str, Any]]:
        """Return the data of the events in the outbox whose type is LIKE `pattern`, oldest first."""
        query = "SELECT body FROM diagnostics.outbox WHERE routing_key LIKE $1 ORDER BY id"
        return [orjson.loads(row["body"]) for row in await self.rows(query, pattern)]

    async def store(
        self,
        pump_id: str,
        start: datetime,
        channels: Mapping[str, Any],
        *,
        step_s: float = 60,
        running: bool | None = True,
        fault_mask: int | None = None,
    ) -> None:
        """Store readings from `start` on, every `step_s`, and bring the aggregates up to date.

        `channels`: arrays of equal length, or one value for all, in engineering units; NaN: not measured.
        """
        n = max(np.size(values) for values in channels.values())
        scaled = {
            name: [
                None if np.isnan(value) else round(float(value) * STEPS_PER_UNIT[name])
                for value in np.broadcast_to(np.asarray(values, dtype=np.float64), n)
            ]
            for name, values in channels.items()
        }
        times = [start + timedelta(seconds=step_s * i) for i in range(n)]
        connection = await asyncpg.connect(self.database.admin_url, server_settings={"timezone": "UTC"})
        try:
            if self.engine == "postgres":
                days = sorted({time.astimezone(UTC).date() for time in times})
                await connection.execute("SELECT ingest.ensure_partitions($1)", days)
            pump_no = await connection.fetchval(
                "SELECT pump_no FROM ingest.pumps WHERE pump_id = $1", pump_id
            )
            await connection.copy_records_to_table(
                "telemetry",
                schema_name="ingest",
                columns=["pump_no", "time", "running", "fault_mask", *scaled],
                records=[
                    (pump_no, time, running, fault_mask, *values)
                    for time, *values in zip(times, *scaled.values(), strict=True)
                ],
            )
            await self._roll_up(connection, pump_no, times[0], times[-1])
        finally:
            await connection.close()

    async def _roll_up(self, connection: Any, pump_no: int, first: datetime, last: datetime) -> None:
        for grain, step in GRAINS.items():
            begin = datetime.fromtimestamp(
                first.timestamp() // step.total_seconds() * step.total_seconds(), UTC
            )
            if self.engine == "postgres":
                query = f"SELECT ingest.refresh_{grain}($1, $2, $3)"
                await connection.execute(query, [pump_no], begin, last + step)
            else:
                span = "$1::timestamptz, $2::timestamptz"
                query = f"CALL refresh_continuous_aggregate('ingest.telemetry_{grain}', {span})"
                await connection.execute(query, begin, last + 2 * step)


@dataclass
class DiagnosticsApi:
    """The API as it runs: `client` has a key with every permission, `bare` has none."""

    client: httpx.AsyncClient
    bare: httpx.AsyncClient
    settings: DiagnosticsSettings
    fleet: Fleet
    vhost: Vhost
    auth: Any

    def key(self, *scopes: str) -> dict[str, str]:
        """Give out a key and return the header that presents it."""
        return {"X-API-Key": self.auth.key(*scopes)}

    def token(self, *roles: str, **claims: Any) -> dict[str, str]:
        """Give out a token and return the header that presents it."""
        return {"Authorization": f"Bearer {self.auth.token(*roles, **claims)}"}

    def redis(self) -> Any:
        """Return a client of the service's Redis; close it."""
        return connect_redis(self.settings.redis_url)

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database as its administrator."""
        return await self.fleet.rows(query, *arguments)


async def _open_fleet(database: Any) -> Fleet:
    migrate_ingest(database.url("esp_ingest_owner"), database.engine)
    migrate_diagnostics(database.url("esp_diagnostics_owner"), database.engine)
    fleet = Fleet(database, database.engine)
    connection = await asyncpg.connect(database.admin_url)
    try:
        await connection.execute(ASSETS.replace("{curve}", orjson.dumps(CURVE).decode()))
    finally:
        await connection.close()
    return fleet


@pytest.fixture(scope="module")
async def fleet(make_database: Any) -> Fleet:
    """The sample fleet of the module, on plain PostgreSQL."""
    return await _open_fleet(make_database("postgres"))


@pytest.fixture(scope="module")
async def fleet_on_engine(database: Any) -> Fleet:
    """The sample fleet of the module, on each engine in turn."""
    return await _open_fleet(database)


@pytest.fixture(scope="module")
def diagnostics_settings(fleet: Fleet, vhost: Vhost, redis_url: str) -> DiagnosticsSettings:
    """Settings for a role of diagnostics on `fleet`.

    Give each API that runs its own `http_port`, each other role its own `metrics_port`.
    """
    return DiagnosticsSettings(
        database_url=fleet.url(),
        amqp_url=vhost.url_for("diagnostics"),
        redis_url=redis_url,
        http_port=free_port(),
        rate_limit_per_minute=0,
    )


@asynccontextmanager
async def _running(role: Any, settings: DiagnosticsSettings) -> AsyncIterator[httpx.AsyncClient]:
    """Run a role until it is ready, and while inside; give a client of its HTTP server."""
    stop = asyncio.Event()
    serving = asyncio.create_task(role(settings, stop))
    port = settings.http_port if role is run_api else settings.metrics_port
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        async def ready() -> bool:
            if serving.done():
                serving.result()
            try:
                return (await client.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        try:
            await until(ready, "the role is ready", 60)
            yield client
        finally:
            stop.set()
            await serving


@pytest.fixture(scope="session")
def running() -> Any:
    """`async with running(run_worker, settings) as client`: a role, ready."""
    return _running


@pytest.fixture(scope="module")
async def diagnostics_api(
    fleet: Fleet, diagnostics_settings: DiagnosticsSettings, vhost: Vhost, auth_service: Any
) -> AsyncIterator[DiagnosticsApi]:
    """The API of the module, on `fleet`."""
    async with _running(run_api, diagnostics_settings) as bare:
        headers = {"X-API-Key": auth_service.key(*PERMISSIONS)}
        async with httpx.AsyncClient(base_url=bare.base_url, headers=headers, timeout=30) as client:
            yield DiagnosticsApi(client, bare, diagnostics_settings, fleet, vhost, auth_service)
