"""One quarantine row may stand for many refusals of one message."""

from esp_common.migrations import run_sql

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql("0010_quarantine_summaries.sql")
