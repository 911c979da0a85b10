"""Database migrations: Alembic revisions that run plain SQL files, some of them per storage engine.

A service has a package with `versions/`, `sql/` and an `env.py` that calls `upgrade`. A revision runs its
files with `run_sql`.
"""

from importlib.resources import files
from typing import Any, Final

import psycopg
from alembic import command, context, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from esp_common.database import Engine

_HAS_TIMESCALE: Final = """
SELECT current_setting('timescaledb.license', true) = 'timescale'
   AND EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
"""


def migrate(
    package: str, schema: str, database_url: str, engine: str = "auto", *, sql: bool = False
) -> Engine:
    """Upgrade `schema` of a database to the newest revision of `package`; return the storage engine.

    `engine`: `timescale`, `postgres`, or `auto` for TimescaleDB if the server has its TSL edition. With `sql`
    the statements of all revisions are printed instead of run, and `auto` means `timescale`.
    """
    chosen = _choose(database_url, engine, offline=sql)
    config = _config(package)
    config.attributes.update(url=database_url, package=package, schema=schema, engine=chosen)
    command.upgrade(config, "head", sql=sql)
    return chosen


def newest_revision(package: str) -> str | None:
    """Return the newest revision of `package`."""
    return ScriptDirectory.from_config(_config(package)).get_current_head()


def current_revision(schema: str, database_url: str) -> str | None:
    """Return the revision of `schema` in a database; None if it was never migrated."""
    with psycopg.connect(database_url) as connection:
        table = (f"{schema}.alembic_version",)
        if connection.execute("SELECT to_regclass(%s)", table).fetchone() == (None,):
            return None
        query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(schema, "alembic_version"))
        row = connection.execute(query).fetchone()
    return str(row[0]) if row else None


def _config(package: str) -> Config:
    parent, _, folder = package.rpartition(".")
    config = Config()
    config.set_main_option("script_location", f"{parent}:{folder}")
    return config


def upgrade() -> None:
    """Run or print the missing revisions; called by the `env.py` of a service."""
    if context.is_offline_mode():
        _print()
    else:
        _run()


def run_sql(name: str) -> None:
    """Run a file of the package's `sql`; `{engine}` in its name is the storage engine."""
    wanted = context.config.attributes
    file = files(wanted["package"]).joinpath("sql", name.format(engine=wanted["engine"]))
    op.execute(file.read_text(encoding="utf-8"))


def _choose(database_url: str, engine: str, *, offline: bool) -> Engine:
    if engine == "postgres":
        return "postgres"
    if engine == "timescale" or offline:
        return "timescale"
    with psycopg.connect(database_url) as connection:
        row: tuple[Any, ...] | None = connection.execute(_HAS_TIMESCALE).fetchone()
    return "timescale" if row and row[0] else "postgres"


def _print() -> None:
    schema = context.config.attributes["schema"]
    # With another parameter style every % in them would be doubled.
    style = {"paramstyle": "named"}
    context.configure(dialect_name="postgresql", dialect_opts=style, version_table_schema=schema)
    with context.begin_transaction():
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        context.run_migrations()


def _run() -> None:
    """Run one upgrade at a time, each in one transaction."""
    schema = context.config.attributes["schema"]
    url = context.config.attributes["url"]
    # SQLAlchemy does not parse URLs with several hosts; libpq does.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, version_table_schema=schema)
        with context.begin_transaction():
            connection.execute(text(f"SELECT pg_advisory_xact_lock(hashtext('{schema}.migrate'))"))
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
            context.run_migrations()
