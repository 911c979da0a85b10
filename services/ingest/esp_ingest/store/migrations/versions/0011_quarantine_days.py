"""Rows that quarantine keeps of one gateway and day are limited and counted."""

from esp_common.migrations import run_sql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql("0011_quarantine_days.sql")
