"""The auth service's schema: made by its owner, and open to its role only as far as it must be."""

from typing import Any

import asyncpg
import pytest
from esp_auth.store.migrations import migrate
from esp_platform.databases import AUTH_OWNER

Database = Any
STRANGERS = ("esp_ingest", "esp_ingest_owner", "esp_diagnostics", "esp_archiver", "esp_backup")


@pytest.fixture(scope="module")
def migrated(database: Database) -> Database:
    """The database with the schema in it."""
    assert migrate(database.url(AUTH_OWNER)) == database.engine
    return database


def test_migrating_again_changes_nothing(migrated: Database) -> None:
    assert migrate(migrated.url(AUTH_OWNER)) == migrated.engine


@pytest.mark.parametrize("role", STRANGERS)
async def test_no_other_service_sees_it(role: str, migrated: Database) -> None:
    connection = await asyncpg.connect(migrated.url(role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("SELECT * FROM auth.users")
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE auth.other ()",
        "CREATE SCHEMA other",
        "CREATE TEMPORARY TABLE other ()",
        "DROP TABLE auth.users",
        "DELETE FROM auth.api_keys",
        "UPDATE auth.signing_keys SET kid = kid",
        "UPDATE auth.outbox SET body = body",
        "INSERT INTO auth.revocations_version VALUES (true, 1)",
    ],
)
async def test_the_service_may_not(statement: str, migrated: Database) -> None:
    connection = await asyncpg.connect(migrated.url("esp_auth"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
    await connection.close()


PUBLISHED = "SELECT count(*) FROM audit_v1.records UNION ALL SELECT seq FROM audit_v1.head"


async def test_the_archiver_reads_the_published_views(migrated: Database) -> None:
    connection = await asyncpg.connect(migrated.url("esp_archiver"))
    assert [row[0] for row in await connection.fetch(PUBLISHED)] == [0, 0]
    await connection.close()


@pytest.mark.parametrize("role", sorted(set(STRANGERS) - {"esp_archiver"}))
async def test_nobody_else_reads_them(role: str, migrated: Database) -> None:
    connection = await asyncpg.connect(migrated.url(role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch(PUBLISHED)
    await connection.close()
