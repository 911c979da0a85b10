"""Stacks that the end-to-end tests start with `make up`: processes of this machine, or containers."""

import json
import os
import ssl
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil
import psycopg
from docker_cli import docker
from esp_gateway.link import with_credentials
from esp_stack.programs import free_port

CHECKOUT = Path(__file__).parents[2]
KIND = os.environ.get("STACK_KIND", "native")
GUARD = 'while kill -0 "$0" 2>/dev/null; do sleep 1; done; exec make clean'
QUERY = 'PGPASSWORD=$(cat /run/secrets/esp/password) psql -h localhost -U postgres -d esp -qtAX -c "$0"'


class Stack(ABC):
    """A stack in a folder of its own, on ports of its own."""

    kind: str

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        own = {"STACK": str(folder), "STACK_KIND": self.kind, "HISTORY": "0"}
        self.environment = {**os.environ, **own, **environment}

    def make(self, target: str, *variables: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["make", target, *variables]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"make {target}:\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def endpoints(self) -> dict:
        return json.loads((self.folder / "endpoints.json").read_text())

    @property
    def trust(self) -> ssl.SSLContext:
        """The TLS context of a client that knows the stack's authority."""
        return ssl.create_default_context(cafile=self.endpoints["ca_file"])

    def http(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.endpoints["http"], verify=self.trust, **{"timeout": 30, **options})

    def gateway_url(self, key: str) -> str:
        """Return the broker's address with the engineer's gateway's id and `key`."""
        return with_credentials(self.endpoints["amqp"], self.endpoints["gateway"]["id"], key)

    def remove_when_killed(self) -> None:
        """Have the stack removed even if this process is killed."""
        command = ["sh", "-c", GUARD, str(os.getpid())]
        self.guard = subprocess.Popen(command, cwd=CHECKOUT, env=self.environment, start_new_session=True)

    @abstractmethod
    def query(self, statement: str) -> object:
        """Return the first value of the statement's result."""

    @abstractmethod
    def running(self) -> list[object]:
        """Return every process or container of the stack."""


class NativeStack(Stack):
    """Processes of this machine."""

    kind = "native"

    def query(self, statement: str) -> object:
        with psycopg.connect(self.endpoints["postgres"]) as connection:
            return connection.execute(statement).fetchone()[0]

    def running(self) -> list[psutil.Process]:
        """Return every process that works in the stack's folder, whoever started it."""
        found = []
        for process in psutil.process_iter():
            try:
                place = f"{process.cwd()} {' '.join(process.cmdline())}"
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if f"{self.folder}" in place and process.pid != self.guard.pid:
                found.append(process)
        return found


class ComposeStack(Stack):
    """Containers on the Docker engine that answers; DOCKER_HOST and BASE as for `make images`."""

    kind = "compose"

    def __init__(self, folder: Path) -> None:
        self.project = f"esp-e2e-{os.getpid()}"
        ports = {name: str(free_port()) for name in ("HTTPS_PORT", "AMQPS_PORT", "MQTTS_PORT")}
        subnet = {"ESP_APP_SUBNET": f"172.30.{100 + os.getpid() % 100}.0/24"}
        super().__init__(folder, COMPOSE_PROJECT_NAME=self.project, **ports, **subnet)

    def query(self, statement: str) -> object:
        text = self.run("postgres", "sh", "-c", QUERY, statement).strip()
        return int(text) if text.isdecimal() else text

    def run(self, service: str, *command: str) -> str:
        """Return what a program in the first container of `service` prints."""
        return docker("exec", self.containers(service)[0], *command)

    def containers(self, service: str | None = None, *, stopped: bool = False) -> list[str]:
        """Return the ids of the running (and `stopped`) containers of the stack, or of one service of it."""
        labels = [f"com.docker.compose.project={self.project}"]
        labels += [f"com.docker.compose.service={service}"] if service else []
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return docker("ps", "--quiet", "--no-trunc", *(["--all"] if stopped else []), *filters).split()

    def running(self) -> list[str]:
        return self.containers()


def eventually(holds: Callable[[], object], what: str, timeout_s: float = 90) -> None:
    deadline = monotonic() + timeout_s
    while not holds():
        assert monotonic() < deadline, f"not within {timeout_s} s: {what}"
        sleep(0.2)
