"""What gateways and operators are told while the broker takes no messages, and once it does again."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import orjson
import pytest
from esp_archiver.app import run_api as run_archiver
from esp_archiver.settings import ArchiverSettings
from esp_backup.app import run_api as run_backup
from esp_backup.settings import BackupSettings
from esp_common import topology
from esp_common.auth import new_api_key
from esp_diagnostics.app import run_api as run_diagnostics
from esp_diagnostics.settings import DiagnosticsSettings
from esp_stack.programs import free_port
from esp_stack.servers import RabbitMQ
from rabbitmqctl import rabbitmqctl
from waiting import beside, until

PATH = "/api/v1/telemetry"
FULL = f"RuntimeError: the broker refuses messages to {topology.INGEST}: a queue is full"
NOT_CONNECTED = "RuntimeError: not connected"
"""For a moment: a channel that goes on refusing is opened again."""
ALARM = "RuntimeError: the broker takes no messages: its disk or memory alarm is on"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def rabbitmq(server_home: Path) -> Iterator[RabbitMQ]:
    """A node of this module, so that its alarms are nobody else's."""
    server = RabbitMQ(server_home / "rabbitmq-full")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
async def api(ingest_api: Any) -> Any:
    """The API with a pump."""
    for kind, asset in (
        ("fields", {"field_id": "north", "name": "North"}),
        ("wells", {"well_id": "W-1", "field_id": "north", "name": "One"}),
        ("pumps", {"pump_id": "P-1", "well_id": "W-1", "model": "M", "stages": 1}),
    ):
        answer = await ingest_api.client.post(f"/api/v1/{kind}", json=asset)
        assert answer.status_code == 201, answer.text
    return ingest_api


class Gateway:
    """Posts readings, each with a value of its own, and remembers which were accepted."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.sent = 0
        self.accepted: set[float] = set()

    async def post(self) -> httpx.Response:
        self.sent += 1
        current = self.sent / 10
        reading = {"pump_id": "P-1", "time": datetime.now(UTC).isoformat(), "motor_current_a": current}
        answer = await self.api.client.post(PATH, json=reading)
        if answer.status_code == 202:
            self.accepted.add(current)
        return answer

    async def until(self, status: int) -> httpx.Response:
        async def answered() -> httpx.Response | None:
            answer = await self.post()
            return answer if answer.status_code == status else None

        return await until(answered, f"a post is answered {status}", 120)

    async def stored(self) -> set[float]:
        """Take the readings from the queue, as the worker does."""
        found = set()
        async with await aio_pika.connect(self.api.vhost.url) as connection, connection.channel() as channel:
            queue = await channel.get_queue(topology.INGEST_TELEMETRY)
            while message := await queue.get(no_ack=True, fail=False):
                found |= {each["motor_current_a"] for each in orjson.loads(message.body)}
        return found


async def becomes_ready(api: Any) -> None:
    async def ready() -> bool:
        return (await api.bare.get("/health/ready")).status_code == 200

    await until(ready, "the API is ready", 60)


async def says(
    client: httpx.AsyncClient, outcome: str, ask: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Wait until readiness says `outcome` of the broker, and agrees in its status; `ask` before each look.

    The broker says that its alarm is on when something is published, and a refusal is of the moment.
    """

    async def said() -> bool:
        await ask()
        answer = await client.get("/health/ready")
        found = answer.json()["checks"].get("broker")
        assert found in ("ok", NOT_CONNECTED, outcome)
        return found == outcome and (outcome == "ok" or answer.status_code == 503)

    await until(said, f"readiness says {outcome} of the broker", 120)


def check_told_to_come_back(answer: httpx.Response) -> None:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0


async def test_a_full_queue_is_said_and_posts_are_taken_again_once_it_has_room(api: Any) -> None:
    await becomes_ready(api)
    gateway, broker, vhost = Gateway(api), api.vhost.server, api.vhost.name
    full = {
        "pattern": f"^{topology.INGEST_TELEMETRY}$",
        "definition": {"max-length": 1},
        "apply-to": "queues",
    }
    broker.api("PUT", f"policies/{vhost}/full", full)
    answer = await gateway.until(503)
    assert answer.json()["code"] == "nacked"
    check_told_to_come_back(answer)
    await says(api.bare, FULL, gateway.post)
    broker.api("DELETE", f"policies/{vhost}/full")
    stored = await gateway.stored()
    await gateway.until(202)
    await becomes_ready(api)
    assert gateway.accepted <= stored | await gateway.stored()


@pytest.mark.parametrize(
    ("setting", "alarm", "usual"),
    [("set_disk_free_limit", "900000GB", "1MB"), ("set_vm_memory_high_watermark", "0.00001", "0.9")],
    ids=["disk", "memory"],
)
async def test_an_alarm_of_the_broker_is_said_and_posts_are_taken_again_when_it_is_over(
    api: Any, setting: str, alarm: str, usual: str
) -> None:
    await becomes_ready(api)
    gateway = Gateway(api)
    await asyncio.to_thread(rabbitmqctl, api.vhost.server, setting, alarm)
    try:
        await gateway.until(503)
        answer = await gateway.until(503)
        check_told_to_come_back(answer)
        await says(api.bare, ALARM, gateway.post)
    finally:
        await asyncio.to_thread(rabbitmqctl, api.vhost.server, setting, usual)
    await gateway.until(202)
    await becomes_ready(api)

    async def all_stored() -> bool:
        stored.update(await gateway.stored())
        return gateway.accepted <= stored

    stored: set[float] = set()
    await until(all_stored, "every accepted reading is on the queue")


SERVICES = {
    "archiver": (run_archiver, ArchiverSettings, "/api/v1/archive"),
    "backup": (run_backup, BackupSettings, "/api/v1/backups"),
    "diagnostics": (run_diagnostics, DiagnosticsSettings, "/api/v1/rules"),
}


@pytest.mark.parametrize("service", SERVICES)
async def test_an_alarm_of_the_broker_is_said_by_every_service(
    service: str, vhost: Any, redis_url: str, auth_service: Any
) -> None:
    run, kind, path = SERVICES[service]
    # Neither a database nor a blob storage is there: they have no part in this.
    away = {"database_url": f"postgresql://127.0.0.1:{free_port()}/esp"}
    if service == "archiver":
        key = b64encode(bytes(64)).decode()
        endpoint = f"http://127.0.0.1:{free_port()}/esp"
        away["blob_connection_string"] = f"AccountName=esp;AccountKey={key};BlobEndpoint={endpoint}"
    settings = kind(amqp_url=vhost.url_for(service), redis_url=redis_url, http_port=free_port(), **away)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(beside(run(settings, asyncio.Event())))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.http_port}", timeout=60)
        )

        async def listens() -> bool:
            try:
                return (await client.get("/health/live")).status_code == 200
            except httpx.TransportError:
                return False

        async def ask() -> None:
            # Of a key that is not known, auth is asked over the broker.
            await client.get(path, headers={"X-API-Key": new_api_key("stranger")})

        await until(listens, "the API listens", 60)
        await says(client, "ok", ask)
        await asyncio.to_thread(rabbitmqctl, vhost.server, "set_disk_free_limit", "900000GB")
        try:
            await says(client, ALARM, ask)
        finally:
            await asyncio.to_thread(rabbitmqctl, vhost.server, "set_disk_free_limit", "1MB")
        await says(client, "ok", ask)
