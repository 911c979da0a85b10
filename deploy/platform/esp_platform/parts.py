"""Parts of the bootstrap: what each needs, and the changes that bring its server to the wanted state."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import redis
from esp_common import topology
from esp_common.errors import InvalidInput
from esp_common.secrets import read_secret
from esp_common.urls import with_authority

from esp_platform import databases, first_users, migrations
from esp_platform.broker import Broker
from esp_platform.changes import Change
from esp_platform.clients import ManagementApi, VaultClient
from esp_platform.credentials import BROKER_USERS, SecretFolder
from esp_platform.files import write_private
from esp_platform.identities import APP_ROLES, AppRole
from esp_platform.redis import USERS
from esp_platform.redis import changes as redis_changes
from esp_platform.service_secrets import Addresses, service_secrets, with_login
from esp_platform.settings import PlatformSettings
from esp_platform.vault import TokenIssuer, Vault


@dataclass(frozen=True)
class Part:
    """One part: `needs` are the settings without which it does not run."""

    name: str
    purpose: str
    needs: tuple[str, ...]
    changes: Callable[[PlatformSettings, SecretFolder], Iterator[Change]]


def secrets_of(settings: PlatformSettings) -> SecretFolder:
    """Return the folder of secrets."""
    settings.need("secrets_folder")
    return SecretFolder(settings.secrets_folder or Path())


def _database_changes(settings: PlatformSettings, secrets: SecretFolder) -> Iterator[Change]:
    url = _with_ca(settings, settings.database_admin_url or "")
    with psycopg.connect(url, autocommit=True) as connection:
        yield from databases.role_changes(connection, secrets.group("postgres", databases.ROLES))
        maker = secrets.get(f"postgres.{databases.LOGIN_MAKER}")
        yield from databases.login_maker_changes(connection, maker)
        timescale = settings.database_engine == "timescale" or (
            settings.database_engine == "auto" and databases.has_timescale(connection)
        )
        name = migrations.database_name(settings.database_url)
        yield from databases.database_changes(connection, name, timescale=timescale)


def _vault_changes(settings: PlatformSettings, secrets: SecretFolder) -> Iterator[Change]:
    client = VaultClient(settings.vault_url or "", settings.vault_token or "", settings.ca_file)
    vault = Vault(client, bound_cidrs=settings.vault_bound_cidrs)
    issuer = _issuer(settings)
    yield from vault.engine_changes(jwt=issuer is not None)
    yield from vault.authority_changes(settings.certificate_names)
    maker = secrets.get(f"postgres.{databases.LOGIN_MAKER}")
    roles = [app_role.database_role for app_role in APP_ROLES]
    yield from vault.login_changes(_database_url_of_vault(settings), maker, roles)
    if issuer:
        yield from vault.issuer_changes(issuer)
    for app_role in APP_ROLES:
        yield from vault.app_role_changes(app_role)
        if issuer:
            yield from vault.jwt_role_changes(app_role, issuer)
        if settings.app_role_folder:
            yield from _app_role_file_changes(vault, app_role, settings.app_role_folder)
    addresses = _addresses(settings)
    for service in topology.SERVICES:
        values = service_secrets(service, addresses, secrets.get)
        yield from vault.secret_changes(service, values | {"database_url": settings.database_url})
    yield from vault.snapshot_token_changes(secrets.get("vault.snapshot-token"))


def _addresses(settings: PlatformSettings) -> Addresses:
    return Addresses(
        amqp=settings.amqp_url,
        management=settings.broker_management_url,
        redis=settings.redis_url,
        blob=settings.blob_connection_string,
        cluster=settings.cluster_url,
    )


def _database_url_of_vault(settings: PlatformSettings) -> str:
    """Return the URL with which Vault connects: its login maker may connect to the maintenance database."""
    url = settings.vault_database_url or migrations.with_database(settings.database_url, "postgres")
    return with_login(url, "{{username}}", "{{password}}")


def _issuer(settings: PlatformSettings) -> TokenIssuer | None:
    config: dict[str, Any] = {}
    if settings.vault_jwt_keys_file:
        # Public keys, so whoever may read the file is no concern.
        config["jwt_validation_pubkeys"] = [_read_text(settings.vault_jwt_keys_file)]
    elif settings.vault_jwt_url:
        config["oidc_discovery_url"] = settings.vault_jwt_url
        if settings.ca_file:
            config["oidc_discovery_ca_pem"] = _read_text(settings.ca_file)
    else:
        return None
    if issuer := settings.vault_jwt_issuer or settings.vault_jwt_url:
        config["bound_issuer"] = issuer
    return TokenIssuer(config, settings.vault_jwt_audience, settings.vault_jwt_subject)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} cannot be read: {error}", fix="check the settings that end in _FILE"
        ) from None


def _app_role_file_changes(vault: Vault, app_role: AppRole, folder: Path) -> Iterator[Change]:
    """Find whether the files with which an AppRole logs in are missing or not valid any more."""
    role_id, secret_id = (folder / f"{app_role.name}.{kind}" for kind in ("role-id", "secret-id"))
    known = secret_id.exists() and vault.knows_secret_id(app_role, read_secret(secret_id))
    if not (known and role_id.exists()):

        def write() -> None:
            write_private(role_id, vault.role_id(app_role))
            write_private(secret_id, vault.new_secret_id(app_role))

        yield Change(f"give out a secret id of AppRole {app_role.name} in {folder}", write)


def _broker_changes(settings: PlatformSettings, secrets: SecretFolder) -> Iterator[Change]:
    api = ManagementApi(settings.broker_admin_url or "", settings.ca_file)
    yield from Broker(api.call).changes(secrets.group("rabbitmq", BROKER_USERS))


def _redis_changes(settings: PlatformSettings, secrets: SecretFolder) -> Iterator[Change]:
    url = _with_ca(settings, settings.redis_admin_url or "")
    with redis.Redis.from_url(url, socket_timeout=10) as client:
        yield from redis_changes(client, secrets.group("redis", USERS))


def _with_ca(settings: PlatformSettings, url: str) -> str:
    return with_authority(url, str(settings.ca_file)) if settings.ca_file else url


PARTS: Final = (
    Part("database", "roles, rights and database of PostgreSQL", ("database_admin_url",), _database_changes),
    Part("vault", "contents of Vault", ("vault_url", "vault_token"), _vault_changes),
    Part("broker", "topology and users of RabbitMQ", ("broker_admin_url",), _broker_changes),
    Part("redis", "users of Redis", ("redis_admin_url",), _redis_changes),
    Part("migrations", "schemas of the services", ("database_admin_url",), migrations.changes),
    Part("users", "first administrator and API key", ("database_admin_url",), first_users.changes),
)
"""All parts, in the order in which they are applied."""


def part_named(name: str) -> Part:
    """Return a part; raise InvalidInput when there is none of this name."""
    for part in PARTS:
        if part.name == name:
            return part
    raise InvalidInput(f"there is no part {name}", fix=f"one of {', '.join(part.name for part in PARTS)}")
