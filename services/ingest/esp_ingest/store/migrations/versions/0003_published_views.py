"""The read contract other services rely on."""

from esp_common.migrations import run_sql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql("0003_published_views.sql")
