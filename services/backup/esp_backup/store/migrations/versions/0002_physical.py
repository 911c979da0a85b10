"""Differential and incremental backups, and the holes of the log's archive."""

from esp_common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql("0002_physical.sql")
