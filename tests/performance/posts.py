"""Posts: how many single-reading POSTs a second the API answers, each confirmed by the quorum queue first.

200 connections of wrk load it from the same cores, with a key, 24 channels a reading. A witness posts
beside them and notes every reading that was answered with 202; afterwards the worker drains the queue and
every one of those, and at least as many readings as wrk got answers, must be in the store.
Printed beside a bare ASGI application on uvicorn that reads the body and answers 202.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from shutil import which
from threading import Event, Thread
from time import time

import httpx
from bed import BINARIES, BOOTSTRAP_KEY, Bed, Deployment, Role, wait_until
from benchmark import Size, main
from esp_stack.programs import Program, free_port, wait_for
from report import Figure
from workload import live_readings, wire

HERE = Path(__file__).parent
CONNECTIONS = 200
PUMPS = 50
NAMES = {1: "one process", 2: "two processes"}
PATH = "/api/v1/telemetry"
HEADERS = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}


def posts(bed: Bed, size: Size) -> Iterator[Figure]:
    """Load the bare application and the API in turn, then look for what was answered."""
    if not which("wrk"):
        raise SystemExit("wrk is not installed — apt-get install wrk")
    deployment = bed.deploy(bed.engines[0], PUMPS)
    apis, worker = [deployment.ingest("api") for _ in range(2)], deployment.ingest("worker")
    with ExitStack() as running:
        bare_url = running.enter_context(bare_application(bed))
        for role in (bed.auth(deployment), *apis):
            running.enter_context(role.running())
        load_numbers = count()
        for processes in size.api_processes:
            name = NAMES[processes]
            urls = [api.url for api in apis[:processes]]
            measured: list[dict[str, float]] = []
            bare: list[float] = []
            for _ in range(size.rounds):
                bare.append(rate(load([bare_url], next(load_numbers), size.load_s)))
                deployment.forget()
                witness = Witness(urls[-1])
                with witness.watching():
                    measured.append(load(urls, next(load_numbers), size.load_s))
                look_for_answered(deployment, worker, int(measured[-1]["requests"]), witness.answered)
            rates = [rate(one) for one in measured]
            yield Figure(
                f"posts of one reading, {name}",
                rates,
                "posts/s",
                bare,
                10_000,
                of="measured",
                note="bare ASGI on uvicorn",
            )
            yield Figure(f"posts, {name}: 99th percentile", [one["p99_ms"] for one in measured], "ms")


def rate(result: dict[str, float]) -> float:
    """Return answers a second."""
    return result["requests"] / result["seconds"]


def load(urls: Sequence[str], number: int, seconds: int) -> dict[str, float]:
    """Load `urls` at once with wrk and return what it counted; `number` keeps loads' readings apart."""
    with ThreadPoolExecutor() as wrks:
        results = list(wrks.map(lambda place: _load(*place, number, seconds, len(urls)), enumerate(urls)))
    return {
        "requests": sum(result["requests"] for result in results),
        "seconds": max(result["seconds"] for result in results),
        "p99_ms": max(result["p99_ms"] for result in results),
    }


def _load(place: int, url: str, number: int, seconds: int, of: int) -> dict[str, float]:
    reading = next(wire(live_readings(PUMPS)))
    channels = json.dumps({name: reading[name] for name in reading.keys() - {"pump_id", "time"}})
    environment = {
        "KEY": BOOTSTRAP_KEY,
        "START_S": str(int(time()) - 7200 + 60 * number + 30 * place),
        "CHANNELS": channels[1:-1],
        "PUMPS": str(PUMPS),
    }
    script = str(HERE / "posts.lua")
    options = ("-t1", f"-c{CONNECTIONS // of}", f"-d{seconds}s", "--timeout", "10s", "-s", script)
    done = subprocess.run(
        ["wrk", *options, url],
        env=environment | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.split("RESULT ")[1])
    if result["refused"] or result["failed"]:
        raise SystemExit(f"{url} did not answer everything with 202: {result}")
    return result


@contextmanager
def bare_application(bed: Bed) -> Iterator[str]:
    """Run the bare application and yield its address."""
    port = free_port()
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    argv = (
        str(BINARIES / "uvicorn"),
        "ceilings:answer_202",
        "--app-dir",
        str(HERE),
        "--port",
        str(port),
        *options,
    )
    program = Program("bare", argv, bed.home)
    process = subprocess.Popen(program.command(), env=program.full_environment())
    try:
        wait_for(lambda: httpx.post(f"http://127.0.0.1:{port}/"), "uvicorn", 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Witness:
    """Posts a reading at a time and notes which were answered with 202."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = Event()
        self.answered: list[tuple[str, datetime]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Post for the length of a `with` block."""
        thread = Thread(target=self._post)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _post(self) -> None:
        with httpx.Client(base_url=self._url, headers=HEADERS, timeout=10) as client:
            while not self._over.is_set():
                now = datetime.now(UTC)
                reading = {"pump_id": "SIM-001", "time": now.isoformat(), "intake_pressure_psi": 500.5}
                if client.post(PATH, json=reading).status_code == httpx.codes.ACCEPTED:
                    self.answered.append(("SIM-001", now))


def look_for_answered(
    deployment: Deployment, worker: Role, answers: int, witnessed: list[tuple[str, datetime]]
) -> None:
    """Drain the queue and end the run unless every answered reading is in the store."""
    with worker.running():
        wait_until(
            lambda: deployment.stored() >= answers + len(witnessed), "answered readings stored", 300, 1
        )
        wait_until(lambda: deployment.bed.waiting() == 0, "queue drained", 60)
    ids, times = [pump for pump, _ in witnessed], [at for _, at in witnessed]
    statement = """
        SELECT count(*) FROM unnest(%s::text[], %s::timestamptz[]) AS answered (pump_id, time)
        WHERE NOT EXISTS (SELECT FROM telemetry_v1.readings r
            WHERE r.pump_id = answered.pump_id AND r.time = answered.time)
    """
    ((lost,),) = deployment.admin(statement, ids, times)
    stored = deployment.stored()
    if lost or stored > answers + len(witnessed) + CONNECTIONS:
        raise SystemExit(f"{answers} answered, {stored} stored; {lost} of {len(witnessed)} witnessed lost")
    print(f"        {answers + len(witnessed):,} posts answered, {stored:,} readings stored", flush=True)


if __name__ == "__main__":
    main(posts)
