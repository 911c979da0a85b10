"""Users, sessions, API keys, signing keys, revocations and the outbox."""

from alembic import op
from esp_auth.store.migrations import statements

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(statements("0001_identity.sql"))
