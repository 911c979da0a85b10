"""A rolling restart under load: no request fails, and each reading is stored once."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from backup_site import localhost_certificate
from broker_field import is_ready
from esp_common.auth import PERMISSIONS
from esp_common.topology import INGEST_TELEMETRY, SERVICES
from esp_ingest.store.migrations import migrate
from esp_stack.programs import account, free_port
from esp_stack.servers import Nginx, Vhost
from waiting import until

COMMAND = Path(sys.executable).with_name("esp-ingest")
START_S = 240
BATCH = 5
READ_PAUSE_S = 0.1
"""nginx lets 1,000 requests a minute of one address through, posts of readings aside."""

ASSETS = """
INSERT INTO ingest.fields VALUES ('north', 'North');
INSERT INTO ingest.wells VALUES ('W1', 'north', 'W1');
INSERT INTO ingest.pumps (pump_id, well_id) VALUES ('P1', 'W1');
INSERT INTO ingest.gateways VALUES ('gw-01', 'north', 'One');
INSERT INTO ingest.gateway_pumps VALUES ('gw-01', 'P1')
"""


class Role:
    """One process of a role, replaced as Kubernetes does: told to stop, awaited, started anew, ready."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.port, self._metrics_port = free_port(), free_port()
        ports = {"HTTP_PORT": self.port, "METRICS_PORT": self._metrics_port, "SHUTDOWN_DELAY_S": 1}
        own = {f"ESP_INGEST_{setting}": str(value) for setting, value in ports.items()}
        self._environment = environment | own
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            COMMAND, self.name, env=self._environment, stdout=asyncio.subprocess.DEVNULL
        )
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._metrics_port}") as client:
            await until(lambda: is_ready(client), f"{self.name} is ready", START_S)

    async def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), START_S)

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


@dataclass
class Traffic:
    """Gateways that post batches of readings and users who read, until cancelled; counts what fails."""

    client: httpx.AsyncClient
    accepted: set[datetime] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    answers: int = 0
    _next: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    _is_over: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep several requests under way while inside; the last ones are awaited."""
        tasks = [asyncio.create_task(one()) for one in (*[self._post] * 3, self._read)]
        try:
            yield
        finally:
            self._is_over = True
            await asyncio.gather(*tasks)

    async def more(self, answers: int = 100) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.answers + answers
        await until(lambda: self.answers >= wanted or self.failures, "traffic", START_S)

    async def _post(self) -> None:
        while not self._is_over:
            times = [self._new_time() for _ in range(BATCH)]
            readings = [
                {"pump_id": "P1", "time": time.isoformat(), "frequency_hz": 50, "motor_current_a": 41}
                for time in times
            ]
            headers = {"Idempotency-Key": uuid4().hex}
            if await self._request("POST", "/api/v1/telemetry", json=readings, headers=headers):
                self.accepted.update(times)

    async def _read(self) -> None:
        while not self._is_over:
            await self._request("GET", "/api/v1/fields")
            await asyncio.sleep(READ_PAUSE_S)

    def _new_time(self) -> datetime:
        self._next -= timedelta(milliseconds=50)
        return self._next

    async def _request(self, method: str, path: str, **options: Any) -> bool:
        try:
            answer = await self.client.request(method, path, **options)
        except httpx.HTTPError as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return False
        self.answers += 1
        if not answer.is_success:
            self.failures.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer.is_success


@dataclass
class Platform:
    """Two APIs behind nginx and two workers."""

    apis: Sequence[Role]
    workers: Sequence[Role]
    traffic: Traffic
    admin: "asyncpg.Connection[Any]"
    vhost: Vhost

    async def is_drained(self) -> bool:
        """Return whether no reading waits in the queue or in a worker."""
        queue = await asyncio.to_thread(
            self.vhost.server.api, "GET", f"queues/{self.vhost.name}/{INGEST_TELEMETRY}"
        )
        stored = await self.admin.fetchval("SELECT count(*) FROM ingest.telemetry")
        return queue.json().get("messages") == 0 and stored >= len(self.traffic.accepted)


@pytest.fixture
async def platform(
    make_database: Any, vhost: Vhost, auth_service: Any, redis_url: str, server_home: Path
) -> AsyncIterator[Platform]:
    database = make_database("postgres")
    migrate(database.url("esp_ingest_owner"), "postgres")
    settings = {
        "DATABASE_URL": database.url("esp_ingest"),
        "AMQP_URL": vhost.url_for("ingest"),
        "REDIS_URL": redis_url,
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    environment = os.environ | {f"ESP_INGEST_{name}": value for name, value in settings.items()}
    apis, workers = ([Role(name, environment) for _ in range(2)] for name in ("api", "worker"))
    elsewhere = {service: free_port() for service in SERVICES}
    ports = elsewhere | {"ingest": [api.port for api in apis]}
    home = server_home / "rolling-restart"
    home.mkdir()
    tls = localhost_certificate(home, account("www-data"))
    nginx = Nginx(home / "nginx", apis=ports, tls=tls)
    key = auth_service.key(*PERMISSIONS)
    async with AsyncExitStack() as stack:
        for role in (*apis, *workers):
            stack.callback(role.kill)
        admin = await asyncpg.connect(database.admin_url)
        stack.push_async_callback(admin.close)
        await admin.execute(ASSETS)
        await asyncio.gather(*(role.start() for role in (*apis, *workers)))
        await asyncio.to_thread(nginx.start)
        stack.callback(nginx.kill)
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=nginx.url,
                verify=tls.client_context(),
                headers={"X-API-Key": key},
                timeout=60,
            )
        )
        yield Platform(apis, workers, Traffic(client), admin, vhost)


async def test_rolling_restart_under_load_fails_no_request_and_stores_each_reading_once(
    platform: Platform,
) -> None:
    traffic = platform.traffic
    async with traffic.running():
        await traffic.more()
        for role in (*platform.apis, *platform.workers):
            assert await role.stop() == 0
            await traffic.more()
            await role.start()
            await traffic.more()
    assert traffic.failures == []
    await until(platform.is_drained, "every reading is stored", START_S)
    rows = await platform.admin.fetch("SELECT time FROM ingest.telemetry")
    assert len(rows) == len(traffic.accepted)
    assert {row["time"] for row in rows} == traffic.accepted
    assert await platform.admin.fetchval("SELECT count(*) FROM ingest.quarantine") == 0
