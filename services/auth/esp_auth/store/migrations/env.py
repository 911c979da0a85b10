"""Alembic's entry: one transaction for the whole upgrade, one upgrade at a time."""

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

CREATE_SCHEMA = "CREATE SCHEMA IF NOT EXISTS auth"


def offline() -> None:
    """Print the statements."""
    # With another style of parameters every % in them would be doubled.
    style = {"paramstyle": "named"}
    context.configure(dialect_name="postgresql", dialect_opts=style, version_table_schema="auth")
    with context.begin_transaction():
        context.execute(CREATE_SCHEMA)
        context.run_migrations()


def online() -> None:
    """Run what the database lacks."""
    engine = create_engine(context.config.attributes["url"], poolclass=NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, version_table_schema="auth")
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('auth.migrate'))"))
            connection.execute(text(CREATE_SCHEMA))
            context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    online()
