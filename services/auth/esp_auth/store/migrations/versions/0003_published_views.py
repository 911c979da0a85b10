"""What the archiver reads of the audit log."""

from esp_common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("0003_published_views.sql")
