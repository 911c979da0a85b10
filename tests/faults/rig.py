"""The rig of a fault test: roles as processes, and a receipt of what the broker confirmed."""

import asyncio
import json
import signal
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest
from bed import Deployment, Role
from esp_common import topology
from esp_common.contracts import arrow
from esp_ingest.reconcile import Reconciliation, reconcile

Reading = dict[str, Any]
GATEWAY = "gw-01"


def readings(
    count: int, *, pumps: int = 10, start: datetime | None = None, step: timedelta = timedelta(seconds=1)
) -> list[Reading]:
    """Return readings of gateway gw-01's pumps, no two of one pump and instant, ending about now."""
    instants = -(-count // pumps)
    first = start or datetime.now(UTC).replace(microsecond=0) - instants * step
    return [
        {
            "pump_id": f"SIM-{number % pumps + 1:03d}",
            "time": (first + number // pumps * step).isoformat(),
            "intake_pressure_psi": 900 + number % 97,
            "motor_temp_c": 110.25 + number % 13,
            "motor_current_a": 40.5 + number % 7,
            "running": True,
        }
        for number in range(count)
    ]


def batches(of: Sequence[Reading], size: int) -> list[list[Reading]]:
    """Cut readings into messages."""
    return [list(of[at : at + size]) for at in range(0, len(of), size)]


class Rig:
    """One test's platform: what it publishes, its roles, and the reconciliation of the two."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.bed = deployment.bed
        self.receipt = folder / "receipt.jsonl"
        self.receipt.touch()
        self._roles: list[Role] = []

    def worker(self, **settings: object) -> Role:
        """Start a worker and return it when it is ready."""
        return self.role("worker", **settings)

    def role(self, name: str, **settings: object) -> Role:
        """Start a role of ingest and return it when it is ready."""
        role = self.deployment.ingest(name, **settings)
        self._roles.append(role)
        role.start()
        return role

    def stop(self) -> None:
        """End what was started."""
        for role in self._roles:
            role.stop()

    @staticmethod
    def kill(role: Role) -> None:
        """Kill a role with SIGKILL, as a crash would."""
        role.signal(signal.SIGKILL)
        role.wait()

    def confirm(self, entries: Sequence[dict[str, Any]]) -> None:
        """Note what the broker has confirmed."""
        with self.receipt.open("a") as receipt:
            receipt.writelines(json.dumps(entry) + "\n" for entry in entries)

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[aio_pika.abc.AbstractExchange]:
        """Open a confirming channel and give its `esp.ingest`."""
        async with await aio_pika.connect(self.bed.rabbitmq.url) as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            yield await channel.get_exchange(topology.INGEST, ensure=False)

    async def publish(self, messages: Sequence[Sequence[Reading]], gateway: str = GATEWAY) -> None:
        """Publish each list of readings as one JSON message, and note it once it is confirmed."""
        async with self.exchange() as exchange:

            async def send(number: int, message: Sequence[Reading]) -> None:
                body = json.dumps(message).encode()
                await self._send(exchange, gateway, body, "application/json", f"{gateway}-{number}")
                self.confirm([{"gateway_id": gateway, "reading": reading} for reading in message])

            await asyncio.gather(*(send(number, message) for number, message in enumerate(messages)))

    async def publish_body(self, body: bytes, content_type: str, gateway: str = GATEWAY) -> None:
        """Publish one message as it is."""
        async with self.exchange() as exchange:
            await self._send(exchange, gateway, body, content_type, None)
        self.confirm(
            [
                {
                    "gateway_id": gateway,
                    "body_base64": b64encode(body).decode(),
                    "content_type": content_type,
                }
            ]
        )

    @staticmethod
    async def _send(
        exchange: aio_pika.abc.AbstractExchange, gateway: str, body: bytes, content_type: str, id_: str | None
    ) -> None:
        message = aio_pika.Message(body, content_type=content_type, message_id=id_, delivery_mode=2)
        await exchange.publish(message, topology.telemetry_key(gateway))

    async def reconcile(self) -> Reconciliation:
        """Compare the receipt, the accounts and the tables as they are now."""
        async with asyncpg.create_pool(self.deployment.url("esp_ingest"), min_size=1, max_size=2) as pool:
            return await reconcile(pool, self.bed.rabbitmq.url, self.receipt)

    async def reconciled(self, timeout_s: float = 60) -> Reconciliation:
        """Return the reconciliation once it shows nothing amiss; fail with it when that takes too long."""
        found: Reconciliation | None = None

        async def all_is_well() -> bool:
            nonlocal found
            found = await self.reconcile()
            return found.agrees and found.queued == 0

        await until(all_is_well, timeout_s, lambda: found.text() if found else "no reconciliation")
        assert found is not None
        return found

    def taken(self) -> int:
        """Return the readings of all committed flushes."""
        return self.deployment.taken()


async def until(
    reached: Callable[[], Any], timeout_s: float = 30, otherwise: Callable[[], str] = lambda: ""
) -> None:
    """Wait until `reached` is true, polling; fail with what `otherwise` says."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        outcome = reached()
        if await outcome if asyncio.iscoroutine(outcome) else outcome:
            return
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {otherwise()}")
        await asyncio.sleep(0.1)


class Announced:
    """Listens to `esp.telemetry`: which readings were announced, and how often."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self._channel = channel
        self.keys: list[tuple[str, int]] = []

    @property
    def distinct(self) -> int:
        """Readings announced, each counted once."""
        return len(set(self.keys))

    async def listen(self) -> None:
        """Bind a queue of its own and take everything from it."""
        queue = await self._channel.declare_queue(exclusive=True)
        await queue.bind(topology.TELEMETRY, "#")
        await queue.consume(self._take, no_ack=True)

    async def _take(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        batch = arrow.decode(message.body)
        self.keys += zip(batch.pump_id.tolist(), batch.time_us.tolist(), strict=True)
