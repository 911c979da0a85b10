"""A copy of the servers' configuration for the daily set of backups."""

from collections.abc import Iterable
from pathlib import Path

from esp_stack.programs import private_file, private_folder
from esp_stack.stack import Stack

WITHHELD = "(withheld)"


def keep_configuration(stack: Stack) -> Path:
    """Copy the configuration of every server, without the secrets in it, and return the folder.

    The account that takes backups may read neither the originals nor the other accounts' secrets.
    """
    user = stack.postgres.user
    folder = private_folder(stack.kept_configuration, user)
    secrets = stack.credentials.values()
    for path in _files(stack):
        if path.exists():
            private_file(folder / path.name, _without(secrets, path.read_text()), user)
    return folder


def _files(stack: Stack) -> list[Path]:
    return [
        stack.ca_file,
        stack.folder / "ports.json",
        stack.folder / "supervisord.conf",
        stack.nginx.home / "nginx.conf",
        stack.openbao.home / "openbao.hcl",
        stack.postgres.data / "pg_hba.conf",
        stack.postgres.data / "pg_ident.conf",
        stack.postgres.data / "postgresql.conf",
        stack.rabbitmq.home / "enabled_plugins",
        stack.rabbitmq.home / "rabbitmq.conf",
        stack.redis.home / "redis.conf",
    ]


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, WITHHELD)
    return text
