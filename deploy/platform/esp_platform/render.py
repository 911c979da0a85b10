"""Configuration files of the servers, for the native stack, Compose and Kubernetes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from esp_common import topology

from esp_platform import broker, nginx, redis
from esp_platform.broker import AuthBackend, Listeners
from esp_platform.credentials import BROKER_USERS, SecretFolder
from esp_platform.files import TlsFiles, write_private
from esp_platform.identities import policies
from esp_platform.nginx import Site
from esp_platform.settings import PlatformSettings


@dataclass(frozen=True)
class Target:
    """A kind of deployment: its addresses and paths. `definitions`: path of RabbitMQ's definitions.json."""

    site: Site
    listeners: Listeners
    tls: TlsFiles
    definitions: str
    redis_host: str
    redis_port: int
    redis_folder: str
    has_secrets: bool = True


_TLS: Final = TlsFiles("/run/secrets/esp/tls.crt", "/run/secrets/esp/tls.key", "/run/secrets/esp/ca.crt")
_ANY: Final = "0.0.0.0"  # noqa: S104 - in a container  # nosec B104
_NATIVE_PORTS: Final = {
    "ingest": 17120,
    "auth": 17111,
    "diagnostics": 17141,
    "archiver": 17151,
    "backup": 17161,
}
_COMPOSE: Final = Target(
    site=Site(
        listen="8443",
        upstreams={service: f"{service}-api:8000" for service in topology.SERVICES},
        tls=_TLS,
        folder="/tmp/nginx",  # noqa: S108 - in a container  # nosec B108
        access_log="/dev/stdout",
        # The DNS server of a Docker network: containers change their addresses.
        resolver="127.0.0.11",
    ),
    listeners=Listeners(_ANY, 5671, 8883, 15672, 15692),
    tls=_TLS,
    definitions="/etc/rabbitmq/definitions.json",
    redis_host=_ANY,
    redis_port=6379,
    redis_folder="/data",
)
_NATIVE: Final = replace(
    _COMPOSE,
    site=replace(
        _COMPOSE.site,
        listen="127.0.0.1:17080",
        upstreams={service: f"127.0.0.1:{port}" for service, port in _NATIVE_PORTS.items()},
        resolver=None,
        one_process=True,
    ),
    listeners=Listeners("127.0.0.1", 17672, 17883, 17673, 17692),
    redis_host="127.0.0.1",
    redis_port=17379,
)
_HELM: Final = replace(
    _COMPOSE,
    # The address of a Kubernetes Service stays.
    site=replace(
        _COMPOSE.site,
        upstreams={service: f"esp-{service}:8000" for service in topology.SERVICES},
        tls=TlsFiles("/run/secrets/tls/tls.crt", "/run/secrets/tls/tls.key", "/run/secrets/tls/ca.crt"),
        folder="/tmp",  # noqa: S108 - in a container  # nosec B108
        resolver=None,
    ),
    # Kubernetes keeps them in Secrets of its own.
    has_secrets=False,
)
TARGETS: Final[Mapping[str, Target]] = {"native": _NATIVE, "compose": _COMPOSE, "helm": _HELM}


def render(target: Target, settings: PlatformSettings, folder: Path) -> list[str]:
    """Write the files of `target` into `folder`; return the paths of those that changed.

    Secrets that are missing are generated into `folder/secrets` where the target has them there. Files with
    secrets in them are written where secrets are known.
    """
    changed: list[str] = []
    secrets = SecretFolder(settings.secrets_folder) if settings.secrets_folder else None
    if secrets is None and target.has_secrets:
        secrets = SecretFolder(folder / "secrets")
        changed += [f"secrets/{name}" for name in secrets.generate()]
    files = public_files(target, settings) | (secret_files(target, secrets) if secrets else {})
    return changed + [path for path, text in files.items() if write_private(folder / path, text)]


def public_files(target: Target, settings: PlatformSettings) -> dict[str, str]:
    """Return the files without secrets, by their path."""
    objects = {"vhosts": [{"name": "/"}], **topology.objects("/")}
    return {
        "nginx/nginx.conf": nginx.configuration(_site(target.site, settings)),
        "rabbitmq/enabled_plugins": broker.enabled_plugins(),
        "rabbitmq/topology.json": _json(objects),
        "redis/redis.conf": redis.configuration(
            target.redis_host,
            target.redis_port,
            target.redis_folder,
            f"aclfile {target.redis_folder}/users.acl",
            target.tls,
        ),
        **{f"vault/{name}.hcl": f"{policy}\n" for name, policy in policies().items()},
    }


def secret_files(target: Target, secrets: SecretFolder) -> dict[str, str]:
    """Return the files with secrets or verifiers of passwords in them, by their path."""
    auth = AuthBackend(f"http://{target.site.upstreams['auth']}/broker/{secrets.get('auth.broker-secret')}")
    definitions = broker.definitions(secrets.group("rabbitmq", BROKER_USERS))
    return {
        "rabbitmq/definitions.json": _json(definitions),
        "rabbitmq/rabbitmq.conf": broker.configuration(
            target.listeners, target.definitions, target.tls, auth
        ),
        "redis/users.acl": f"{redis.user_lines(secrets.group('redis', redis.USERS))}\n",
    }


def _json(document: Mapping[str, object]) -> str:
    return f"{json.dumps(document, indent=1)}\n"


def _site(site: Site, settings: PlatformSettings) -> Site:
    """Return the site with the addresses and paths that the settings name instead of its own."""
    tls = TlsFiles(
        settings.nginx_tls_certificate or site.tls.certificate,
        settings.nginx_tls_key or site.tls.key,
        site.tls.authority,
    )
    upstreams = site.upstreams
    if settings.nginx_upstream:
        upstreams = {name: settings.nginx_upstream.format(service=name) for name in upstreams}
    return replace(
        site,
        tls=tls,
        upstreams=upstreams,
        listen=settings.nginx_listen or site.listen,
        resolver=settings.nginx_resolver or site.resolver,
        trusted_proxies=settings.nginx_trusted_proxies,
    )
