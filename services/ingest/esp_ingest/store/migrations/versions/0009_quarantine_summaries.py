"""One quarantine row may stand for many refusals of one message."""

from esp_common.migrations import run_sql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql("0009_quarantine_summaries.sql")
