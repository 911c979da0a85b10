"""State words of tags that report `running` or `trip_code`."""

from esp_common.migrations import run_sql

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql("0006_tag_states.sql")
