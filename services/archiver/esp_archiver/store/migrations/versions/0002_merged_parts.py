"""Parts that late readings were merged into."""

from esp_common.migrations import run_sql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql("0002_merged_parts.sql")
