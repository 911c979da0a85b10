"""Catalogue, work, heartbeat, marks and the outbox."""

from esp_common.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql("0001_catalogue.sql")
