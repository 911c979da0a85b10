"""The audit log and its head, on the engine the database has."""

from esp_common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql("0002_audit.columns.sql")
    run_sql("0002_audit.{engine}.sql")
    run_sql("0002_audit.grants.sql")
