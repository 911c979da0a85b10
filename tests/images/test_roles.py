"""Each role of each image becomes ready beside real servers, confined as in production."""

import base64
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from docker_cli import DOCKER
from esp_platform.migrations import OWNERS
from esp_stack.programs import free_port, wait_for
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

ROLES = [
    *(("auth", role) for role in ("api", "worker")),
    *(("diagnostics", role) for role in ("api", "worker", "notifier")),
    *(("ingest", role) for role in ("api", "worker", "maintenance")),
]
READY_S = 120
Start = Callable[..., DockerContainer]

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Site:
    """Servers of this machine with every service's schema, and the images' tag."""

    tag: str
    database_url: Callable[[str], str]
    amqp_url: Callable[[str], str]
    redis_url: str

    def container(self, service: str, role: str, *, owner: bool = False, port: int = 0) -> DockerContainer:
        """Return the container of a role, to be started; its health is on `port`."""
        key = base64.b64encode(os.urandom(32)).decode()
        settings = {
            "AMQP_URL": self.amqp_url(service),
            "DATABASE_URL": self.database_url(OWNERS[service] if owner else f"esp_{service}"),
            "REDIS_URL": self.redis_url,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": str(port),
            **({"MASTER_KEY": key} if service in ("auth", "diagnostics") else {}),
        }
        container = DockerContainer(
            f"esp-{service}:{self.tag}",
            network_mode="host",
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
        ).with_command([role])
        for name, value in settings.items():
            container = container.with_env(f"ESP_{service}_{name}".upper(), value)
        return container


@pytest.fixture(scope="module", autouse=True)
def _no_reaper() -> Iterator[None]:
    """Do without testcontainers' own container, which is an image from a registry."""
    before = testcontainers_config.ryuk_disabled
    testcontainers_config.ryuk_disabled = True
    yield
    testcontainers_config.ryuk_disabled = before


@pytest.fixture(scope="module")
def site(tag: str, request: pytest.FixtureRequest) -> Site:
    """Return servers whose database the images' own `migrate` roles have migrated."""
    if not any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("no PostgreSQL is installed here: `make test` installs it")
    for service in OWNERS:
        name = f"esp-{service}:{tag}"
        found = subprocess.run([DOCKER, "image", "inspect", name], capture_output=True, check=False)
        if found.returncode:
            pytest.skip(f"no image {name}: `make images` builds it")
    database = request.getfixturevalue("make_database")("postgres")
    vhost = request.getfixturevalue("vhost")
    site = Site(tag, database.url, vhost.url_for, request.getfixturevalue("redis_url"))
    for service in OWNERS:
        with started(site.container(service, "migrate", owner=True)) as container:
            assert container.get_wrapped_container().wait(timeout=120)["StatusCode"] == 0, logs(container)
    return site


@contextmanager
def started(container: DockerContainer) -> Iterator[DockerContainer]:
    """Start a container and remove it afterwards."""
    container.start()
    try:
        yield container
    finally:
        container.stop()


def logs(container: DockerContainer) -> str:
    """Return the end of a container's output."""
    return "".join(part.decode(errors="replace") for part in container.get_logs())[-2000:]


@pytest.mark.parametrize(("service", "role"), ROLES)
def test_role_becomes_ready(site, service, role):
    port = free_port()
    with started(site.container(service, role, owner=role == "maintenance", port=port)) as container:

        def check() -> None:
            wrapped = container.get_wrapped_container()
            wrapped.reload()
            assert wrapped.status == "running", logs(container)
            httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).raise_for_status()

        wait_for(check, f"{service} {role}", READY_S)
