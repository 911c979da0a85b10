"""The native stack's configuration in the daily set: there, and without a secret."""

from pathlib import Path

import pytest
from esp_stack.configuration import WITHHELD, keep_configuration
from esp_stack.programs import private_folder
from esp_stack.roles import Roles
from esp_stack.stack import Stack


@pytest.fixture
def stack(server_home: Path) -> Stack:
    """A stack whose servers' configuration is written, and none of which runs."""
    stack = Stack(server_home / "kept-stack")
    for server in (stack.nginx, stack.redis, stack.rabbitmq):
        private_folder(server.home, server.user)
        server.configure()
    return stack


def test_configuration_is_kept_without_its_secrets(stack):
    folder = keep_configuration(stack)
    kept = {path.name: path.read_text() for path in folder.iterdir()}
    assert {"nginx.conf", "redis.conf", "rabbitmq.conf", "enabled_plugins", "ports.json"} <= kept.keys()
    secrets = stack.credentials.values()
    assert secrets
    assert not [name for name, text in kept.items() if any(secret in text for secret in secrets)]
    assert kept["nginx.conf"] == (stack.nginx.home / "nginx.conf").read_text()
    assert WITHHELD in kept["redis.conf"] + kept["rabbitmq.conf"]


def test_configuration_is_closed_to_other_accounts(stack):
    folder = keep_configuration(stack)
    assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}


def test_only_the_backup_worker_can_verify_audit_seals(stack):
    with_key = {
        role.program.name
        for role in Roles(stack).all()
        if "ESP_AUTH_AUDIT_KEY_FILE" in role.program.environment
    }
    assert with_key == {"backup-worker"}
    settings = next(
        role.program.environment for role in Roles(stack).all() if role.program.name == "backup-worker"
    )
    assert settings["ESP_BACKUP_AUDIT_VERIFY_COMMAND"].endswith("esp-auth audit verify")
    key = Path(settings["ESP_AUTH_AUDIT_KEY_FILE"])
    assert key.stat().st_mode & 0o077 == 0
    assert stack.master_key not in key.read_text()
    assert settings["ESP_BACKUP_CONFIGURATION_FILES"] == str(stack.kept_configuration)
