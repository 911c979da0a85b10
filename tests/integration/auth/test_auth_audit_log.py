"""The audit log on real servers: appended to and never changed, read, taken away, and proved to be whole."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
from esp_auth.audit import EXPORTED, HEAD_NOTED, AuditLog, ExportFormat, note_head, shown
from esp_auth.domain.chain import Head, Kind, Link, Record, microseconds
from esp_auth.domain.records import record_of
from esp_auth.store.audit import AuditFilter, AuditStore, monday
from esp_auth.store.migrations import migrate
from esp_common.errors import InvalidInput

KEY = b"c" * 32
ALL = AuditFilter()
NOW = datetime.now(UTC).replace(microsecond=0)


def record(number: int = 0, **fields: Any) -> Record:
    """A record of its own, `number` ms after a minute ago."""
    whole: dict[str, Any] = {
        "id": str(uuid4()),
        "time": (NOW + timedelta(milliseconds=number, minutes=-1)).isoformat(),
        "service": "ingest",
        "actor_id": "gw-01",
        "actor_kind": "key",
        "action": "GET /api/v1/pumps/{id}",
        "object": f"/api/v1/pumps/SIM-{number:03d}",
        "outcome": "success",
        "status": 200,
        "source_address": "10.0.0.1",
        "trace_id": "t-1",
        "count": 1,
        "detail": {"n": number},
    }
    return record_of(whole | fields)


@dataclass
class Log:
    """One engine's log: as the service has it, and as a superuser gets at it."""

    engine: str
    pool: "asyncpg.Pool[Any]"
    admin: "asyncpg.Pool[Any]"
    owner_url: str

    @property
    def store(self) -> AuditStore:
        return AuditStore(self.pool, KEY)

    @property
    def trail(self) -> AuditLog:
        return AuditLog(self.pool, KEY)

    async def fill(self, count: int, **fields: Any) -> list[Record]:
        records = [record(number, **fields) for number in range(count)]
        await self.store.append(records)
        return records

    async def head(self) -> Head:
        return Head(*await self.admin.fetchrow("SELECT seq, hash FROM auth.audit_head"))

    async def count(self) -> int:
        return int(await self.admin.fetchval("SELECT count(*) FROM auth.audit_log"))

    async def found(self, **asked: Any) -> list[tuple[str, int, int]]:
        """What verifying finds."""
        verification = await self.trail.verify(**asked)
        return [(str(each.kind), each.seq, each.until_seq) for each in verification.verdict.findings]


@pytest.fixture(scope="module")
async def servers(database: Any) -> AsyncIterator[Log]:
    assert migrate(database.url("esp_auth_owner"), database.engine) == database.engine
    async with (
        asyncpg.create_pool(database.url("esp_auth"), min_size=0, max_size=4) as pool,
        asyncpg.create_pool(database.admin_url, min_size=0, max_size=4) as admin,
    ):
        yield Log(database.engine, pool, admin, database.url("esp_auth_owner"))


@pytest.fixture
async def log(servers: Log) -> Log:
    """The log, empty."""
    await servers.admin.execute("TRUNCATE auth.audit_log")
    await servers.admin.execute("UPDATE auth.audit_head SET seq = 0, hash = $1", bytes(32))
    await servers.admin.execute("DELETE FROM auth.outbox")
    return servers


# --- storing ----------------------------------------------------------------------------------------------


async def test_records_come_back_as_they_were_sealed(log: Log) -> None:
    odd = [
        {"detail": {"a": 0.1, "b": 1e300, "c": -0.0, "d": 1e16, "e": 2**63, "f": -(2**63), "g": 5e-324}},
        {"detail": {"ü": "\u2028\U0001f600", "": [[], {}, None, True], "z": {"y": 1, "a": 2}}},
        {"object": "\x01\x7f\\N\t\r\n\"'", "actor_id": None, "status": None, "trace_id": None},
        {"object": "", "detail": {"nul": "a\0b"}},
    ]
    records = [record(number, **fields) for number, fields in enumerate(odd)]
    stored, head = await log.store.append(records)
    assert (stored, head.seq) == (4, 4)
    assert await log.found() == []
    page = await log.trail.page(AuditFilter(), None, 10)
    assert [link.record for link in reversed(page)] == records


async def test_a_record_is_stored_once_however_often_it_comes(log: Log) -> None:
    first, second, third = (record(number) for number in range(3))
    assert (await log.store.append([first, second, first]))[0] == 2
    assert (await log.store.append([second, third]))[0] == 1
    assert (await log.store.append([first, second, third], repeated=True))[0] == 0
    assert (await log.head()).seq == await log.count() == 3
    assert await log.found() == []


async def test_writers_at_once_make_one_chain(log: Log) -> None:
    records = [record(number) for number in range(1200)]
    # Each record is given to two writers, in batches that overlap.
    batches = [records[at : at + 100] for at in range(0, 1200, 50)]
    stores = [log.store for _ in range(4)]
    stored = await asyncio.gather(*(stores[number % 4].append(batch) for number, batch in enumerate(batches)))
    assert sum(count for count, _ in stored) == await log.count() == 1200
    assert await log.found() == []


@pytest.mark.parametrize("time", ["0002-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9998-12-31T23:59:59Z"])
async def test_a_time_however_odd_is_stored(log: Log, time: str) -> None:
    await log.fill(1)
    odd = record(0, time=time)
    await log.store.append([odd])
    assert await log.found() == []
    (link,) = await log.trail.page(AuditFilter(since=odd.time, until=odd.time + timedelta(1)), None, 10)
    assert link.record == odd


async def test_a_batch_over_many_weeks_is_stored_whole(log: Log) -> None:
    records = [record(0, time=(NOW - timedelta(days=number * 5)).isoformat()) for number in range(40)]
    writers = [log.store for _ in range(3)]
    await asyncio.gather(*(writer.append(records) for writer in writers))
    assert await log.count() == 40
    assert await log.found() == []


async def test_parts_are_weeks(log: Log) -> None:
    await log.store.append([record(0, time=f"2026-03-{day:02d}T12:00:00Z") for day in range(1, 30)])
    parts = await log.admin.fetchval("SELECT count(DISTINCT tableoid) FROM auth.audit_log")
    assert parts in (5, 6)


def test_a_week_begins_on_monday_utc() -> None:
    for text, day in (
        ("2026-11-22T23:59:59.999999Z", "2026-11-16"),
        ("2026-11-23T00:00:00Z", "2026-11-23"),
        ("0002-01-01T00:00:00Z", "0001-12-31"),
    ):
        assert monday(microseconds(datetime.fromisoformat(text))).isoformat() == day


# --- only ever added to -----------------------------------------------------------------------------------

FORBIDDEN = (
    "UPDATE auth.audit_log SET object = 'x'",
    "UPDATE auth.audit_log SET hash = '\\x00' WHERE seq = 1",
    "DELETE FROM auth.audit_log",
    "TRUNCATE auth.audit_log",
    "DROP TABLE auth.audit_log",
    "ALTER TABLE auth.audit_log OWNER TO esp_auth",
    "ALTER TABLE auth.audit_log DISABLE TRIGGER ALL",
    "ALTER TABLE auth.audit_log ADD COLUMN x int",
    "CREATE RULE r AS ON INSERT TO auth.audit_log DO INSTEAD NOTHING",
    "CREATE TRIGGER t BEFORE INSERT ON auth.audit_log EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE INDEX ON auth.audit_log (status)",
    "DELETE FROM auth.audit_head",
    "INSERT INTO auth.audit_head VALUES (false, 1, '')",
    "UPDATE auth.audit_head SET singleton = false",
    "TRUNCATE auth.audit_head",
    "DROP SCHEMA auth CASCADE",
    "CREATE TABLE auth.another (x int)",
    "SET ROLE esp_auth_owner",
    "SET session_replication_role = 'replica'",
    "INSERT INTO auth.audit_log TABLE auth.audit_log ON CONFLICT (id, time) DO UPDATE SET object = 'x'",
)


@pytest.mark.parametrize("statement", FORBIDDEN, ids=lambda statement: " ".join(statement.split()[:5]))
async def test_the_service_may_not_change_what_is_stored(log: Log, statement: str) -> None:
    await log.fill(2)
    # Of a hypertable nobody may make rules, not even its owner.
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)):
        await log.pool.execute(statement)
    assert await log.found() == []


async def test_nor_may_it_by_the_parts_of_the_table(log: Log) -> None:
    await log.fill(2)
    part = await log.admin.fetchval("SELECT tableoid::regclass::text FROM auth.audit_log LIMIT 1")
    for statement in (
        f"UPDATE {part} SET object = ''",
        f"DELETE FROM {part}",
        f"TRUNCATE {part}",
        f"DROP TABLE {part}",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await log.pool.execute(statement)
    if log.engine == "timescale":
        with pytest.raises(asyncpg.PostgresError, match="owner"):
            await log.pool.execute("SELECT drop_chunks('auth.audit_log', now())")
    assert await log.count() == 2


async def test_others_see_nothing_of_it(log: Log) -> None:
    roles = ("esp_ingest", "esp_ingest_owner", "esp_diagnostics", "esp_archiver", "esp_backup")
    for role in roles:
        assert not await log.admin.fetchval("SELECT has_schema_privilege($1, 'auth', 'USAGE')", role)


async def test_a_week_that_is_none_is_refused(log: Log) -> None:
    if log.engine == "postgres":
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await log.pool.execute("SELECT auth.ensure_audit_weeks(ARRAY['2026-11-24'::date])")


# --- tampering --------------------------------------------------------------------------------------------

CHANGES = {
    "object": "'other'",
    "time": "time + interval '1 microsecond'",
    "time_endless": "'infinity'",
    "time_ancient": "'4000-01-01 BC'",
    "id": "gen_random_uuid()",
    "actor_id": "NULL",
    "status": "500",
    "count": "count + 1",
    "detail": "detail || '{\"n\": 3.0}'",
    "detail_huge": "'1e400'",
    "hash": "'\\x00'",
}


@pytest.mark.parametrize("column", sorted(CHANGES))
async def test_an_update_is_found(log: Log, column: str) -> None:
    await log.fill(5)
    if log.engine == "timescale" and column.startswith("time_"):
        pytest.skip("the row would have to move to another chunk")
    await log.store.append([record(0, time="4000-01-01T00:00:00Z")])
    if log.engine == "postgres" and column.startswith("time_"):
        await log.admin.execute("CREATE TABLE auth.audit_odd PARTITION OF auth.audit_log DEFAULT")
    try:
        name = column.partition("_")[0] if column.startswith(("time", "detail")) else column
        await log.admin.execute(f"UPDATE auth.audit_log SET {name} = {CHANGES[column]} WHERE seq = 3")
        assert await log.found() == [("changed", 3, 3)]
    finally:
        await log.admin.execute("DROP TABLE IF EXISTS auth.audit_odd")


async def test_a_delete_is_found(log: Log) -> None:
    await log.fill(9)
    await log.admin.execute("DELETE FROM auth.audit_log WHERE seq IN (1, 4, 5)")
    assert await log.found() == [("missing", 1, 1), ("missing", 4, 5)]


async def test_records_that_changed_places_are_found(log: Log) -> None:
    await log.fill(9)
    await log.admin.execute(
        "UPDATE auth.audit_log SET seq = CASE seq WHEN 3 THEN 7 ELSE 3 END WHERE seq IN (3, 7)"
    )
    assert await log.found() == [("reordered", 3, 3), ("reordered", 7, 7)]


@pytest.mark.parametrize(("seq", "kind"), [(2, "forged"), (0, "forged"), (4, "forged")])
async def test_an_insert_is_found(log: Log, seq: int, kind: str) -> None:
    await log.fill(3)
    await log.admin.execute(
        "INSERT INTO auth.audit_log SELECT $1::bigint, time, gen_random_uuid(), service, actor_id,"
        " actor_kind, action, object, outcome, status, source_address, trace_id, count, detail, hash"
        " FROM auth.audit_log WHERE seq = 2",
        seq,
    )
    assert (kind, seq, seq) in await log.found()


async def test_a_table_that_was_cut_is_found_by_its_head(log: Log) -> None:
    await log.fill(6)
    await log.admin.execute("DELETE FROM auth.audit_log WHERE seq > 4")
    assert await log.found() == [("truncated", 5, 6)]
    await log.admin.execute("TRUNCATE auth.audit_log")
    assert await log.found() == [("truncated", 1, 6)]


async def rewind(log: Log, seq: int) -> None:
    """Cut the table together with its head, as somebody would who knows how it works."""
    hash_ = await log.admin.fetchval("SELECT hash FROM auth.audit_log WHERE seq = $1", seq)
    await log.admin.execute("DELETE FROM auth.audit_log WHERE seq > $1", seq)
    await log.admin.execute("UPDATE auth.audit_head SET seq = $1, hash = $2", seq, hash_)


async def test_a_table_that_was_cut_with_its_head_is_found_by_a_noted_head(log: Log) -> None:
    await log.fill(6)
    async with log.pool.acquire() as connection, connection.transaction():
        noted = await note_head(connection)
    assert await log.found(noted=[noted]) == []
    await rewind(log, 4)
    assert await log.found() == [], "nothing inside can tell"
    assert await log.found(noted=[noted]) == [("truncated", 6, 6)]
    await log.fill(5)
    assert await log.found(noted=[noted]) == [("truncated", 6, 6)], "grown again, and not the same"


async def test_a_table_that_was_cut_with_its_head_is_found_by_who_saw_it_before(log: Log) -> None:
    await log.fill(6)
    trail = log.trail
    assert (await trail.verify()).verdict.intact
    await rewind(log, 4)
    assert [finding.kind for finding in (await trail.verify()).verdict.findings] == [Kind.TRUNCATED]


async def test_a_head_that_was_moved_or_removed_is_found(log: Log) -> None:
    await log.fill(3)
    await log.admin.execute("UPDATE auth.audit_head SET seq = 2")
    assert ("forged", 3, 3) in await log.found()
    await log.admin.execute("UPDATE auth.audit_head SET seq = 3, hash = '\\x00'")
    assert await log.found() == [("truncated", 3, 3)]
    await log.admin.execute("DELETE FROM auth.audit_head")
    try:
        assert await log.found() == [("truncated", 4, 4)]
    finally:
        await log.admin.execute("INSERT INTO auth.audit_head (seq, hash) VALUES (0, '')")


async def test_a_range_is_verified_by_itself(log: Log) -> None:
    await log.fill(9)
    await log.admin.execute("UPDATE auth.audit_log SET object = '' WHERE seq = 5")
    assert await log.found(to_seq=4) == []
    assert await log.found(from_seq=6) == []
    assert await log.found(from_seq=5, to_seq=5) == [("changed", 5, 5)]
    verification = await log.trail.verify(4, 7)
    assert (verification.from_seq, verification.to_seq, verification.verdict.records) == (4, 7, 4)
    for nonsense in ({"from_seq": 3, "to_seq": 2}, {"from_seq": 10}):
        with pytest.raises(InvalidInput):
            await log.trail.verify(**nonsense)


async def test_an_empty_log_is_intact(log: Log) -> None:
    verification = (await log.trail.verify()).to_json()
    assert (verification["intact"], verification["records"]) == (True, 0)
    assert verification["head"] == {"seq": 0, "hash": "00" * 32}


async def test_records_appended_meanwhile_do_not_disturb_verifying(log: Log) -> None:
    await log.fill(5000)

    async def write() -> None:
        for _ in range(20):
            await log.fill(50)

    writing = asyncio.create_task(write())
    while not writing.done():
        assert await log.found() == []
    await writing
    assert await log.found() == []


async def test_the_head_is_noted_as_an_event(log: Log) -> None:
    await log.fill(3)
    async with log.pool.acquire() as connection, connection.transaction():
        head = await note_head(connection)
    row = await log.admin.fetchrow("SELECT exchange, routing_key, body FROM auth.outbox")
    assert (row["exchange"], row["routing_key"]) == ("esp.events", HEAD_NOTED)
    assert orjson.loads(row["body"]) == {"seq": 3, "hash": head.hash.hex()}


# --- reading ----------------------------------------------------------------------------------------------


async def _all(trail: AuditLog, wanted: AuditFilter, limit: int) -> list[Link]:
    links: list[Link] = []
    after = None
    while page := await trail.page(wanted, after, limit):
        links += page
        after = (page[-1].record.time, page[-1].seq)
    return links


async def test_pages_are_the_whole_newest_first(log: Log) -> None:
    records = await log.fill(25)
    same_time = [replace(record(30), time_us=records[3].time_us) for _ in range(8)]
    await log.store.append(same_time)
    links = await _all(log.trail, AuditFilter(), 4)
    keys = [(link.record.time_us, link.seq) for link in links]
    assert keys == sorted(keys, reverse=True)
    assert {link.record.id for link in links} == {each.id for each in [*records, *same_time]}


async def test_filters_give_what_fits_and_nothing_else(log: Log) -> None:
    records = [
        record(
            number,
            actor_id=["gw-01", "ann", None][number % 3],
            action=["GET /a", "api-key.revoke"][number % 2],
            object=f"/o/{number % 4}",
            service=["ingest", "auth"][number % 2],
            outcome=["success", "success", "success", "denied", "failed"][number % 5],
        )
        for number in range(60)
    ]
    await log.store.append(records)
    since, until = records[10].time, records[50].time
    for wanted in (
        AuditFilter(actor="ann"),
        AuditFilter(action="api-key.revoke", outcome="denied"),
        AuditFilter(object="/o/3", service="auth"),
        AuditFilter(outcome="failed"),
        AuditFilter(outcome="success", actor="gw-01"),
        AuditFilter(since=since, until=until),
        AuditFilter(actor="ann", since=since),
        AuditFilter(actor="nobody"),
    ):
        fits = {
            each.id
            for each in records
            if wanted.actor in (None, each.actor_id)
            and wanted.action in (None, each.action)
            and wanted.object in (None, each.object)
            and wanted.service in (None, each.service)
            and wanted.outcome in (None, each.outcome)
            and (wanted.since is None or each.time >= wanted.since)
            and (wanted.until is None or each.time < wanted.until)
        }
        assert {link.record.id for link in await _all(log.trail, wanted, 7)} == fits


async def _exported(trail: AuditLog, form: ExportFormat, wanted: AuditFilter = ALL) -> bytes:
    return b"".join([part async for part in trail.export(form, wanted)])


async def test_an_export_is_the_table(log: Log) -> None:
    await log.fill(4500)
    await log.store.append([record(9, actor_id=None, status=None, object='a "quoted", line\nbreak')])
    table = [shown(link) for link in await _all(log.trail, AuditFilter(), 1000)]
    lines = (await _exported(log.trail, ExportFormat.JSONL)).splitlines()
    assert [orjson.loads(line) for line in lines] == table
    rows = list(csv.reader(io.StringIO((await _exported(log.trail, ExportFormat.CSV)).decode(), newline="")))
    assert tuple(rows[0]) == EXPORTED
    assert rows[1:] == [
        [
            "" if cell is None else orjson.dumps(cell).decode() if name == "detail" else str(cell)
            for name, cell in row.items()
        ]
        for row in table
    ]


async def test_an_export_is_filtered(log: Log) -> None:
    await log.fill(3)
    await log.fill(2, actor_id="ann")
    lines = (await _exported(log.trail, ExportFormat.JSONL, AuditFilter(actor="ann"))).splitlines()
    assert [orjson.loads(line)["actor_id"] for line in lines] == ["ann", "ann"]


async def test_an_export_is_of_one_moment(log: Log) -> None:
    await log.fill(4100)
    parts = log.trail.export(ExportFormat.JSONL, AuditFilter())
    lines = (await anext(parts)).splitlines()
    await log.fill(10)
    async for part in parts:
        lines += part.splitlines()
    assert len(lines) == 4100


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
async def test_a_spreadsheet_takes_no_cell_for_a_formula(log: Log, text: str) -> None:
    await log.store.append([record(0, actor_id=text, object=text)])
    exported = (await _exported(log.trail, ExportFormat.CSV)).decode()
    row = next(csv.DictReader(io.StringIO(exported, newline="")))
    assert (row["actor_id"], row["object"]) == (f"'{text}", f"'{text}")


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


@pytest.mark.parametrize("asked", ["actor", "object", "action", "outcome", "time", "nothing"])
async def test_a_page_of_a_long_log_reads_an_index(log: Log, asked: str) -> None:
    for _ in range(4):
        await log.store.append(
            [
                record(
                    number,
                    actor_id=f"a-{number % 500}",
                    object=f"o-{number % 700}",
                    action=f"act-{number % 300}",
                    outcome="denied" if number % 400 == 0 else "success",
                )
                for number in range(5000)
            ]
        )
    await log.admin.execute("ANALYZE auth.audit_log")
    wanted = {
        "actor": AuditFilter(actor="a-7"),
        "object": AuditFilter(object="o-7"),
        "action": AuditFilter(action="act-7"),
        "outcome": AuditFilter(outcome="denied"),
        "time": AuditFilter(since=NOW - timedelta(hours=1), until=NOW),
        "nothing": AuditFilter(),
    }[asked]
    conditions, parameters = wanted.conditions()
    plan = await log.pool.fetchval(
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM auth.audit_log"
        f" WHERE {' AND '.join(conditions)} ORDER BY time DESC, seq DESC LIMIT 100",
        *parameters,
    )
    nodes = list(_nodes(orjson.loads(plan)[0]["Plan"]))
    assert sum(node["Actual Rows"] for node in nodes if "Scan" in node["Node Type"]) < 1000
    assert sum(node.get("Rows Removed by Filter", 0) for node in nodes) == 0
