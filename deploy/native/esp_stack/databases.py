"""The database roles and databases of the platform: one definition for the stack and for the tests."""

from collections.abc import Mapping

import psycopg
from psycopg import sql

OWNER = "esp_ingest_owner"
AUTH_OWNER = "esp_auth_owner"
DIAGNOSTICS_OWNER = "esp_diagnostics_owner"
ARCHIVER_OWNER = "esp_archiver_owner"
BACKUP_OWNER = "esp_backup_owner"
SCHEMA_MAKERS = (AUTH_OWNER, DIAGNOSTICS_OWNER, ARCHIVER_OWNER, BACKUP_OWNER)
"""Roles that own a schema of a database that is not theirs."""
ROLES = (
    OWNER,
    "esp_ingest",
    *SCHEMA_MAKERS,
    "esp_auth",
    "esp_diagnostics",
    "esp_archiver",
    "esp_backup",
)
TEMPORARY_TABLES = ("esp_ingest",)
"""Roles that stage what they write in temporary tables."""


def ensure_roles(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Create the login roles of `passwords`, or set their passwords; only verifiers travel to the server."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        existing = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
        for role, password in passwords.items():
            verifier = connection.pgconn.encrypt_password(
                password.encode(), role.encode(), b"scram-sha-256"
            ).decode()
            verb = sql.SQL("ALTER" if role in existing else "CREATE")
            statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(verb, sql.Identifier(role), sql.Literal(verifier)))


def ensure_database(admin_url: str, name: str, *, timescale: bool) -> None:
    """Create database `name`, owned by ingest's owner and closed to everyone without a grant."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER))
            )
        database, roles = sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, ROLES))
        stagers = sql.SQL(", ").join(map(sql.Identifier, TEMPORARY_TABLES))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, roles))
        makers = sql.SQL(", ").join(map(sql.Identifier, SCHEMA_MAKERS))
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, makers))
        connection.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(database, stagers))
    if timescale:
        with psycopg.connect(admin_url, dbname=name, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")


def drop_database(admin_url: str, name: str) -> None:
    """Drop database `name`, whoever is connected to it."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
