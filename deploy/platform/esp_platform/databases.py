"""PostgreSQL: the platform's roles, their rights, and its database.

Works as superuser, and as the administrator of a managed server, which has CREATEROLE and CREATEDB only.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import sql

from esp_platform.changes import Change, apply

OWNER: Final = "esp_ingest_owner"
AUTH_OWNER: Final = "esp_auth_owner"
DIAGNOSTICS_OWNER: Final = "esp_diagnostics_owner"
ARCHIVER_OWNER: Final = "esp_archiver_owner"
BACKUP_OWNER: Final = "esp_backup_owner"
SCHEMA_MAKERS: Final = (AUTH_OWNER, DIAGNOSTICS_OWNER, ARCHIVER_OWNER, BACKUP_OWNER)
"""Roles that own a schema of a database that is not theirs."""
ROLES: Final = (
    OWNER,
    "esp_ingest",
    *SCHEMA_MAKERS,
    "esp_auth",
    "esp_diagnostics",
    "esp_archiver",
    "esp_backup",
)
LOGIN_MAKER: Final = "esp_vault"
"""The role as which Vault creates logins."""
TEMPORARY_TABLES: Final = ("esp_ingest",)
"""Roles that stage what they write in temporary tables."""

_SCRAM: Final = re.compile(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):.+")
_RIGHTS: Final = """
SELECT grantee::regrole::text, privilege_type
  FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
 WHERE datname = %s
"""
_ADMIN_MEMBERSHIPS: Final = """
SELECT roleid::regrole::text FROM pg_auth_members WHERE member = to_regrole(%s) AND admin_option
"""
_HAS_TIMESCALE: Final = "SELECT current_setting('timescaledb.license', true) = 'timescale'"
PUBLIC: Final = "-"
"""What PostgreSQL calls everyone in a list of rights."""
_RIGHTS_OF_NEW: Final = {(PUBLIC, "CONNECT"), (OWNER, "CONNECT")}

Connection = psycopg.Connection[tuple[Any, ...]]


def ensure_roles(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Create the login roles of `passwords` or set their passwords, where they differ."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        apply(role_changes(connection, passwords))


def ensure_login_maker(admin_url: str, password: str) -> None:
    """Create the role as which Vault creates logins and ends their sessions."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        apply(login_maker_changes(connection, password))


def ensure_database(admin_url: str, name: str, *, timescale: bool) -> None:
    """Create database `name`, owned by ingest's owner and closed to everyone without a grant."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        apply(database_changes(connection, name, timescale=timescale))


def drop_database(admin_url: str, name: str) -> None:
    """Drop database `name`, whoever is connected to it."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def role_changes(
    connection: Connection, passwords: Mapping[str, str], *, options: str = ""
) -> Iterator[Change]:
    """Find login roles of `passwords` that are missing, cannot log in or have another password.

    `options`: other attributes of a role, as in CREATE ROLE. Only verifiers of passwords are sent.
    """
    present: dict[str, bool] = dict(
        connection.execute("SELECT rolname, rolcanlogin FROM pg_roles").fetchall()
    )
    verifiers = _verifiers(connection)
    for role, password in passwords.items():
        if role not in present:
            text = f"create role {role}"
        elif not present[role]:
            text = f"let role {role} log in"
        elif not _has_password(connection, verifiers, role, password):
            text = f"set password of role {role}"
        else:
            continue
        verb = "ALTER" if role in present else "CREATE"
        yield Change(text, partial(_write_role, connection, verb, role, password, options))


def _write_role(connection: Connection, verb: str, role: str, password: str, options: str) -> None:
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    statement = sql.SQL(f"{verb} ROLE {{}} LOGIN {options} PASSWORD {{}}")
    connection.execute(statement.format(sql.Identifier(role), sql.Literal(verifier)))


def login_maker_changes(connection: Connection, password: str) -> Iterator[Change]:
    """Find what the login maker lacks.

    From PostgreSQL 16 a role needs ADMIN OPTION on each role that it makes others members of.
    """
    yield from role_changes(connection, {LOGIN_MAKER: password}, options="CREATEROLE")
    creates = "SELECT rolcreaterole FROM pg_roles WHERE rolname = %s"
    if connection.execute(creates, (LOGIN_MAKER,)).fetchone() == (False,):
        yield _statement(
            connection, f"let role {LOGIN_MAKER} create roles", "ALTER ROLE {} CREATEROLE", LOGIN_MAKER
        )
    signals = "SELECT pg_has_role(to_regrole(%s), 'pg_signal_backend', 'MEMBER')"
    if connection.execute(signals, (LOGIN_MAKER,)).fetchone() != (True,):
        text = f"grant pg_signal_backend to {LOGIN_MAKER}"
        yield _statement(connection, text, "GRANT pg_signal_backend TO {}", LOGIN_MAKER)
    has = {name for (name,) in connection.execute(_ADMIN_MEMBERSHIPS, (LOGIN_MAKER,))}
    # The login maker needs none of the rights of those roles itself.
    option = (
        "ADMIN TRUE, INHERIT FALSE, SET FALSE"
        if connection.info.server_version >= 160_000
        else "ADMIN OPTION"
    )
    for role in ROLES:
        if role not in has:
            text = f"let role {LOGIN_MAKER} create members of {role}"
            yield _statement(connection, text, f"GRANT {{}} TO {{}} WITH {option}", role, LOGIN_MAKER)


def database_changes(connection: Connection, name: str, *, timescale: bool) -> Iterator[Change]:
    """Find what database `name` lacks: itself, rights of the roles, and TimescaleDB if wanted."""
    if not _database_exists(connection, name):
        yield Change(f"create database {name}", partial(_create_database, connection, name))
    rights = set(connection.execute(_RIGHTS, (name,)).fetchall()) or _RIGHTS_OF_NEW
    if any(grantee == PUBLIC for grantee, _ in rights):
        text = f"revoke all rights on database {name} from PUBLIC"
        yield _statement(connection, text, "REVOKE ALL ON DATABASE {} FROM PUBLIC", name)
    wanted = {"CONNECT": ROLES, "CREATE": SCHEMA_MAKERS, "TEMPORARY": TEMPORARY_TABLES}
    for right, roles in wanted.items():
        missing = [role for role in roles if (role, right) not in rights]
        if missing:
            places = ", ".join("{}" for _ in missing)
            text = f"grant {right} on database {name} to {', '.join(missing)}"
            yield _statement(connection, text, f"GRANT {right} ON DATABASE {{}} TO {places}", name, *missing)
    if timescale:
        yield from _extension_changes(connection, name)


def has_timescale(connection: Connection) -> bool:
    """Return whether the server runs the TSL edition of TimescaleDB."""
    return connection.execute(_HAS_TIMESCALE).fetchone() == (True,)


def _statement(connection: Connection, text: str, statement: str, *names: str) -> Change:
    query = sql.SQL(statement).format(*map(sql.Identifier, names))
    return Change(text, lambda: connection.execute(query))


def _database_exists(connection: Connection, name: str) -> bool:
    known = "SELECT FROM pg_database WHERE datname = %s"
    return connection.execute(known, (name,)).fetchone() is not None


def _create_database(connection: Connection, name: str) -> None:
    owner = sql.Identifier(OWNER)
    if connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
        False,
    ):
        # Only a member of a role may give a database to it.
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(owner))
    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), owner))


def _extension_changes(connection: Connection, name: str) -> Iterator[Change]:
    text = f"create extension timescaledb in database {name}"
    if not _database_exists(connection, name):  # in a dry run
        yield Change(text, lambda: None)
        return
    with psycopg.connect(_url_of(connection, name), autocommit=True) as inside:
        if inside.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is None:
            yield Change(text, lambda: inside.execute("CREATE EXTENSION IF NOT EXISTS timescaledb"))


def _url_of(connection: Connection, database: str) -> str:
    info = connection.info
    parameters = {**info.get_parameters(), "dbname": database, "password": info.password}
    return psycopg.conninfo.make_conninfo(**parameters)


def _verifiers(connection: Connection) -> Mapping[str, str | None] | None:
    """Return the verifiers of passwords; None if this administrator may not read them."""
    may_read = connection.execute("SELECT has_table_privilege('pg_authid', 'SELECT')").fetchone()
    if may_read != (True,):
        return None
    return dict(connection.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall())


def _has_password(
    connection: Connection, verifiers: Mapping[str, str | None] | None, role: str, password: str
) -> bool:
    if verifiers is not None:
        return _fits(verifiers.get(role) or "", password)
    try:
        url = psycopg.conninfo.make_conninfo(
            _url_of(connection, connection.info.dbname), user=role, password=password
        )
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def _fits(verifier: str, password: str) -> bool:
    """Return whether a SCRAM verifier (RFC 5803) is one of `password`."""
    if not (found := _SCRAM.fullmatch(verifier)):
        return False
    iterations, salt, stored_key = found.groups()
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), base64.b64decode(stored_key))
