"""First signing key, administrator and API key, which `esp-auth bootstrap` creates where they are missing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from esp_common.errors import InvalidInput

from esp_platform.changes import Change
from esp_platform.credentials import SecretFolder
from esp_platform.files import write_private
from esp_platform.migrations import role_url
from esp_platform.service_secrets import with_login
from esp_platform.settings import PlatformSettings

MISSING = "would create "
"""How a line of `esp-auth bootstrap --dry-run` about something missing begins."""


def changes(settings: PlatformSettings, secrets: SecretFolder) -> Iterator[Change]:
    """Find whether the first administrator, API key or signing key is missing."""
    command = shutil.which(
        "esp-auth", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if command is None:
        print("esp-auth is not installed here: run this part from its image", file=sys.stderr)
        return
    run = partial(_bootstrap, command, settings, secrets)
    try:
        lines = run("--dry-run").splitlines()
    except InvalidInput:  # a dry run on a server without the schema; `apply` says what is wrong
        lines = [f"{MISSING}first administrator and API key"]
    missing = [line.removeprefix(MISSING) for line in lines if line.startswith(MISSING)]
    if missing:
        yield Change(f"create {', '.join(missing)}", run)


def _bootstrap(command: str, settings: PlatformSettings, secrets: SecretFolder, *options: str) -> str:
    """Run `esp-auth bootstrap` and return what it prints; raise InvalidInput with what it complains about."""
    with _files(settings, secrets) as environment:
        done = subprocess.run(
            [command, "bootstrap", "--file", environment["FIRST_USERS"], *options],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        complaint = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise InvalidInput(
            f"esp-auth bootstrap failed: {complaint}", fix="apply database and migrations first"
        )
    return done.stdout


@contextmanager
def _files(settings: PlatformSettings, secrets: SecretFolder) -> Iterator[dict[str, str]]:
    """Write what `esp-auth` reads into files of this user, for as long as it runs; yield its environment."""
    first = {
        "api_key": secrets.get("key.bootstrap"),
        "admin": {"username": settings.admin_username, "password": secrets.get("admin")},
    }
    values = {
        "FIRST_USERS": json.dumps(first),
        "ESP_AUTH_DATABASE_URL_FILE": role_url(settings, "esp_auth", secrets.get("postgres.esp_auth")),
        "ESP_AUTH_MASTER_KEY_FILE": secrets.get("auth.master-key"),
        "ESP_AUTH_REDIS_URL_FILE": with_login(settings.redis_url, "auth", secrets.get("redis.auth")),
    }
    with TemporaryDirectory(prefix="esp-platform-") as folder:
        for name, value in values.items():
            write_private(Path(folder, name), value)
        environment = {name: str(Path(folder, name)) for name in values}
        if settings.ca_file:
            environment["ESP_AUTH_TLS_CA_FILE"] = str(settings.ca_file)
        yield environment
