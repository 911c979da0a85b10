"""The auth worker as it is run, and how services verify keys through it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from esp_common import topology
from esp_common.auth import PERMISSIONS, KeyVerifier, key_digest, new_api_key
from esp_common.contracts.events import Event
from esp_common.errors import Unauthenticated, Unavailable
from esp_common.messaging import Publisher, Requester
from esp_stack.servers import Vhost

KEY = new_api_key("boot")
ANOTHER = new_api_key("another")


class Worker:
    """`esp-auth worker` in a process of its own."""

    def __init__(self, vhost: Vhost, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.output = folder / "output"
        self._environment = {
            **os.environ,
            "ESP_AUTH_AMQP_URL_FILE": self._secret(folder / "amqp", vhost.url_for("auth")),
            "ESP_AUTH_BOOTSTRAP_KEY_FILE": self._secret(folder / "key", KEY),
            "ESP_AUTH_HTTP_PORT": str(self.port),
        }
        self.process: subprocess.Popen[bytes]

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
        async with httpx.AsyncClient() as client:
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
def worker(vhost: Vhost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The worker, started."""
    worker = Worker(vhost, tmp_path_factory.mktemp("auth"))
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


@pytest.mark.parametrize("key", ["", "x", KEY + "0", KEY[:-1], key_digest(KEY), "ключ", ANOTHER])
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


async def test_metrics_are_for_this_machine_only(worker: Worker) -> None:
    await worker.until_ready()
    async with httpx.AsyncClient(base_url=worker.base) as client:
        assert "esp_ready" in (await client.get("/metrics")).text
        proxied = await client.get("/metrics", headers={"X-Forwarded-For": "10.0.0.1"})
        assert proxied.status_code == 403


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
