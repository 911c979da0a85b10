"""Alembic's entry: one transaction for the whole upgrade, one migration at a time."""

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

config = context.config
OPTIONS = {"version_table_schema": "ingest", "transaction_per_migration": False}


def offline() -> None:
    """Print the statements."""
    context.configure(dialect_name="postgresql", **OPTIONS)
    with context.begin_transaction():
        context.execute("CREATE SCHEMA IF NOT EXISTS ingest")
        context.run_migrations()


def online() -> None:
    """Run what the database lacks."""
    engine = create_engine(config.attributes["url"], poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, **OPTIONS)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('ingest.migrate'))"))
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS ingest"))
            context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    online()
