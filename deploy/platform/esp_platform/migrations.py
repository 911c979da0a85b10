"""Schemas of the services: brought to the newest revision of each service that is installed here."""

import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg
from esp_common.urls import with_authority

from esp_platform.changes import Change
from esp_platform.credentials import SecretFolder
from esp_platform.databases import ARCHIVER_OWNER, AUTH_OWNER, BACKUP_OWNER, DIAGNOSTICS_OWNER, OWNER
from esp_platform.service_secrets import with_login
from esp_platform.settings import PlatformSettings

OWNERS: Final = {
    "ingest": OWNER,
    "auth": AUTH_OWNER,
    "diagnostics": DIAGNOSTICS_OWNER,
    "archiver": ARCHIVER_OWNER,
    "backup": BACKUP_OWNER,
}
"""Services in the order of their migrations (others read the views of ingest), and their schemas' owners."""


def changes(settings: PlatformSettings, secrets: SecretFolder) -> Iterator[Change]:
    """Find the schemas that are not at the newest revision."""
    # Alembic takes longer to load than all that the other parts do.
    from esp_common import migrations

    for service, owner in OWNERS.items():
        if find_spec(f"esp_{service}") is None:
            print(
                f"{service}: not installed here; its own `esp-{service} migrate` migrates it", file=sys.stderr
            )
            continue
        package = f"esp_{service}.store.migrations"
        url = role_url(settings, owner, secrets.get(f"postgres.{owner}"))
        newest = migrations.newest_revision(package)
        try:
            current = migrations.current_revision(service, url)
        except (
            psycopg.OperationalError
        ):  # a dry run on a server without the database; `apply` raises it again
            current = None
        if current != newest:
            text = f"migrate schema {service} from {current or 'nothing'} to {newest}"
            run = partial(migrations.migrate, package, service, url, settings.database_engine)
            yield Change(text, run)


def role_url(settings: PlatformSettings, role: str, password: str) -> str:
    """Return the database's URL for a role."""
    url = with_login(settings.database_url, role, password)
    return with_authority(url, str(settings.ca_file)) if settings.ca_file else url


def database_name(url: str) -> str:
    """Return the name of the database that a URL names."""
    return urlsplit(url).path.removeprefix("/")


def with_database(url: str, name: str) -> str:
    """Return `url` for another database of the server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
