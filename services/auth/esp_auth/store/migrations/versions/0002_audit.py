"""The audit log and its head, on the engine the database has."""

from alembic import context, op
from esp_auth.store.migrations import statements

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    engine = context.config.attributes["engine"]
    op.execute(statements("0002_audit.columns.sql"))
    op.execute(statements(f"0002_audit.{engine}.sql"))
    op.execute(statements("0002_audit.grants.sql"))
