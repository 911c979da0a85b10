"""The test bed: the platform's real servers, a migrated database, and the services' roles as processes."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes, token_hex
from shutil import rmtree
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

import aio_pika
import httpx
import numpy as np
import psycopg
import yaml
from esp_auth.store.migrations import migrate as migrate_auth
from esp_common import topology
from esp_common.auth import new_api_key
from esp_common.contracts.readings import Readings
from esp_gateway.simulator.field import build_field
from esp_ingest.store.migrations import migrate as migrate_ingest
from esp_platform.databases import OWNER
from esp_stack.programs import Program, free_port, private_file, wait_for
from esp_stack.servers import Postgres, RabbitMQ, Redis
from redis import Redis as RedisClient

BINARIES = Path(sys.executable).parent
SEED = 7
BOOTSTRAP_KEY = new_api_key("bench")
_EMPTIED = ("telemetry", "ledger", "quarantine", "quality_tally", "quality_hours", "dirty_buckets")


class Role:
    """One process of a service, `esp-<service> <arguments>`, on ports of its own."""

    def __init__(self, bed: "Bed", service: str, role: str, environment: Mapping[str, str]) -> None:
        self.name = f"esp-{service} {role}"
        self.port, metrics_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}"
        self.log = bed.home / f"{service}-{role}.log"
        prefix = f"ESP_{service.upper()}_"
        settings = {f"{prefix}{name}": value for name, value in environment.items()}
        settings |= {f"{prefix}HTTP_PORT": str(self.port), f"{prefix}METRICS_PORT": str(metrics_port)}
        argv = (str(BINARIES / f"esp-{service}"), role)
        self._program = Program(self.name, argv, bed.home, None, settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running role."""
        assert self._process
        return self._process.pid

    def start(self, *, ready: bool = True) -> None:
        """Start the process; return at once, or when it says that it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._program.command(), env=self._program.full_environment(), stdout=log, stderr=log
            )
        if ready:
            wait_for(self._check, self.name, 60)

    def _check(self) -> None:
        assert self._process
        if self._process.poll() is not None:
            raise SystemExit(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")
        httpx.get(f"{self.metrics_url}/health/ready", timeout=2).raise_for_status()

    def is_ready(self) -> bool:
        """Return whether the role says that it is ready."""
        try:
            return httpx.get(f"{self.metrics_url}/health/ready", timeout=2).is_success
        except httpx.TransportError:
            return False

    def run(self, *arguments: str) -> None:
        """Run another command of the service, with the role's settings, to its end."""
        command = (self._program.argv[0], *arguments)
        environment = self._program.full_environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {done.stderr or done.stdout}")

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        assert self._process
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Wait for the process to end; return its exit status."""
        assert self._process
        return self._process.wait(timeout_s)

    def stop(self) -> None:
        """Ask the process to end, and see that it does."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def tail(self) -> str:
        """Return the end of the process's output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    @contextmanager
    def running(self, *, ready: bool = True) -> Iterator[Self]:
        """Run the role for the length of a `with` block."""
        self.start(ready=ready)
        try:
            yield self
        finally:
            self.stop()


@dataclass
class Deployment:
    """A migrated database of one engine with the simulated field's assets, and the roles that use it."""

    bed: "Bed"
    engine: str
    database: str = field(default_factory=lambda: f"bench_{token_hex(4)}")

    def url(self, role: str) -> str:
        """Return the database's URL for a role."""
        return self.bed.postgres.url(role, self.database)

    def ingest(self, role: str, **settings: object) -> Role:
        """Return a role of the ingest service; `settings` by their names."""
        environment = self.environment("esp_ingest")
        return Role(self.bed, "ingest", role, environment | {k.upper(): str(v) for k, v in settings.items()})

    def environment(self, database_role: str) -> dict[str, str]:
        """Return the settings that point ingest at this deployment, without their prefix."""
        return {
            "AMQP_URL": self.bed.rabbitmq.url_for("ingest"),
            "DATABASE_URL": self.url(database_role),
            "REDIS_URL": self.bed.redis.url,
            "ENGINE": self.engine,
            "LOG_LEVEL": "WARNING",
        }

    def run(self, database_role: str, *arguments: str, check: bool = True) -> str:
        """Run `esp-ingest <arguments>` to its end and return what it prints."""
        variables = {f"ESP_INGEST_{k}": v for k, v in self.environment(database_role).items()}
        done = subprocess.run(
            [BINARIES / "esp-ingest", *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise SystemExit(f"esp-ingest {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def set_up(self, assets: Mapping[str, Any]) -> None:
        """Create the database, migrate it and import `assets`."""
        self.bed.postgres.ensure_database(self.database, timescale=self.engine == "timescale")
        migrate_ingest(self.url(OWNER), self.engine)
        file = self.bed.home / "assets.yaml"
        file.write_text(yaml.safe_dump(dict(assets)))
        self.run("esp_ingest", "assets", "import", str(file))

    def admin(self, statement: str, *parameters: object) -> list[Any]:
        """Run a statement as the superuser; return its rows."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def pump_numbers(self) -> dict[str, int]:
        """Return the stored number of every pump."""
        return dict(self.admin("SELECT pump_id, pump_no FROM ingest.pumps"))

    def stop_jobs(self) -> None:
        """Keep TimescaleDB's policies from running by themselves."""
        if self.engine == "timescale":
            self.admin("SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs")

    def ensure_partitions(self, readings: Readings) -> None:
        """Make the days of `readings` ready where the engine needs that, as the maintenance role does."""
        if self.engine == "postgres":
            days = np.unique(readings.time_us.astype("M8[us]").astype("M8[D]")).tolist()
            self.admin("SELECT ingest.ensure_partitions(%s::date[])", days)

    def forget(self) -> None:
        """Return to an empty store, Redis and queue, so that every round finds the same."""
        self.admin(f"TRUNCATE {', '.join(f'ingest.{table}' for table in _EMPTIED)}")
        self.bed.forget()

    def stored(self) -> int:
        """Return the number of readings in the store."""
        return int(self.admin("SELECT count(*) FROM ingest.telemetry")[0][0])

    def taken(self) -> int:
        """Return the number of readings that the worker says it has committed."""
        return int(self.admin("SELECT coalesce(sum(readings), 0) FROM ingest.ledger")[0][0])

    def rate(self) -> float:
        """Return readings a second, from the start of the worker's first flush to that of its last."""
        statement = """
            SELECT (sum(readings) - (array_agg(readings ORDER BY id DESC))[1])
                   / extract(epoch FROM max(committed_at) - min(committed_at))
            FROM ingest.ledger WHERE readings > 0
        """
        return float(self.admin(statement)[0][0])


class Bed:
    """PostgreSQL, RabbitMQ and Redis for one run of benchmarks, gone with it.

    They are configured as in the stack: PostgreSQL with fsync, queues quorum and on disk. `most_engines`:
    how many of this machine's storage engines are measured.
    """

    def __init__(self, most_engines: int = 2) -> None:
        self._most_engines = most_engines

    def __enter__(self) -> Self:
        self._exit = ExitStack()
        self.home = Path(tempfile.mkdtemp(prefix=f"esp-bench-{os.getpid()}-"))
        self._exit.callback(rmtree, self.home, ignore_errors=True)
        self.home.chmod(0o755)
        self.postgres = Postgres(self.home / "postgres")
        self.rabbitmq = RabbitMQ(self.home / "rabbitmq")
        self.redis = Redis(self.home / "redis")
        for server in (self.postgres, self.rabbitmq, self.redis):
            self._exit.callback(server.kill)
            server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def engines(self) -> list[str]:
        """The storage engines this machine has, as many of them as are wanted."""
        has = ["timescale", "postgres"] if self.postgres.has_timescale else ["postgres"]
        return has[: self._most_engines]

    def deploy(self, engine: str, pumps: int = 50) -> Deployment:
        """Return a deployment with the assets of the simulated field."""
        deployment = Deployment(self, engine)
        deployment.set_up(build_field(SEED, pumps).assets())
        return deployment

    def auth(self, deployment: Deployment) -> Role:
        """Return the auth worker, which knows the bootstrap key."""
        migrate_auth(deployment.url("esp_auth_owner"), deployment.engine)
        role = Role(
            self,
            "auth",
            "worker",
            {
                "AMQP_URL": self.rabbitmq.url_for("auth"),
                "DATABASE_URL": deployment.url("esp_auth"),
                "REDIS_URL": self.redis.url,
                "MASTER_KEY": b64encode(token_bytes(32)).decode(),
            },
        )
        first = private_file(self.home / "first.json", json.dumps({"api_key": BOOTSTRAP_KEY}), None)
        role.run("bootstrap", "--file", str(first))
        return role

    def waiting(self) -> int:
        """Return the number of messages in the telemetry queue that no consumer has."""
        return asyncio.run(self._waiting())

    async def _waiting(self) -> int:
        async with await aio_pika.connect(self.rabbitmq.url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(topology.INGEST_TELEMETRY, passive=True)
            return queue.declaration_result.message_count or 0

    def forget(self) -> None:
        """Empty the queues and Redis."""
        accepted = map(topology.lane_queue, range(topology.LANES))
        received = (topology.INGEST_TELEMETRY, topology.INGEST_TELEMETRY_DEAD, topology.UNROUTED_QUEUE)
        for queue in (*received, *accepted):
            self.rabbitmq.api("DELETE", f"queues/%2F/{queue}/contents")
        with RedisClient.from_url(self.redis.url) as client:
            client.flushall()


def wait_until(reached: Any, what: str, timeout_s: float, pause_s: float = 0.2) -> None:
    """Poll `reached` until it is true; end the run, naming `what`, when that takes too long."""
    deadline = monotonic() + timeout_s
    while not reached():
        if monotonic() > deadline:
            raise SystemExit(f"{what}: not within {timeout_s:.0f} s")
        sleep(pause_s)
