"""The read contract other services rely on."""

from alembic import op
from esp_ingest.store.migrations import statements

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(statements("0003_published_views.sql"))
