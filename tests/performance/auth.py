"""What security costs: a verified request over an unverified one, and logins against bare Argon2id.

The first is processor time of one process for each request, under load by wrk, of the same route with and
without `require`: an access token or an API key that was seen before, which all but the first request of a
caller are; what the first costs is beside it. The second is logins a second through the API, each with its
session, tokens and records, held against a program that does nothing but verify the same hash in as many
threads as there are cores, in turn with it on the same machine.
"""

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from secrets import token_bytes, token_hex
from time import perf_counter
from typing import Any

import httpx
import jwt
import psutil
from argon2 import PasswordHasher
from bed import BINARIES, BOOTSTRAP_KEY, Bed, Role
from benchmark import Size, main
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from esp_auth.settings import AuthSettings
from esp_auth.store.migrations import migrate
from esp_common.tokens import key_id_in, read_token
from esp_stack.programs import Program, free_port, private_file, wait_for
from guarded import GUARDED, OPEN
from report import Figure

HERE = Path(__file__).parent
CONNECTIONS = 20
CLIENTS = 8
USERS = 4
MOST_US = 100
LEAST_RATIO = 0.9
FIRST_TOKENS = 300
PASSWORD = "a pump below the seventh well"


def auth(bed: Bed, size: Size) -> Iterator[Figure]:
    """Measure what verifying costs, then what logging in does."""
    api, worker, users = _service(bed)
    with ExitStack() as running:
        for role in (worker, api):
            running.enter_context(role.running())
        yield from _verifying(bed, size, api, users)
        yield from _logging_in(size, api, users)


def _service(bed: Bed) -> tuple[Role, Role, list[str]]:
    """Return auth's two roles over a database of its own, and its users' names."""
    database = f"bench_{token_hex(4)}"
    bed.postgres.ensure_database(database, timescale=False)
    migrate(bed.postgres.url("esp_auth_owner", database), "postgres")
    settings = {
        "AMQP_URL": bed.rabbitmq.url_for("auth"),
        "DATABASE_URL": bed.postgres.url("esp_auth", database),
        "REDIS_URL": bed.redis.url,
        "MASTER_KEY": b64encode(token_bytes(32)).decode(),
        "LOG_LEVEL": "WARNING",
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    api, worker = Role(bed, "auth", "api", settings), Role(bed, "auth", "worker", settings)
    first = private_file(bed.home / "first-of-auth.json", json.dumps({"api_key": BOOTSTRAP_KEY}), None)
    worker.run("bootstrap", "--file", str(first))
    password = private_file(bed.home / "password", PASSWORD, None)
    users = [f"bench-{number}" for number in range(USERS)]
    for name in users:
        worker.run("users", "create", name, "--role", "viewer", "--password-file", str(password))
    return api, worker, users


# --- verifying --------------------------------------------------------------------------------------------


def _verifying(bed: Bed, size: Size, api: Role, users: list[str]) -> Iterator[Figure]:
    headers = {
        "an access token": {"Authorization": f"Bearer {_settled_token(api, users[0])}"},
        "an API key": {"X-API-Key": BOOTSTRAP_KEY},
    }
    with _guarded_application(bed) as (url, process):
        for header in headers.values():
            httpx.get(f"{url}{GUARDED}", headers=header).raise_for_status()
        unverified: list[float] = []
        costs: dict[str, list[float]] = {name: [] for name in headers}
        for _ in range(size.rounds):
            before = _cost_us(process, f"{url}{OPEN}", {}, size.load_s)
            for name, header in headers.items():
                costs[name].append(_cost_us(process, f"{url}{GUARDED}", header, size.load_s) - before)
            unverified.append(before)
    yield Figure("a request without verification", unverified, "µs/request")
    for name, cost in costs.items():
        # What is held against 100 µs is the difference itself; noise can take it below nothing.
        yield Figure(f"a verified request more, {name}", cost, "µs", None, MOST_US, "measured", at_most=True)
    yield Figure("the first request of an access token more", [_first_us()], "µs")


def _settled_token(api: Role, username: str) -> str:
    """Return the token of a user who has changed the first password to another, and back again."""
    session = _log_in(api, username, PASSWORD)
    other = f"{PASSWORD} at noon"
    for current, new in ((PASSWORD, other), (other, PASSWORD)):
        body = {"current": current, "new": new}
        header = {"Authorization": f"Bearer {session['access_token']}"}
        httpx.post(f"{api.url}/api/v1/auth/password", json=body, headers=header).raise_for_status()
    return str(_log_in(api, username, PASSWORD)["access_token"])


def _log_in(api: Role, username: str, password: str) -> dict[str, Any]:
    body = {"username": username, "password": password}
    answer = httpx.post(f"{api.url}/api/v1/auth/login", json=body, timeout=30).raise_for_status()
    tokens: dict[str, Any] = answer.json()
    return tokens


def _cost_us(process: psutil.Process, url: str, headers: Mapping[str, str], seconds: int) -> float:
    """Return the processor time of `process` for each request of a load, microseconds."""
    before = sum(process.cpu_times()[:2])
    given = [option for name, value in headers.items() for option in ("-H", f"{name}: {value}")]
    options = ("-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *given)
    done = subprocess.run(["wrk", *options, url], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"{url} did not answer everything:\n{done.stdout}")
    requests = int(done.stdout.partition(" requests in ")[0].split()[-1])
    return (sum(process.cpu_times()[:2]) - before) / requests * 1e6


@contextmanager
def _guarded_application(bed: Bed) -> Iterator[tuple[str, psutil.Process]]:
    """Run the application of `guarded` and yield its address and its process."""
    port = free_port()
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    argv = (str(BINARIES / "uvicorn"), "--factory", "guarded:application", "--app-dir", str(HERE))
    environment = {"BENCH_AMQP_URL": bed.rabbitmq.url_for("ingest"), "BENCH_REDIS_URL": bed.redis.url}
    program = Program("guarded", (*argv, "--port", str(port), *options), bed.home, None, environment)
    process = subprocess.Popen(program.command(), env=program.full_environment())
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: httpx.get(f"{url}{OPEN}").raise_for_status(), "the guarded application", 30)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _first_us() -> float:
    """Return what reading a token that was never seen before takes, microseconds."""
    key = Ed25519PrivateKey.generate()
    public, now = key.public_key(), int(perf_counter()) + 4_000_000_000
    header = {"kid": "k", "typ": "at+jwt"}
    claims = {
        "iss": "esp-auth",
        "aud": "esp",
        "sub": "u",
        "name": "n",
        "roles": ["viewer"],
        "iat": 1.0,
        "nbf": 1.0,
        "exp": now,
    }
    tokens = [
        jwt.encode({**claims, "sid": str(number), "jti": str(number)}, key, "EdDSA", header)
        for number in range(FIRST_TOKENS)
    ]
    start = perf_counter()
    for token in tokens:
        key_id_in(token)
        read_token(token, public)
    return (perf_counter() - start) / FIRST_TOKENS * 1e6


# --- logging in -------------------------------------------------------------------------------------------


def _logging_in(size: Size, api: Role, users: list[str]) -> Iterator[Figure]:
    logins, bare = [], []
    for _ in range(size.rounds):
        bare.append(_bare_rate(size.load_s))
        logins.append(_login_rate(api, users, size.load_s))
    yield Figure("logins", logins, "logins/s", bare, LEAST_RATIO, note="bare Argon2id")


def _bare_rate(seconds: float) -> float:
    """Return hashes a second that the cores verify when they do nothing else, at the service's cost."""
    fields = AuthSettings.model_fields
    hasher = PasswordHasher(
        time_cost=fields["argon2_passes"].default,
        memory_cost=fields["argon2_memory_kib"].default,
        parallelism=fields["argon2_lanes"].default,
    )
    hashed = hasher.hash(PASSWORD)
    return _rate(os.cpu_count() or 1, seconds, lambda _: lambda: hasher.verify(hashed, PASSWORD))


def _login_rate(api: Role, users: list[str], seconds: float) -> float:
    """Return logins a second of clients that log in again and again."""

    def client(number: int) -> Any:
        connection = HTTPConnection("127.0.0.1", api.port, timeout=30)
        body = json.dumps({"username": users[number % len(users)], "password": PASSWORD})

        def log_in() -> None:
            connection.request("POST", "/api/v1/auth/login", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"a login was answered with {answer.status}: {text.decode()}")

        return log_in

    return _rate(CLIENTS, seconds, client)


def _rate(threads: int, seconds: float, worker: Any) -> float:
    """Return how often a second `threads` threads do what `worker(number)` gives each to do.

    Each counts what it finished and until when: what is under way at the end is neither lost nor half.
    """
    start = perf_counter()

    def work(number: int) -> float:
        act, done = worker(number), 0
        while perf_counter() - start < seconds:
            act()
            done += 1
        return done / (perf_counter() - start)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


if __name__ == "__main__":
    main(auth)
