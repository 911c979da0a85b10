"""State words of tags that report `running` or `trip_code`."""

from esp_common.migrations import run_sql

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql("0007_tag_states.sql")
