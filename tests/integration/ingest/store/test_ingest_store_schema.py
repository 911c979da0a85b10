"""The schema says what the catalogue says, and shows each role what is meant for it and nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from esp_common.contracts.channels import CHANNEL_NAMES, CHANNELS
from esp_ingest.store.migrations import migrate

READERS = ("esp_diagnostics", "esp_archiver")
STRANGERS = ("esp_auth", "esp_backup")
GRAINS = ("1min", "1hour", "1day")
VIEWS = {
    *("fields", "wells", "pumps", "gateways", "gateway_pumps", "readings", "dropped_days"),
    *(f"readings_{grain}" for grain in GRAINS),
}

OURS = """
SELECT format('%I.%I', nspname, relname) AS name, nspname AS schema, relname AS relation
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'S')
  AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'timescaledb_information',
                      'timescaledb_experimental')
  AND nspname NOT LIKE '\\_timescaledb\\_ca%' AND nspname NOT LIKE '\\_timescaledb\\_con%'
  AND nspname NOT LIKE '\\_timescaledb\\_deb%'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
"""

CHANGES = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
HAS_RIGHT = """
SELECT bool_or(has_table_privilege(c.oid, $2))
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE format('%I.%I', nspname, relname) = $1
"""


@asynccontextmanager
async def as_role(stored: Any, role: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await asyncpg.connect(stored.database.url(role))
    try:
        yield connection
    finally:
        await connection.close()


async def columns(stored: Any, schema: str, relation: str) -> list[str]:
    rows = await stored.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = format('%I.%I', $1::text, $2::text)::regclass"
        " AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        schema,
        relation,
    )
    return [row["attname"] for row in rows]


async def test_the_databases_catalogue_is_the_contracts(stored: Any) -> None:
    rows = await stored.rows("SELECT * FROM ingest.channels ORDER BY position")
    assert [tuple(row) for row in rows] == [
        (position, channel.name, channel.unit, round(1 / channel.resolution))
        for position, channel in enumerate(CHANNELS)
    ]


async def test_tables_and_views_have_the_catalogues_columns(stored: Any) -> None:
    state = ["running", "trip_code"]
    masks = ["fault_mask", "frozen_mask"]
    marks = ["refused_mask", "clamped_mask"]
    table = ["pump_no", "time", *CHANNEL_NAMES, *state, *masks, *marks]
    assert await columns(stored, "ingest", "telemetry") == table
    flags = ["fault_channels", "frozen_channels"]
    view = ["pump_id", "field_id", "time", *CHANNEL_NAMES, *state, *flags, *masks]
    view += ["refused_channels", "clamped_channels", *marks]
    assert await columns(stored, "telemetry_v1", "readings") == view
    for grain in GRAINS:
        sums = [f"{name}_{part}" for name in CHANNEL_NAMES for part in ("sum", "count", "min", "max")]
        head = ["pump_id", "bucket", "readings", "running_known", "running_count", *masks]
        assert await columns(stored, "ingest", f"telemetry_{grain}") == [*head, *sums]
        parts = [f"{name}_{part}" for name in CHANNEL_NAMES for part in ("avg", "min", "max", "count")]
        head = ["pump_id", "field_id", "bucket", "readings", "running_share"]
        assert await columns(stored, "telemetry_v1", f"readings_{grain}") == [*head, *parts, *flags]


async def test_migrating_again_changes_nothing(stored: Any) -> None:
    before = await stored.rows(OURS + "ORDER BY 1")
    assert migrate(stored.database.url("esp_ingest_owner")) == stored.engine
    assert await stored.rows(OURS + "ORDER BY 1") == before


@pytest.fixture(scope="module")
async def relations(stored: Any, batch_of: Any) -> list[asyncpg.Record]:
    """Every table, view and sequence that is not the server's own, with chunks or partitions among them."""
    days = [datetime(2020, 3, 9, tzinfo=UTC), datetime.now(UTC)]
    await stored.write(batch_of([(1, day) for day in days], choke_pct=1))
    await stored.compress(days[0])
    found: list[asyncpg.Record] = await stored.rows(OURS)
    assert len(found) > 25
    return found


@pytest.mark.parametrize("role", READERS)
async def test_a_reading_service_sees_the_views_and_nothing_else(
    stored: Any, relations: list[asyncpg.Record], role: str
) -> None:
    async with as_role(stored, role) as connection:
        seen = set()
        for name, schema, relation in relations:
            if schema == "telemetry_v1":
                await connection.fetch(f"SELECT * FROM {name} LIMIT 1")
                seen.add(relation)
            else:
                await _may_not_read(connection, name)
            assert not await connection.fetchval(HAS_RIGHT, name, CHANGES)
        assert seen == VIEWS
        await _may_make_nothing(connection)


@pytest.mark.parametrize("role", STRANGERS)
async def test_other_services_see_nothing(stored: Any, relations: list[asyncpg.Record], role: str) -> None:
    async with as_role(stored, role) as connection:
        for name, _, _ in relations:
            await _may_not_read(connection, name)
            assert not await connection.fetchval(HAS_RIGHT, name, CHANGES)
        await _may_make_nothing(connection)


async def _may_not_read(connection: "asyncpg.Connection[Any]", name: str) -> None:
    # TimescaleDB's planner trips over some internal chunks before rights are looked at: so both ways.
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.DataCorruptedError)):
        await connection.fetch(f"SELECT * FROM {name} LIMIT 1")
    assert not await connection.fetchval(HAS_RIGHT, name, "SELECT")


async def _may_make_nothing(connection: "asyncpg.Connection[Any]") -> None:
    for schema in ("ingest", "telemetry_v1", "public", "pg_temp"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"CREATE TABLE {schema}.mine (x int)")
    for call in ("ensure_partitions('{}')", "drop_day('2020-01-01')", "raw_days()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"SELECT ingest.{call}")


async def test_the_runtime_role_has_only_the_rights_it_uses(stored: Any) -> None:
    async with as_role(stored, "esp_ingest") as connection:
        for statement in (
            "CREATE TABLE ingest.mine (x int)",
            "TRUNCATE ingest.telemetry",
            "DROP TABLE ingest.telemetry",
            "ALTER TABLE ingest.telemetry ADD COLUMN x int",
            "SELECT ingest.drop_day('2020-01-01')",
            "UPDATE ingest.ledger SET stored = 0",
            "UPDATE ingest.quality_hours SET score = 100",
            "DELETE FROM ingest.dropped_chunks",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
