"""Failed logins by account and address, and the addresses that an account has logged in from."""

from esp_common.migrations import run_sql

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql("0004_login_places.sql")
