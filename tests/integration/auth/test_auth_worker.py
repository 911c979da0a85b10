"""The auth worker as it is run, and how services verify keys through it."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from esp_auth.store.migrations import migrate
from esp_common import topology
from esp_common.auth import PERMISSIONS, KeyVerifier, key_digest, new_api_key
from esp_common.contracts.events import Event
from esp_common.errors import Unauthenticated, Unavailable
from esp_common.messaging import EventListener, Publisher, Requester
from esp_common.tokens import read_jwks
from esp_platform.databases import AUTH_OWNER
from esp_stack.servers import Vhost

KEY = new_api_key("bootstrap")
GATEWAY_KEY = new_api_key("gw-01")
ANOTHER = new_api_key("another")
ADMIN_PASSWORD = "made by the stack once"


class Worker:
    """`esp-auth worker` in a process of its own, over a database with the schema."""

    def __init__(self, vhost: Vhost, database: Any, redis_url: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.output = folder / "output"
        self.folder = folder
        master_key = base64.b64encode(os.urandom(32)).decode()
        self._environment = {
            **os.environ,
            "ESP_AUTH_AMQP_URL_FILE": self._secret(folder / "amqp", vhost.url_for("auth")),
            "ESP_AUTH_DATABASE_URL_FILE": self._secret(folder / "database", database.url("esp_auth")),
            "ESP_AUTH_REDIS_URL_FILE": self._secret(folder / "redis", redis_url),
            "ESP_AUTH_MASTER_KEY_FILE": self._secret(folder / "master", master_key),
            "ESP_AUTH_METRICS_PORT": str(self.port),
            "ESP_AUTH_ARGON2_MEMORY_KIB": "64",
            "ESP_AUTH_SIGNING_KEY_PUBLISH_S": "0",
        }
        self.process: subprocess.Popen[bytes]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an `esp-auth` command with the worker's settings to its end."""
        command = [str(Path(sys.executable).parent / "esp-auth"), *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=check)

    def bootstrap(self) -> str:
        """Create the first user and keys, as the stack does; return what it says."""
        first = {
            "api_key": KEY,
            "admin": {"username": "admin", "password": ADMIN_PASSWORD},
            "gateways": {"gw-01": GATEWAY_KEY},
        }
        return self.run("bootstrap", "--file", self._secret(self.folder / "first", json.dumps(first))).stdout

    @staticmethod
    def _secret(path: Path, text: str) -> str:
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def start(self) -> None:
        """Start it; it need not be ready."""
        command = [str(Path(sys.executable).parent / "esp-auth"), "worker"]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output)

    def stop(self) -> int:
        """Stop it as a supervisor would; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    async def health(self, which: str = "ready") -> int:
        """Return the status of `/health/<which>`, 0 while nothing listens."""
        async with httpx.AsyncClient(timeout=30) as client:
            try:
                return (await client.get(f"{self.base}/health/{which}")).status_code
            except httpx.TransportError:
                return 0

    async def until_ready(self, status: int = 200) -> None:
        """Wait until `/health/ready` says `status`."""

        async def poll() -> None:
            while True:
                if await self.health() == status:
                    return
                await asyncio.sleep(0.02)

        await asyncio.wait_for(poll(), 30)


@pytest.fixture(scope="module")
def worker(
    vhost: Vhost, make_database: Any, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """The worker, started."""
    database = make_database("postgres")
    migrate(database.url(AUTH_OWNER), "postgres")
    worker = Worker(vhost, database, redis_url, tmp_path_factory.mktemp("auth"))
    worker.bootstrap()
    worker.start()
    yield worker
    if worker.process.poll() is None:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture(scope="module")
async def requester(vhost: Vhost) -> AsyncIterator[Requester]:
    """The ingest service's way to ask."""
    async with Requester(vhost.url_for("ingest")) as requester:
        yield requester


async def test_the_bootstrap_key_has_every_permission(worker: Worker, requester: Requester) -> None:
    await worker.until_ready()
    verifier = KeyVerifier(requester)
    assert verifier.cached(KEY) is None
    principal = await verifier.verify(KEY)
    assert principal.scopes == set(PERMISSIONS)
    assert principal.gateway_id is None
    assert verifier.cached(KEY) == principal


@pytest.mark.parametrize(
    "key",
    ["", "x", KEY + "0", KEY[:-1], key_digest(KEY), "ключ", ANOTHER],
    ids=["none", "short", "longer", "cut", "digest", "letters", "another"],
)
async def test_any_other_key_is_refused(key: str, worker: Worker, requester: Requester) -> None:
    await worker.until_ready()
    verifier = KeyVerifier(requester)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await verifier.verify(key)
        assert verifier.cached(key) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"key_sha256": 1}', b"\xff"])
async def test_a_malformed_question_does_not_stop_the_worker(
    body: bytes, worker: Worker, requester: Requester
) -> None:
    await worker.until_ready()
    await requester.publish(topology.COMMANDS, topology.AUTH_VERIFY_KEY, body)
    assert await KeyVerifier(requester).verify(KEY)


async def test_many_callers_at_once_are_each_answered(worker: Worker, requester: Requester) -> None:
    await worker.until_ready()
    verifier = KeyVerifier(requester)
    keys = [KEY, ANOTHER] * 100
    answers = await asyncio.gather(*map(verifier.verify, keys), return_exceptions=True)
    assert [isinstance(answer, Unauthenticated) for answer in answers] == [False, True] * 100


async def test_a_gateways_key_is_bound_to_it(worker: Worker, requester: Requester) -> None:
    await worker.until_ready()
    principal = await KeyVerifier(requester).verify(GATEWAY_KEY)
    assert (principal.id, principal.gateway_id) == ("gw-01", "gw-01")
    assert principal.scopes == {"telemetry:write"}


async def test_bootstrap_again_changes_nothing(worker: Worker) -> None:
    said = await asyncio.to_thread(worker.bootstrap)
    assert "created" not in said
    assert "user admin was there already" in said
    assert KEY not in said
    assert ADMIN_PASSWORD not in said


async def test_a_dry_run_of_bootstrap_says_what_is_missing_and_creates_nothing(worker: Worker) -> None:
    first = {"api_key": KEY, "admin": {"username": "second", "password": ADMIN_PASSWORD}}
    path = Worker._secret(worker.folder / "dry", json.dumps(first))
    for _ in range(2):
        done = await asyncio.to_thread(worker.run, "bootstrap", "--dry-run", "--file", path)
        assert done.stdout.splitlines() == [
            "would create user second",
            "signing key was there already",
            "API key bootstrap was there already",
        ]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"admin": {"username": "a"}}', '{"api_key": "hunter2-hunter2"}']
)
async def test_a_file_bootstrap_cannot_read_is_refused_without_quoting_it(text: str, worker: Worker) -> None:
    path = Worker._secret(worker.folder / "bad", text)
    done = await asyncio.to_thread(worker.run, "bootstrap", "--file", path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "hunter2" not in done.stderr


async def _ask(requester: Requester, question: str) -> bytes:
    return await requester.request(topology.COMMANDS, question, b"{}", timeout_s=5)


async def test_services_get_public_keys_and_nothing_private(worker: Worker, requester: Requester) -> None:
    await worker.until_ready()
    document = await _ask(requester, topology.AUTH_JWKS)
    assert len(read_jwks(document)) >= 1
    assert {frozenset(key) for key in orjson.loads(document)["keys"]} == {
        frozenset({"kty", "crv", "kid", "x", "alg", "use"})
    }


async def test_rotate_keys_publishes_another_key_beside_the_first(
    worker: Worker, requester: Requester
) -> None:
    await worker.until_ready()
    before = read_jwks(await _ask(requester, topology.AUTH_JWKS))
    await asyncio.to_thread(worker.run, "rotate-keys")
    after = read_jwks(await _ask(requester, topology.AUTH_JWKS))
    assert before.keys() < after.keys()


async def test_services_get_the_revocations(worker: Worker, requester: Requester) -> None:
    await worker.until_ready()
    document = orjson.loads(await _ask(requester, topology.AUTH_REVOCATIONS))
    assert document.keys() == {"version", "sessions", "users"}


async def test_a_key_revoked_by_command_is_told_of_at_once(
    worker: Worker, requester: Requester, vhost: Vhost
) -> None:
    await worker.until_ready()
    made = await asyncio.to_thread(worker.run, "api-keys", "create", "for a while", "--scope", "assets:read")
    key = made.stdout.strip()
    verifier = KeyVerifier(requester)
    principal = await verifier.verify(key)
    listening, heard = asyncio.Event(), asyncio.Event()

    def on_event(event: Event) -> None:
        verifier.on_event(event)
        if event.type == "auth.key-revoked":
            heard.set()

    listener = EventListener(
        vhost.url_for("ingest"), ["auth.*"], on_event=on_event, on_connected=listening.set
    )
    task = asyncio.create_task(listener.run())
    async with asyncio.timeout(30):
        await listening.wait()
        await asyncio.to_thread(worker.run, "api-keys", "revoke", principal.id)
        await heard.wait()
    assert verifier.cached(key) is None
    with pytest.raises(Unauthenticated):
        await verifier.verify(key)
    await listener.stop()
    await task


async def test_a_revoked_key_is_asked_for_again(worker: Worker, requester: Requester) -> None:
    await worker.until_ready()
    verifier = KeyVerifier(requester)
    await verifier.verify(KEY)
    verifier.on_event(Event("auth.key-revoked", "auth", "bootstrap", {"key_id": "bootstrap"}))
    assert verifier.cached(KEY) is None


async def test_a_worker_whose_queue_is_gone_is_not_ready_and_then_ready_again(
    worker: Worker, vhost: Vhost
) -> None:
    await worker.until_ready()
    queue = f"queues/{vhost.name}/{topology.AUTH_VERIFY_KEY}"
    vhost.server.api("DELETE", queue)
    await worker.until_ready(503)
    assert await worker.health("live") == 200
    await worker.until_ready()
    async with Publisher(vhost.url_for("ingest")) as publisher:
        await publisher.publish(topology.COMMANDS, topology.AUTH_VERIFY_KEY, b"{}")


async def test_metrics_need_no_credential_and_nothing_else_is_beside_them(worker: Worker) -> None:
    await worker.until_ready()
    async with httpx.AsyncClient(base_url=worker.base, timeout=30) as client:
        proxied = await client.get("/metrics", headers={"X-Forwarded-For": "10.0.0.1"})
        assert proxied.status_code == 200
        assert "esp_ready" in proxied.text
        for path in ("/", "/docs", "/openapi.json", "/api/v1/users", "/metrics/x", "/health"):
            assert (await client.get(path)).status_code == 404, path
        assert (await client.post("/metrics")).status_code == 405


async def test_with_auth_away_a_known_key_stays_good_and_another_cannot_be_told(
    worker: Worker, requester: Requester
) -> None:
    await worker.until_ready()
    verifier = KeyVerifier(requester, ttl_s=0)
    principal = await verifier.verify(KEY)
    assert await asyncio.to_thread(worker.stop) == 0
    assert await verifier.verify(KEY) == principal
    with pytest.raises(Unavailable):
        await verifier.verify(ANOTHER)
    worker.start()
    await worker.until_ready()
    with pytest.raises(Unauthenticated):
        await verifier.verify(ANOTHER)
    assert KEY not in worker.output.read_text()
