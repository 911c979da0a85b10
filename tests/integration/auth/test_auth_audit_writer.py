"""The writer of the audit log on real servers: from a message to the chain, and what may go wrong."""

import asyncio
import os
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import orjson
import pytest
from esp_auth import audit_intake
from esp_auth.audit import AuditLog
from esp_auth.consumers import AuditWriter, chain_key, open_audit_writer
from esp_auth.settings import AuthSettings
from esp_auth.store.migrations import migrate
from esp_common import audit, outbox, topology
from esp_common.audit import AuditTrail
from esp_common.contracts.events import Event
from esp_common.database import create_pool
from esp_common.messaging import Publisher
from esp_stack.servers import Vhost
from waiting import until

MASTER_KEY = b64encode(bytes(range(32))).decode()


def record(**fields: Any) -> dict[str, Any]:
    """A record as a service sends it."""
    return {
        "id": str(uuid4()),
        "time": datetime.now(UTC).isoformat(),
        "service": "ingest",
        "actor_id": "gw-01",
        "actor_kind": "key",
        "action": "GET /api/v1/pumps",
        "object": "/api/v1/pumps",
        "outcome": "success",
        "status": 200,
        "source_address": "10.0.0.1",
        "trace_id": "t",
        "count": 1,
        "detail": {},
    } | fields


@dataclass
class Trail:
    """The servers of a module and what a test wants to know of them."""

    settings: AuthSettings
    admin: "asyncpg.Pool[Any]"
    vhost: Vhost
    publisher: Publisher
    channel: aio_pika.abc.AbstractChannel

    async def send(self, *records: Any, body: bytes | None = None, key: str = "ingest.requests") -> None:
        """Publish a batch as a service does, confirmed."""
        body = orjson.dumps({"records": records}) if body is None else body
        event = Event("audit.recorded", "ingest", "requests", None)
        await self.publisher.publish(topology.AUDIT, key, body, headers=event.headers())

    async def ids(self) -> list[str]:
        rows = await self.admin.fetch("SELECT id::text FROM auth.audit_log ORDER BY seq")
        return [row["id"] for row in rows]

    async def stored(self, count: int, timeout_s: float = 20) -> list[str]:
        """Wait until so many records are stored; return their ids."""

        async def enough() -> bool:
            return len(await self.ids()) >= count

        await until(enough, f"{count} records stored", timeout_s)
        return await self.ids()

    async def waiting(self, queue: str = topology.AUTH_AUDIT) -> int:
        """Messages of the queue that no consumer has."""
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

    async def dead_letters(self, count: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
        """Wait for so many dead letters, take them, and see that there are no more."""
        await until(lambda: self._as_many(count), f"{count} dead letters")
        queue = await self.channel.get_queue(topology.AUTH_AUDIT_DEAD, ensure=False)
        letters = []
        while message := await queue.get(fail=False, no_ack=True):
            letters.append(message)
        assert len(letters) == count
        return letters

    async def _as_many(self, count: int) -> bool:
        return await self.waiting(topology.AUTH_AUDIT_DEAD) >= count

    async def settled(self) -> None:
        """See that no message is left, neither in the queue nor unacknowledged, once no writer runs."""
        assert await self.waiting() == 0
        assert await self.waiting(topology.AUTH_AUDIT_DEAD) == 0

    async def intact(self) -> bool:
        async with asyncpg.create_pool(self.settings.database_url, min_size=0) as pool:
            return (await AuditLog(pool, chain_key(self.settings)).verify()).verdict.intact

    @asynccontextmanager
    async def writing(self, **options: Any) -> AsyncIterator[AuditWriter]:
        """A writer, stopped in good order."""
        stop = asyncio.Event()
        limits = replace(audit_intake.LIMITS, **options)
        async with (
            await create_pool(self.settings, role="audit writer") as pool,
            open_audit_writer(self.settings, pool, limits) as writer,
        ):
            running = asyncio.create_task(writer.run(stop))
            try:
                yield writer
            finally:
                stop.set()
                await running


@pytest.fixture(scope="module")
async def servers(database: Any, vhost: Vhost) -> AsyncIterator[Trail]:
    migrate(database.url("esp_auth_owner"), database.engine)
    settings = AuthSettings(
        database_url=database.url("esp_auth"), amqp_url=vhost.url_for("auth"), master_key=MASTER_KEY
    )
    async with (
        asyncpg.create_pool(database.admin_url, min_size=0, max_size=2) as admin,
        Publisher(vhost.url_for("ingest")) as publisher,
        await aio_pika.connect(vhost.url) as connection,
        connection.channel() as channel,
    ):
        yield Trail(settings, admin, vhost, publisher, channel)


@pytest.fixture
async def trail(servers: Trail) -> Trail:
    """The servers, with nothing in them."""
    await servers.admin.execute("TRUNCATE auth.audit_log, auth.outbox")
    await servers.admin.execute("UPDATE auth.audit_head SET seq = 0, hash = $1", bytes(32))
    for queue in (topology.AUTH_AUDIT, topology.AUTH_AUDIT_DEAD):
        await (await servers.channel.get_queue(queue)).purge()
    return servers


async def test_both_forms_of_messages_become_records(trail: Trail) -> None:
    first, second = record(), record(actor_id=None, actor_kind="anonymous", outcome="denied", status=401)
    said = record(action="api-key.revoke")
    event = Event("audit.recorded", "auth", "k-1", said)
    async with trail.writing():
        await trail.send(first, second)
        await trail.stored(2)
        async with Publisher(trail.vhost.url_for("auth")) as auth:
            key = "auth.api-key.revoke"
            await auth.publish(topology.AUDIT, key, event.body(), headers=event.headers())
        assert await trail.stored(3) == [first["id"], second["id"], said["id"]]
    await trail.settled()
    assert await trail.intact()


async def test_a_record_in_another_services_name_is_refused(trail: Trail) -> None:
    own, forged = record(), record(service="backup")
    nobodys = aio_pika.Message(orjson.dumps({"records": [record()]}))
    async with trail.writing():
        await trail.send(forged, own)
        audit = await trail.channel.get_exchange(topology.AUDIT, ensure=False)
        await audit.publish(nobodys, "ingest.requests")
        assert await trail.stored(1) == [own["id"]]
        letters = await trail.dead_letters(2)
    assert sorted(str(letter.headers["esp-reason"]) for letter in letters) == [
        "service is backup, and ingest sent it",
        "service is ingest, and nobody known sent it",
    ]
    assert await trail.intact()


async def test_what_services_note_and_record_is_what_is_stored(trail: Trail) -> None:
    notes = AuditTrail(trail.publisher, "ingest")
    noting = asyncio.create_task(notes.run())
    who: Any = {"actor_id": "gw-01", "actor_kind": "key", "source_address": "10.0.0.9"}
    notes.note("GET /api/v1/pumps/{id}", "/api/v1/pumps/P1", **who, status=403, trace_id="t-9")
    for _ in range(3):
        notes.tally("POST /api/v1/telemetry", "/api/v1/telemetry", **who, status=202)
    async with (
        trail.writing(),
        await create_pool(trail.settings, role="test") as pool,
        Publisher(trail.vhost.url_for("auth")) as auth,
    ):
        async with pool.acquire() as connection:
            await audit.record(
                connection,
                source="auth",
                actor="cli:ann",
                action="api-key.revoked",
                subject="k-1",
                data={"n": 1},
            )
        await outbox.Relay(pool, auth, "auth").relay_once()
        await trail.stored(3)
    noting.cancel()
    rows = await trail.admin.fetch(
        "SELECT service, actor_id, actor_kind, action, object, outcome, status, source_address, trace_id,"
        " count FROM auth.audit_log ORDER BY action"
    )
    key = ("ingest", "gw-01", "key")
    assert [tuple(row) for row in rows] == [
        (*key, "GET /api/v1/pumps/{id}", "/api/v1/pumps/P1", "denied", 403, "10.0.0.9", "t-9", 1),
        (*key, "POST /api/v1/telemetry", "/api/v1/telemetry", "success", 202, "10.0.0.9", None, 3),
        ("auth", "cli:ann", "cli", "api-key.revoked", "k-1", "success", None, None, None, 1),
    ]


async def test_a_batch_that_comes_again_is_stored_once(trail: Trail) -> None:
    records = [record() for _ in range(50)]
    async with trail.writing():
        for at in range(0, 50, 10):
            await trail.send(*records[at : at + 20])
            await trail.send(*records[at : at + 10])
        last = record()
        await trail.send(last)
        ids = await trail.stored(51)
    assert sorted(ids) == sorted(each["id"] for each in [*records, last])
    await trail.settled()
    assert await trail.intact()


async def test_two_writers_make_one_chain(trail: Trail) -> None:
    records = [record() for _ in range(2000)]
    async with trail.writing(), trail.writing():
        await asyncio.gather(*(trail.send(*records[at : at + 25]) for at in range(0, 2000, 20)))
        ids = await trail.stored(2000)
    assert sorted(ids) == sorted(each["id"] for each in records)
    await trail.settled()
    assert await trail.intact()


async def test_a_bad_record_dies_alone_with_its_reason(trail: Trail) -> None:
    good = [record() for _ in range(4)]
    async with trail.writing():
        await trail.send(good[0], record(outcome="maybe"), good[1], {"id": 5})
        await trail.send(good[2])
        await trail.send(body=b"\xff{")
        await trail.send(body=b'{"records": 5}')
        await trail.send(good[3])
        assert sorted(await trail.stored(4)) == sorted(each["id"] for each in good)
        letters = await trail.dead_letters(4)
    reasons = {str(letter.headers["esp-reason"]): letter for letter in letters}
    (outcome,) = [reason for reason in reasons if reason.startswith("outcome is none of")]
    dead = orjson.loads(reasons[outcome].body)["records"]
    assert [each["outcome"] for each in dead] == ["maybe"]
    assert any(reason.startswith("not JSON") for reason in reasons)
    assert {letter.headers["esp-routing-key"] for letter in letters} == {"ingest.requests"}
    await trail.settled()


async def test_a_record_the_database_refuses_dies_alone(trail: Trail) -> None:
    good = [record() for _ in range(30)]
    refuse = "ALTER TABLE auth.audit_log ADD CONSTRAINT picky CHECK (object <> 'poison')"
    await trail.admin.execute(refuse)
    try:
        async with trail.writing():
            await trail.send(*good[:17], record(object="poison"), *good[17:])
            assert sorted(await trail.stored(30)) == sorted(each["id"] for each in good)
            (letter,) = await trail.dead_letters(1)
    finally:
        await trail.admin.execute("ALTER TABLE auth.audit_log DROP CONSTRAINT picky")
    assert orjson.loads(letter.body)["records"][0]["object"] == "poison"
    assert "picky" in str(letter.headers["esp-reason"])
    await trail.settled()
    assert await trail.intact()


async def test_no_secret_is_stored(trail: Trail) -> None:
    async with trail.writing():
        await trail.send(record(object="/x?token=hunter2hunter2", detail={"password": "hunter2hunter2"}))
        await trail.stored(1)
    row = await trail.admin.fetchrow("SELECT * FROM auth.audit_log")
    assert "hunter2" not in str(row)


@asynccontextmanager
async def database_away(trail: Trail) -> AsyncIterator[None]:
    """Nobody but the superuser gets in, and who is in is thrown out: as in a restart or a failover."""
    name = await trail.admin.fetchval("SELECT current_database()")
    await trail.admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    await trail.admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = 'esp_auth'"
    )
    try:
        yield
    finally:
        await trail.admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')


@pytest.mark.parametrize("outage_pause_s", [60, 0.2], ids=["held", "given back"])
async def test_a_database_that_is_away_loses_nothing(trail: Trail, outage_pause_s: float) -> None:
    records = [record() for _ in range(300)]
    async with trail.writing(outage_pause_s=outage_pause_s) as writer:
        await trail.send(*records[:100])
        await trail.stored(100)
        async with database_away(trail):
            for at in range(100, 300, 20):
                await trail.send(*records[at : at + 20])

            async def waits() -> bool:
                gone = outage_pause_s > 1 or writer.consumer.paused
                return writer.stalled and gone

            await until(waits, "the writer waits for the database")
            assert writer.alive
        assert sorted(await trail.stored(300)) == sorted(each["id"] for each in records)

        async def recovered() -> bool:
            return not writer.stalled and writer.consumer.alive

        await until(recovered, "the writer works again")
    await trail.settled()
    assert await trail.intact()


async def test_a_log_without_its_head_waits_for_it(trail: Trail) -> None:
    await trail.admin.execute("DELETE FROM auth.audit_head")
    async with trail.writing() as writer:
        await trail.send(record())

        async def waits() -> bool:
            return writer.stalled

        await until(waits, "the writer waits")
        await trail.admin.execute("INSERT INTO auth.audit_head (seq, hash) VALUES (0, $1)", bytes(32))
        await trail.stored(1)
    await trail.settled()


async def test_a_worker_killed_at_any_moment_stores_each_record_once(
    trail: Trail, tmp_path: Path, redis_url: str
) -> None:
    master = tmp_path / "master"
    master.write_text(MASTER_KEY)
    master.chmod(0o600)
    environment = os.environ | {
        "ESP_AUTH_DATABASE_URL": trail.settings.database_url,
        "ESP_AUTH_AMQP_URL": trail.settings.amqp_url,
        "ESP_AUTH_MASTER_KEY_FILE": str(master),
        "ESP_AUTH_REDIS_URL": redis_url,
    }
    command = (Path(sys.executable).with_name("esp-auth"), "worker")
    records = [record() for _ in range(6000)]
    for at in range(0, 6000, 20):
        await trail.send(*records[at : at + 20])
    for killed in range(3):
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        try:
            # In the midst of it: some are stored, and of those not all may be acknowledged.
            await trail.stored(1 + killed * 1500, 60)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    async with trail.writing():
        ids = await trail.stored(6000, 60)
    assert sorted(ids) == sorted(each["id"] for each in records)
    await trail.settled()
    assert await trail.intact()


async def test_a_writer_that_is_stopped_finishes_what_it_holds(trail: Trail) -> None:
    records = [record() for _ in range(400)]
    async with trail.writing():
        for at in range(0, 400, 4):
            await trail.send(*records[at : at + 4])
    assert await trail.waiting() + len(await trail.ids()) // 4 == 100
    async with trail.writing():
        assert len(await trail.stored(400)) == 400
    await trail.settled()


async def test_a_head_behind_what_was_stored_raises_the_alarm(trail: Trail) -> None:
    before = audit_intake.REWOUND._value.get()
    async with trail.writing():
        await trail.send(record(), record())
        await trail.stored(2)
        await trail.admin.execute("TRUNCATE auth.audit_log")
        await trail.admin.execute("UPDATE auth.audit_head SET seq = 0, hash = $1", bytes(32))
        await trail.send(record())
        await trail.stored(1)

        async def alarmed() -> bool:
            return bool(audit_intake.REWOUND._value.get() > before)

        await until(alarmed, "the metric")


async def test_the_head_is_noted_when_a_writer_starts(trail: Trail) -> None:
    async with trail.writing():

        async def noted() -> Any:
            return await trail.admin.fetchval("SELECT body FROM auth.outbox")

        assert orjson.loads(await until(noted, "the event"))["seq"] == 0
