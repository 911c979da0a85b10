"""Backlogs: readings of the past that are judged beside the live ones."""

from esp_common.migrations import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql("0004_backlogs.sql")
