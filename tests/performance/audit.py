"""The audit log: how fast its writer chains and stores records from a filled queue.

Held against bare asyncpg that copies the same rows, made beforehand, into the same table: one connection, a
transaction for each batch as large as the writer's, and no chain. Messages have 100 records, as services send
them under load, or a single one. After each round the log is verified, and has every record once.
"""

import asyncio
import base64
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from time import monotonic, perf_counter, sleep
from typing import Any
from uuid import uuid4

import aio_pika
import asyncpg
import orjson
import psutil
import psycopg
import uvloop
from bed import Bed, Role
from benchmark import Size, main
from esp_auth.audit import AuditLog
from esp_auth.audit_intake import BATCH_RECORDS
from esp_auth.consumers import chain_key
from esp_auth.domain.chain import EMPTY, Link, extend
from esp_auth.domain.records import record_of
from esp_auth.settings import AuthSettings
from esp_auth.store.audit import COLUMNS, row_of
from esp_auth.store.migrations import migrate
from esp_common import topology
from esp_common.contracts.events import Event
from report import Figure

TARGET = 5000
IN_FLIGHT = 500
DRAIN_S = 300
POLL_S = 0.01
Records = list[dict[str, Any]]


class _Log:
    """A database of one engine with nothing but auth's schema."""

    def __init__(self, bed: Bed, engine: str) -> None:
        self.bed = bed
        self.engine = engine
        self.name = f"bench_{token_hex(4)}"
        bed.postgres.ensure_database(self.name, timescale=engine == "timescale")
        migrate(self.url("esp_auth_owner"), engine)
        self.settings = AuthSettings(
            database_url=self.url("esp_auth"),
            amqp_url=bed.rabbitmq.url_for("auth"),
            master_key=base64.b64encode(os.urandom(32)).decode(),
        )

    def url(self, role: str) -> str:
        """Return the database's URL for a role."""
        return self.bed.postgres.url(role, self.name)

    def admin(self, statement: str, *parameters: object) -> list[Any]:
        """Run a statement as the superuser; return its rows."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def forget(self) -> None:
        """Return to an empty log and queue."""
        self.admin("TRUNCATE auth.audit_log, auth.outbox")
        self.admin("UPDATE auth.audit_head SET seq = 0, hash = %s", bytes(32))
        self.bed.rabbitmq.api("DELETE", f"queues/%2F/{topology.AUTH_AUDIT}/contents")

    def worker(self) -> Role:
        """Return the worker."""
        environment = {
            "DATABASE_URL": self.settings.database_url,
            "AMQP_URL": self.settings.amqp_url,
            "REDIS_URL": self.bed.redis.url,
            "MASTER_KEY": self.settings.master_key,
            "LOG_LEVEL": "WARNING",
        }
        return Role(self.bed, "auth", "worker", environment)


def audit(bed: Bed, size: Size) -> Iterator[Figure]:
    """Measure both sizes of messages on every engine."""
    for engine in bed.engines:
        yield from _on_engine(_Log(bed, engine), size)


def _on_engine(log: _Log, size: Size) -> Iterator[Figure]:
    records = _records(size.readings // 3)
    links = extend(bytes(32), EMPTY, map(record_of, records))
    messages = {each: _messages(records, each) for each in (100, 1)}
    rates = defaultdict[object, list[float]](list)
    for _ in range(size.rounds):
        log.forget()
        rates["copy"].append(uvloop.run(_copy_rate(log, links)))
        for each in messages:
            rate, core_rate = _writer_rates(log, messages[each], len(records))
            rates[each].append(rate)
            rates["core", each].append(core_rate)
            rates["verify"].append(uvloop.run(_verify_rate(log, len(records))))
    for each, target in ((100, TARGET), (1, None)):
        name, unit = f"{log.engine}: audit records, {each} a message", "records/s"
        yield Figure(name, rates[each], unit, rates["copy"], target, "measured", note="bare COPY")
        yield Figure(f"{name}, a second of the writer's processor time", rates["core", each], unit)
    yield Figure(f"{log.engine}: audit records verified", rates["verify"], "records/s")


def _records(count: int) -> Records:
    """Return what services say of requests a millisecond apart, up to now."""
    first = datetime.now(UTC) - timedelta(milliseconds=count)
    return [
        {
            "id": str(uuid4()),
            "time": (first + timedelta(milliseconds=number)).isoformat(),
            "service": "ingest",
            "actor_id": f"gw-{number % 50:02d}",
            "actor_kind": "key",
            "action": "GET /api/v1/pumps/{id}/telemetry",
            "object": f"/api/v1/pumps/SIM-{number % 500:03d}/telemetry",
            "outcome": "success" if number % 20 else "denied",
            "status": 200 if number % 20 else 403,
            "source_address": f"10.0.0.{number % 250}",
            "trace_id": f"{number:032x}",
            "count": 1,
            "detail": {"channels": 4, "resolution": "auto"},
        }
        for number in range(count)
    ]


def _messages(records: Records, each: int) -> list[bytes]:
    return [orjson.dumps({"records": records[at : at + each]}) for at in range(0, len(records), each)]


async def _copy_rate(log: _Log, links: Sequence[Link]) -> float:
    """Return records a second of bare COPY."""
    rows = [row_of(link) for link in links]
    if log.engine == "postgres":
        mondays = {link.record.time.date() - timedelta(link.record.time.weekday()) for link in links}
        log.admin("SELECT auth.ensure_audit_weeks(%s)", sorted(mondays))
    connection: Any = await asyncpg.connect(log.settings.database_url)
    try:
        start = perf_counter()
        for at in range(0, len(rows), BATCH_RECORDS):
            batch = rows[at : at + BATCH_RECORDS]
            await connection.copy_records_to_table(
                "audit_log", schema_name="auth", columns=COLUMNS, records=batch
            )
        return len(rows) / (perf_counter() - start)
    finally:
        await connection.close()


def _writer_rates(log: _Log, messages: Sequence[bytes], records: int) -> tuple[float, float]:
    """Return records a second, of the clock and of the writer's processor time, after the first batch."""
    log.forget()
    asyncio.run(_publish(log.bed.rabbitmq.url_for("ingest"), messages))
    with (
        log.worker().running(ready=False) as worker,
        psycopg.connect(log.url("postgres"), autocommit=True) as connection,
    ):
        writer = psutil.Process(worker.pid)
        first = _await_head(connection, writer, 1)
        last = _await_head(connection, writer, records)
    stored = log.admin("SELECT count(*), count(DISTINCT id) FROM auth.audit_log")[0]
    if stored != (records, records):
        raise SystemExit(f"{records} audit records published, {stored} stored")
    seqs, clock_s, core_s = (after - before for before, after in zip(first, last, strict=True))
    return seqs / clock_s, seqs / core_s


def _await_head(connection: Any, writer: psutil.Process, seq: int) -> tuple[int, float, float]:
    """Poll until the log has `seq` records; return how many it has, and the clock's and processor's time."""
    deadline = monotonic() + DRAIN_S
    while monotonic() < deadline:
        head = connection.execute("SELECT seq FROM auth.audit_head").fetchone()[0]
        if head >= seq:
            used = writer.cpu_times()
            return head, perf_counter(), used.user + used.system
        sleep(POLL_S)
    raise SystemExit(f"{seq} audit records: not within {DRAIN_S} s")


async def _verify_rate(log: _Log, records: int) -> float:
    async with asyncpg.create_pool(log.settings.database_url, min_size=1) as pool:
        start = perf_counter()
        verification = await AuditLog(pool, chain_key(log.settings)).verify()
        took_s = perf_counter() - start
    if not verification.verdict.intact or verification.verdict.records != records:
        raise SystemExit(f"the log is not what was written: {verification.to_json()}")
    return records / took_s


async def _publish(url: str, messages: Sequence[bytes]) -> None:
    """Publish and return when the broker has confirmed every message."""
    headers: Any = Event("audit.recorded", "ingest", "requests", None).headers()
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True)
        exchange = await channel.get_exchange(topology.AUDIT, ensure=False)
        room = asyncio.Semaphore(IN_FLIGHT)

        async def send(body: bytes) -> None:
            message = aio_pika.Message(
                body,
                headers=headers,
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                user_id="ingest",
            )
            async with room:
                await exchange.publish(message, "ingest.requests")

        await asyncio.gather(*map(send, messages))


if __name__ == "__main__":
    main(audit)
