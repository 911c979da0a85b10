"""The whole platform as `make up` starts it: 50 simulated pumps, through the broker, into the store."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil
import psycopg
import pytest

CHECKOUT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("esp-stack")
GUARD = 'while kill -0 "$0" 2>/dev/null; do sleep 1; done; exec "$1" clean'
KEYS = {
    *("http", "ca_file", "amqp", "postgres", "mqtt", "redis", "blob", "vault", "prometheus", "admin"),
    *("api_key", "gateway", "engine", "processes"),
}

pytestmark = pytest.mark.timeout(300)


class NativeStack:
    """A stack in a folder of its own, on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "ESP_STACK_FOLDER": str(folder)}

    def make(self, target: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["make", target, f"STACK={self.folder}"]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"make {target}:\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def endpoints(self) -> dict:
        return json.loads((self.folder / "endpoints.json").read_text())

    def query(self, statement: str) -> object:
        with psycopg.connect(self.endpoints["postgres"]) as connection:
            return connection.execute(statement).fetchone()[0]

    def processes(self) -> list[psutil.Process]:
        """Every process that works in the stack's folder, whoever started it."""
        found = []
        for process in psutil.process_iter():
            try:
                place = f"{process.cwd()} {' '.join(process.cmdline())}"
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if f"{self.folder}" in place and process.pid != self.guard.pid:
                found.append(process)
        return found

    def watch_over(self) -> None:
        """Have the stack removed even if this process is killed."""
        self.guard = subprocess.Popen(
            ["sh", "-c", GUARD, str(os.getpid()), str(COMMAND)],
            env=self.environment,
            start_new_session=True,
        )


def eventually(holds: Callable[[], object], what: str, timeout_s: float = 90) -> None:
    deadline = monotonic() + timeout_s
    while not holds():
        assert monotonic() < deadline, f"not within {timeout_s} s: {what}"
        sleep(0.2)


@pytest.fixture(scope="module")
def stack(server_home: Path) -> Iterator[NativeStack]:
    stack = NativeStack(server_home / "e2e" / ".stack")
    stack.watch_over()
    stack.make("up")
    yield stack
    stack.make("clean")
    stack.guard.kill()
    stack.guard.wait()


def test_readings_of_fifty_pumps_arrive_in_the_store(stack):
    eventually(
        lambda: stack.query("SELECT count(DISTINCT pump_no) FROM ingest.telemetry") == 50,
        "50 pumps in the store",
    )


def test_endpoints_name_every_part_for_the_owner_only(stack):
    assert set(stack.endpoints) == KEYS
    assert (stack.folder / "endpoints.json").stat().st_mode & 0o777 == 0o600


def test_the_http_api_answers_through_the_door_to_a_key_only(stack):
    pumps = f"{stack.endpoints['http']}/api/v1/pumps"
    key = {"Authorization": f"Bearer {stack.endpoints['api_key']}"}
    assert httpx.get(pumps, headers=key).status_code == 200
    assert httpx.get(pumps).status_code == 401
    assert httpx.get(f"{stack.endpoints['http']}/metrics").status_code == 404


def test_status_shows_every_process_ready_and_what_flows(stack):
    output = stack.make("status").stdout
    assert all(name in output for name in stack.endpoints["processes"])
    assert (
        f"storage engine: {'TimescaleDB' if stack.endpoints['engine'] == 'timescale' else 'plain'}" in output
    )
    assert "readings stored in the last minute: 0" not in output


def test_a_second_up_changes_nothing(stack):
    before = stack.endpoints
    stack.make("up")
    assert stack.endpoints == before


def test_no_secret_is_in_a_command_line_an_environment_or_a_log(stack):
    credentials = json.loads((stack.folder / "credentials.json").read_text())
    secrets = {*credentials.values(), stack.endpoints["vault"]["token"], stack.endpoints["api_key"]}
    seen = {log.name: log.read_text(errors="replace") for log in (stack.folder / "logs").iterdir()}
    for process in stack.processes():
        seen[f"command line of {process.name()}"] = " ".join(process.cmdline())
        seen[f"environment of {process.name()}"] = " ".join(process.environ().values())
    assert len(seen) > 20
    assert [place for place, text in seen.items() if any(secret in text for secret in secrets)] == []


def test_every_process_comes_back_after_a_kill(stack):
    for name, pid in stack.endpoints["processes"].items():
        os.kill(pid, signal.SIGKILL)
        eventually(lambda name=name, pid=pid: stack.endpoints["processes"].get(name, pid) != pid, name)
    eventually(lambda: stack.make("status", check=False).returncode == 0, "all ready again")


def test_a_killed_supervisor_leaves_nothing_running_and_up_recovers(stack):
    os.kill(int((stack.folder / "supervisord.pid").read_text()), signal.SIGKILL)
    eventually(lambda: not stack.processes(), "no process of the stack")
    stack.make("up")
    assert stack.make("status").returncode == 0


def test_down_leaves_the_data_and_no_process(stack):
    stored = stack.query("SELECT count(*) FROM ingest.telemetry")
    stack.make("down")
    assert stack.processes() == []
    assert stack.make("status", check=False).returncode != 0
    stack.make("up")
    assert stack.query("SELECT count(*) FROM ingest.telemetry") >= stored > 0


def test_clean_removes_everything(stack):
    stack.make("clean")
    assert stack.processes() == []
    assert not stack.folder.exists()
