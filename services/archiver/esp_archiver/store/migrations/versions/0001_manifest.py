"""The manifest, what was asked for, and readings that were brought back."""

from esp_common.migrations import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql("0001_manifest.sql")
    run_sql("0001_restored.sql")
