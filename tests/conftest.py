"""Real servers for every test: one cluster a run, a database and a virtual host a module.

Ports are random and homes are temporary folders, so several runs may go on at the same time. Servers end
with this process, whatever ends it.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from secrets import token_hex

import hypothesis
import pytest
from engines import engines
from esp_platform.databases import drop_database
from esp_stack.servers import Postgres, RabbitMQ, Redis, Vhost

# A first call that imports a library on a busy machine is slower than any deadline worth having.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")

HOMES = "esp-test-"
TESTED_ENGINES = engines()


@dataclass(frozen=True)
class Database:
    """A database of one test module, empty but for the roles (and the extension)."""

    name: str
    engine: str
    server: Postgres

    @property
    def admin_url(self) -> str:
        """Superuser's URL."""
        return self.server.url("postgres", self.name)

    def url(self, role: str) -> str:
        """URL for one of `esp_platform.databases.ROLES`."""
        return self.server.url(role, self.name)


MakeDatabase = Callable[[str], Database]


def _remove_homes_of_killed_runs() -> None:
    for home in Path(tempfile.gettempdir()).glob(f"{HOMES}*"):
        with suppress(ValueError, IndexError):
            pid = int(home.name.removeprefix(HOMES).split("-")[0])
            if not Path(f"/proc/{pid}").exists():
                shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """A short-named folder that every account may traverse, wherever the checkout lies."""
    _remove_homes_of_killed_runs()
    home = Path(tempfile.mkdtemp(prefix=f"{HOMES}{os.getpid()}-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_home: Path) -> Iterator[Postgres]:
    """The run's PostgreSQL cluster."""
    server = Postgres(server_home / "postgres", throwaway=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rabbitmq(server_home: Path) -> Iterator[RabbitMQ]:
    """The run's RabbitMQ node; use `vhost` unless a test needs the node itself."""
    server = RabbitMQ(server_home / "rabbitmq")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server(server_home: Path) -> Iterator[Redis]:
    """The run's Redis; use `redis_url` unless a test needs the server itself."""
    server = Redis(server_home / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["postgres", pytest.param("timescale", marks=pytest.mark.timescale)])
def engine(request: pytest.FixtureRequest) -> str:
    """Each storage engine in turn."""
    name = str(request.param)
    if name not in TESTED_ENGINES:
        pytest.skip(f"engine {name} is not installed, or not in ESP_TEST_ENGINES")
    return name


@pytest.fixture(scope="module")
def make_database(postgres_server: Postgres) -> Iterator[MakeDatabase]:
    """Create empty databases for "postgres" or "timescale", dropped with the module."""
    made: list[Database] = []

    def make(engine: str) -> Database:
        timescale = engine == "timescale"
        if timescale and not postgres_server.has_timescale:
            pytest.skip("this machine's PostgreSQL has no TimescaleDB community edition")
        database = Database(f"test_{token_hex(6)}", engine, postgres_server)
        postgres_server.ensure_database(database.name, timescale=timescale)
        made.append(database)
        return database

    yield make
    for database in made:
        drop_database(postgres_server.admin_url, database.name)


@pytest.fixture(scope="module")
def database(engine: str, make_database: MakeDatabase) -> Database:
    """An empty database of the module, once on each engine."""
    return make_database(engine)


@pytest.fixture(scope="module")
def vhost(rabbitmq: RabbitMQ) -> Iterator[Vhost]:
    """A virtual host of the module with the whole topology in it."""
    vhost = rabbitmq.vhost()
    yield vhost
    vhost.delete()


@pytest.fixture(scope="session")
def _redis_numbers() -> Iterator[int]:
    return count(1)


@pytest.fixture(scope="module")
def redis_url(redis_server: Redis, _redis_numbers: Iterator[int]) -> str:
    """URL of a Redis database of the module."""
    return redis_server.url_of(next(_redis_numbers))
