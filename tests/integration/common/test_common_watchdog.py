"""A role whose event loop is blocked says so, fails its liveness, ends, and is started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest
from esp_stack.programs import Program, free_port, wait_for
from esp_stack.supervision import Supervisor

LIMIT_S = 15.0
"""Longer than a busy machine keeps a role that starts from its event loop."""

pytestmark = pytest.mark.timeout(400)
ROLE = """
import asyncio, os, signal, sys, time
from esp_auth import app, cli

serve_api = app.run_api

async def run_api(settings, stop):
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, hold_the_interpreter)
    loop.add_signal_handler(signal.SIGUSR2, block_the_loop)
    time.sleep(float(os.environ.get("START_BLOCKED_S", "0")))
    await serve_api(settings, stop)

def hold_the_interpreter():
    range(2**63).index("x")

def block_the_loop():
    time.sleep(3600)

app.run_api = run_api
sys.argv = ["esp-auth", "api"]
cli.main()
"""
"""The API of auth; a signal blocks its event loop, with the interpreter lock held or not."""


@dataclass
class Role:
    """Where the role's two listeners are, and its environment."""

    api_port: int
    liveness_port: int
    environment: dict[str, str]

    def live(self, port: int, timeout_s: float = 5) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=timeout_s)

    def check_live(self) -> None:
        for port in (self.api_port, self.liveness_port):
            self.live(port).raise_for_status()


@pytest.fixture
def role(tmp_path: Path) -> Role:
    """The role's settings. It needs no server to start: it is live, and not ready."""
    api_port, liveness_port = free_port(), free_port()
    settings = {
        "MASTER_KEY": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
        "AMQP_URL": f"amqp://127.0.0.1:{free_port()}/",
        "DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/esp",
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "HTTP_PORT": str(api_port),
        "LIVENESS_PORT": str(liveness_port),
        "LOOP_BLOCKED_LIMIT_S": str(LIMIT_S),
    }
    return Role(api_port, liveness_port, {f"ESP_AUTH_{name}": value for name, value in settings.items()})


@pytest.fixture
def start(role: Role, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the role as a process of its own, and returns when it is live."""
    started: list[subprocess.Popen[bytes]] = []

    def run() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", ROLE], env=os.environ | role.environment, stdout=log, stderr=log
            )
        started.append(process)
        wait_for(role.check_live, "the role", 180)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("number", "place"), [(signal.SIGUSR1, "hold_the_interpreter"), (signal.SIGUSR2, "block_the_loop")]
)
def test_a_role_with_a_blocked_event_loop_ends_and_its_log_names_the_place(
    number: int, place: str, start: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start()
    process.send_signal(number)
    assert process.wait(120) == 1
    log = (tmp_path / "log").read_text()
    assert "Timeout (0:00:15)!" in log
    assert f"in {place}" in log


def test_liveness_fails_before_the_role_ends(
    start: Callable[[], subprocess.Popen[bytes]], role: Role, tmp_path: Path
) -> None:
    process = start()
    process.send_signal(signal.SIGUSR2)
    answers: list[httpx.Response] = []
    while process.poll() is None:
        try:
            answers.append(role.live(role.liveness_port))
        except httpx.TransportError:
            continue
    assert answers[-1].status_code == 503
    assert answers[-1].json()["event_loop"].startswith("blocked for")
    log = (tmp_path / "log").read_text()
    lines = [orjson.loads(line) for line in log.splitlines() if line.startswith("{")]
    (blocked,) = [line for line in lines if line["event"] == "event-loop.blocked"]
    assert (blocked["level"], blocked["service"], blocked["ends_after_s"]) == ("critical", "auth", LIMIT_S)
    assert blocked["stack"][-1].endswith("block_the_loop")


def test_a_role_may_block_its_event_loop_longer_while_it_starts(
    start: Callable[[], subprocess.Popen[bytes]], role: Role, tmp_path: Path
) -> None:
    role.environment["START_BLOCKED_S"] = str(LIMIT_S + 1)
    process = start()
    process.send_signal(signal.SIGUSR2)
    assert process.wait(120) == 1
    log = (tmp_path / "log").read_text()
    assert log.count("Timeout (") == 1
    assert "Timeout (0:00:15)!" in log


def test_a_role_that_is_stopped_ends_in_order(start: Callable[[], subprocess.Popen[bytes]]) -> None:
    process = start()
    process.terminate()
    assert process.wait(120) == 0


def test_the_supervisor_starts_it_again(role: Role, server_home: Path) -> None:
    folder = server_home / "watchdog"
    folder.mkdir()
    script = folder / "role.py"
    script.write_text(ROLE)
    program = Program("auth-api", (sys.executable, str(script)), folder, None, role.environment)
    supervisor = Supervisor(folder)
    supervisor.configure([program], folder)
    supervisor.start()
    try:
        supervisor.run([program])
        wait_for(role.check_live, "the role", 180)
        blocked = supervisor.process_ids()["auth-api"]
        os.kill(blocked, signal.SIGUSR1)

        def check_started_again() -> None:
            if supervisor.process_ids().get("auth-api", blocked) == blocked:
                raise ConnectionError("not started again")
            role.check_live()

        wait_for(check_started_again, "the restart", 180)
    finally:
        supervisor.stop()
