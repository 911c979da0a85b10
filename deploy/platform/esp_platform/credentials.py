"""Secrets of the platform: their names, how each is generated, and a folder with one file for each."""

import base64
import string
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from secrets import choice, token_bytes
from typing import Final

from esp_common import topology
from esp_common.auth import new_api_key
from esp_common.errors import InvalidInput
from esp_common.secrets import read_secret

from esp_platform import redis
from esp_platform.broker import ADMINISTRATOR, MONITORING, SESSION_KEEPER
from esp_platform.databases import LOGIN_MAKER, ROLES
from esp_platform.files import write_private

PASSWORD_ALPHABET: Final = string.ascii_letters + string.digits
PASSWORD_LENGTH: Final = 32
BROKER_USERS: Final = (ADMINISTRATOR, SESSION_KEEPER, MONITORING, *topology.SERVICES)


def new_password() -> str:
    """Return a random password of 190 bits that needs no quoting in a URL."""
    return "".join(choice(PASSWORD_ALPHABET) for _ in range(PASSWORD_LENGTH))


def new_key() -> str:
    """Return 32 random bytes in base64."""
    return base64.b64encode(token_bytes(32)).decode()


GENERATORS: Final[Mapping[str, Callable[[], str]]] = {
    **{f"postgres.{role}": new_password for role in (*ROLES, LOGIN_MAKER)},
    **{f"rabbitmq.{user}": new_password for user in BROKER_USERS},
    **{f"redis.{user}": new_password for user in redis.USERS},
    "auth.master-key": new_key,
    "auth.broker-secret": new_password,
    "diagnostics.master-key": new_key,
    "backup.key": new_key,
    "vault.snapshot-token": new_password,
    "admin": new_password,
    "key.bootstrap": lambda: new_api_key("bootstrap"),
}
"""Every secret by its name, and what generates it."""


class SecretFolder:
    """Files named as in `GENERATORS`, each with one secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> str:
        """Return the secret; raise InvalidInput when its file is missing or empty."""
        path = self.folder / name
        fix = f"`esp-platform secrets {self.folder}` generates what is missing"
        if not path.exists():
            raise InvalidInput(f"there is no secret {name} in {self.folder}", fix=fix)
        if not (text := read_secret(path)):
            raise InvalidInput(f"secret file {path} is empty", fix=fix)
        return text

    def group(self, prefix: str, names: Iterable[str]) -> dict[str, str]:
        """Return the secrets `prefix.name` by name."""
        return {name: self.get(f"{prefix}.{name}") for name in names}

    def generate(self) -> list[str]:
        """Generate the secrets that have no file, or an empty one; return their names."""
        missing = [name for name in GENERATORS if not self._has(name)]
        for name in missing:
            write_private(self.folder / name, GENERATORS[name]())
        return missing

    def _has(self, name: str) -> bool:
        path = self.folder / name
        return path.exists() and path.stat().st_size > 0
