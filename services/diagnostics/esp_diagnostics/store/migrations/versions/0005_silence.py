"""Silence: when pumps and gateways were last heard of."""

from esp_common.migrations import run_sql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql("0005_silence.sql")
