"""Late data of dropped days enters the aggregates, and maintenance refreshes them itself."""

from esp_common.migrations import run_sql

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql("0008_late_data.sql")
    run_sql("0008_late_data.{engine}.sql")
