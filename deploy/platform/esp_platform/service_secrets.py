"""Secret settings that each service is given: with its own logins and its own keys."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from esp_platform.broker import ADMINISTRATOR, SESSION_KEEPER


@dataclass(frozen=True)
class Addresses:
    """URLs of the servers as services reach them, without logins; `blob` and `cluster` have theirs."""

    amqp: str
    management: str
    redis: str
    blob: str | None = None
    cluster: str | None = None


def with_login(url: str, user: str, password: str) -> str:
    """Return `url` with this login, in place of any other."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))


def service_secrets(service: str, addresses: Addresses, secret: Callable[[str], str]) -> dict[str, str]:
    """Return the secret settings of `service`, but for its database's, which depend on the role.

    `secret` returns the secret of a name of `credentials.GENERATORS`.
    """
    values = {
        "amqp_url": with_login(addresses.amqp, service, secret(f"rabbitmq.{service}")),
        "redis_url": with_login(addresses.redis, service, secret(f"redis.{service}")),
    }
    if service == "auth":
        values |= {
            "master_key": secret("auth.master-key"),
            "broker_secret": secret("auth.broker-secret"),
            "broker_management_url": _management(addresses, SESSION_KEEPER, secret),
        }
    if service == "diagnostics":
        values["master_key"] = secret("diagnostics.master-key")
    if service in ("archiver", "backup") and addresses.blob:
        values["blob_connection_string"] = addresses.blob
    if service == "backup":
        values |= {
            "encryption_key": secret("backup.key"),
            "broker_management_url": _management(addresses, ADMINISTRATOR, secret),
            "vault_snapshot_token": secret("vault.snapshot-token"),
        }
        if addresses.cluster:
            values["cluster_url"] = addresses.cluster
    return values


def _management(addresses: Addresses, user: str, secret: Callable[[str], str]) -> str:
    return with_login(addresses.management, user, secret(f"rabbitmq.{user}"))
