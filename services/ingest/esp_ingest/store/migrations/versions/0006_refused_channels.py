"""Masks of refused and clamped channels, and the channel of a quarantined value."""

from esp_common.migrations import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql("0006_refused_channels.sql")
