"""Readings and their aggregates, on the engine the database has."""

from alembic import context, op
from esp_ingest.store.migrations import statements

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    engine = context.config.attributes["engine"]
    op.execute(statements("0002_columns.sql"))
    op.execute(statements(f"0002_telemetry.{engine}.sql"))
    op.execute(statements("0002_grants.sql"))
