"""Assets, quarantine, data quality, ledger and outbox."""

from alembic import op
from esp_ingest.store.migrations import statements

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(statements("0001_assets.sql"))
