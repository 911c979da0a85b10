"""Servers of which there are several: a client moves on when one is gone."""

import asyncio
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from esp_common import topology
from esp_common.amqp_nodes import nodes_of
from esp_common.database import create_pool
from esp_common.errors import Unavailable
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from esp_common.rate_limit import RateLimiter
from esp_common.redis import connect_redis
from esp_ingest.dead_letters import DeadLetters
from esp_ingest.settings import IngestSettings
from esp_ingest.store.migrations import migrate
from esp_stack.programs import executable, free_port, wait_for
from esp_stack.servers import Redis, Vhost
from waiting import beside, until

KEY = topology.telemetry_key("gw-01")


def with_hosts(url: str, *hosts: str) -> str:
    """Return `url` with these hosts before its own."""
    login, _, host = urlsplit(url).netloc.rpartition("@")
    return url.replace(f"{login}@{host}", f"{login}@{','.join((*hosts, host))}")


def bodies(taken: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in taken]


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes are tried in the order of the URL, and not in one of chance."""
    for module in ("messaging.link", "amqp_nodes"):
        monkeypatch.setattr(f"esp_common.{module}.shuffled_nodes", nodes_of)


@pytest.mark.usefixtures("in_order")
async def test_a_broker_whose_first_node_is_closed_is_used_through_the_second(vhost: Vhost) -> None:
    url = with_hosts(vhost.url_for("ingest"), f"127.0.0.1:{free_port()}")
    taken: list[Delivery] = []
    consumer = LeanConsumer(
        url, topology.INGEST_TELEMETRY, prefetch=10, on_message=taken.append, service="ingest"
    )
    async with Publisher(url) as publisher, beside(consumer.run()):
        await publisher.publish(topology.INGEST, KEY, b"first")
        await until(lambda: b"first" in bodies(taken), "the message", 30)
    assert await DeadLetters(url).list() == []


class Node:
    """One node of a broker: passes connections on to it until it is lost."""

    def __init__(self, broker_url: str) -> None:
        self._broker = urlsplit(broker_url)
        self._writers: list[asyncio.StreamWriter] = []
        self.taken = 0

    async def start(self) -> str:
        """Take connections; return the address."""
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def lose(self) -> None:
        """End every connection at once, and take no more."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        broker_reader, broker_writer = await asyncio.open_connection(self._broker.hostname, self._broker.port)
        self._writers += [writer, broker_writer]
        await asyncio.gather(_copy(reader, broker_writer), _copy(broker_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.mark.usefixtures("in_order")
async def test_node_lost_in_mid_connection_is_left_for_the_next_and_no_confirmed_message_is_lost(
    vhost: Vhost,
) -> None:
    url = vhost.url_for("ingest")
    first, second = nodes = Node(url), Node(url)
    login, _, host = urlsplit(url).netloc.rpartition("@")
    listed = url.replace(f"{login}@{host}", f"{login}@{','.join([await node.start() for node in nodes])}")
    taken: set[bytes] = set()

    def take(delivery: Delivery) -> None:
        taken.add(delivery.body)
        consumer.done([delivery])

    consumer = LeanConsumer(listed, topology.INGEST_TELEMETRY, prefetch=10, on_message=take, service="ingest")
    async with Publisher(listed) as publisher, beside(consumer.run()):

        async def send(number: int) -> bytes:
            body = b"%d" % number
            while True:
                try:
                    await publisher.publish(topology.INGEST, KEY, body)
                except Unavailable:
                    await asyncio.sleep(0.05)
                else:
                    return body

        before = {await send(number) for number in range(20)}
        await until(lambda: before <= taken, "messages through the first node", 60)
        assert first.taken >= 2
        assert second.taken == 0
        await first.lose()
        after = {await send(number) for number in range(20, 60)}
        await until(lambda: after <= taken, "messages through the second node", 60)
    assert second.taken >= 2
    await second.lose()


async def test_a_database_whose_first_host_is_closed_is_used_through_the_second(make_database: Any) -> None:
    database = make_database("postgres")
    closed = f"127.0.0.1:{free_port()}"
    assert migrate(with_hosts(database.url("esp_ingest_owner"), closed), "auto") == "postgres"
    settings = IngestSettings.load(database_url=with_hosts(database.url("esp_ingest"), closed))
    assert settings.database_url.endswith("target_session_attrs=read-write")
    async with await create_pool(settings, role="test", min_size=2) as pool:
        assert await pool.fetchval("SELECT count(*) FROM ingest.pumps") == 0


@pytest.fixture(scope="module")
def sentinel(redis_server: Redis, server_home: Path) -> Iterator[str]:
    """The address of a Sentinel that watches the run's Redis as `esp`."""
    port, master = free_port(), urlsplit(redis_server.url)
    configuration = server_home / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {server_home}\n"
        f"sentinel monitor esp 127.0.0.1 {master.port} 1\n"
        + (f"sentinel auth-pass esp {master.password}\n" if master.password else "")
        + (f"sentinel auth-user esp {master.username}\n" if master.password and master.username else "")
    )
    command = [executable("redis-server"), str(configuration), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def check() -> None:
        asyncio.run(_ask_sentinel(port))

    try:
        wait_for(check, "the Sentinel", 60)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def _ask_sentinel(port: int) -> None:
    async with connect_redis(f"redis://127.0.0.1:{port}") as client:
        if not await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "esp"):
            raise ConnectionError("it knows no master")


async def test_redis_is_found_by_the_sentinel_that_answers(
    sentinel: str, redis_server: Redis, redis_url: str
) -> None:
    master = urlsplit(redis_url)
    login = master.netloc.rpartition("@")[0]
    url = f"redis+sentinel://{login}{'@' if login else ''}127.0.0.1:{free_port()},{sentinel}/esp{master.path}"
    assert IngestSettings.load(redis_url=url).redis_url == url
    async with connect_redis(url, timeout_s=5) as found, connect_redis(redis_url, timeout_s=5) as direct:
        await found.set("esp:test", "kept")
        assert await direct.get("esp:test") == b"kept"
    limiters = [RateLimiter(3, url), RateLimiter(3, redis_url)]
    async with beside(*(limiter.run() for limiter in limiters)):
        limiters[0].hit("ann")
        key = "esp:rate*"
        async with connect_redis(redis_url, timeout_s=5) as direct:

            async def counted() -> bool:
                return bool(await direct.keys(key))

            await until(counted, "the count is in Redis", 30)
