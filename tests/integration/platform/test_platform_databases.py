"""The database part of the bootstrap on a real PostgreSQL: idempotent, also for a managed server's admin."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from esp_platform.changes import apply
from esp_platform.databases import (
    LOGIN_MAKER,
    ROLES,
    database_changes,
    has_timescale,
    login_maker_changes,
    role_changes,
)
from esp_stack.servers import Postgres
from psycopg.conninfo import make_conninfo

PASSWORDS = {role: f"{role}-password" for role in ROLES}


@pytest.fixture(scope="module")
def cluster(server_home: Path) -> Iterator[Postgres]:
    """A cluster whose roles may be dropped."""
    server = Postgres(server_home / "platform-postgres", throwaway=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def admin(cluster) -> Iterator[psycopg.Connection]:
    """The superuser of a cluster without roles and databases of the platform."""
    with psycopg.connect(cluster.admin_url, autocommit=True) as connection:
        _remove_everything(connection)
        yield connection


def _remove_everything(connection):
    connection.execute("DROP DATABASE IF EXISTS esp WITH (FORCE)")
    for role in (LOGIN_MAKER, *ROLES, "managed"):
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
            connection.execute(f"DROP OWNED BY {role} CASCADE")
            connection.execute(f"DROP ROLE {role}")


def changes(connection):
    """Every change of the part, in the order in which it is applied."""
    yield from role_changes(connection, PASSWORDS)
    yield from login_maker_changes(connection, "maker")
    yield from database_changes(connection, "esp", timescale=False)


def texts(found):
    return [change.text for change in found]


def test_a_dry_run_announces_what_an_apply_makes_and_a_second_apply_makes_nothing(admin):
    announced = texts(apply(changes(admin), dry_run=True))
    assert announced[0] == "create role esp_ingest_owner"
    assert "create database esp" in announced
    assert "let role esp_vault create members of esp_backup_owner" in announced
    assert admin.execute("SELECT count(*) FROM pg_database WHERE datname = 'esp'").fetchone() == (0,)
    made = texts(apply(changes(admin)))
    assert made == announced
    assert texts(changes(admin)) == []


def test_drift_of_passwords_and_rights_is_mended(admin, cluster):
    apply(changes(admin))
    admin.execute("ALTER ROLE esp_auth PASSWORD 'another'")
    admin.execute("ALTER ROLE esp_backup NOLOGIN")
    admin.execute("GRANT CONNECT ON DATABASE esp TO PUBLIC")
    admin.execute("REVOKE CREATE ON DATABASE esp FROM esp_auth_owner")
    assert texts(apply(changes(admin))) == [
        "set password of role esp_auth",
        "let role esp_backup log in",
        "revoke all rights on database esp from PUBLIC",
        "grant CREATE on database esp to esp_auth_owner",
    ]
    assert texts(changes(admin)) == []
    url = make_conninfo(cluster.admin_url, dbname="esp", user="esp_auth", password=PASSWORDS["esp_auth"])
    psycopg.connect(url).close()


def test_the_administrator_of_a_managed_server_bootstraps_without_superuser_rights(admin, cluster):
    admin.execute("CREATE ROLE managed LOGIN CREATEROLE CREATEDB PASSWORD 'managed'")
    if admin.info.server_version >= 160_000:
        admin.execute("GRANT pg_signal_backend TO managed WITH ADMIN OPTION")
    url = make_conninfo(cluster.admin_url, user="managed", password="managed")
    with psycopg.connect(url, autocommit=True) as connection:
        apply(changes(connection))
        assert texts(changes(connection)) == []
        admin.execute("ALTER ROLE esp_ingest PASSWORD 'another'")
        assert texts(changes(connection)) == ["set password of role esp_ingest"]


def test_the_login_maker_has_admin_option_on_every_role_and_makes_members(admin, cluster):
    apply(changes(admin))
    with psycopg.connect(
        make_conninfo(cluster.admin_url, user=LOGIN_MAKER, password="maker"), autocommit=True
    ) as maker:
        for role in ROLES:
            maker.execute(f"CREATE ROLE made LOGIN IN ROLE {role}")
            maker.execute("DROP ROLE made")
    admin_of = "SELECT count(*) FROM pg_auth_members WHERE member = %s::regrole AND admin_option"
    assert admin.execute(admin_of, (LOGIN_MAKER,)).fetchone() == (len(ROLES),)


@pytest.mark.timescale
def test_the_extension_is_created_once(admin, cluster):
    if not cluster.has_timescale:
        pytest.skip("this machine's PostgreSQL has no TimescaleDB community edition")
    apply(changes(admin))
    assert has_timescale(admin)
    assert texts(apply(database_changes(admin, "esp", timescale=True))) == [
        "create extension timescaledb in database esp"
    ]
    assert texts(database_changes(admin, "esp", timescale=True)) == []
