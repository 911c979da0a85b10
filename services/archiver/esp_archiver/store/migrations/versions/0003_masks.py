"""Marks of refused and clamped channels on restored readings."""

from esp_common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("0003_masks.sql")
