"""Alembic's entry."""

from esp_common.migrations import upgrade

upgrade()
