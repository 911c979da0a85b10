"""What the archiver reads besides the views, and letting a day go that it has proved to have."""

from esp_common.migrations import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql("0004_archive.sql")
    run_sql("0004_archive.{engine}.sql")
