"""Secrets, certificates and configuration of a Docker host: a folder for each container.

Secrets and certificates that exist stay; configuration is written anew at every start.
"""

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from secrets import token_bytes
from typing import Any, Final

from esp_common.auth import new_api_key
from esp_common.errors import InvalidInput

from esp_platform.authority import Authority
from esp_platform.broker import ADMINISTRATOR
from esp_platform.credentials import SecretFolder, new_password
from esp_platform.files import write_private
from esp_platform.identities import APP_ROLES
from esp_platform.render import TARGETS, public_files, secret_files
from esp_platform.service_secrets import Addresses, service_secrets, with_login
from esp_platform.settings import PlatformSettings

MOUNT: Final = "/run/secrets/esp"
"""Where each container sees its folder."""
SERVICE_USER: Final = "10001:10001"
DATABASE: Final = "postgresql://postgres:5432/{name}?sslmode=verify-full"
BLOB: Final = (
    "DefaultEndpointsProtocol=https;AccountName=esp;AccountKey={key};BlobEndpoint=https://azurite:10000/esp;"
)
MANAGEMENT: Final = "http://rabbitmq:15672/api"
ACCESS: Final = "hostssl all all all scram-sha-256\n"
SIMULATED_GATEWAYS: Final = ("gw-01", "gw-02", "gw-03", "gw-04", "gw-05")
ENGINEERS_GATEWAY: Final = "gw-demo"
SERVERS: Final = ("azurite", "nginx", "postgres", "rabbitmq", "redis")
ROOT_ONLY: Final = ("authority",)
"""Folders that no container but this command reads."""


@dataclass(frozen=True)
class Host:
    """How clients reach the Docker host. `folder`: the state folder as the host names it."""

    names: tuple[str, ...] = ("localhost",)
    https_port: int = 8443
    amqps_port: int = 5671
    mqtts_port: int = 8883
    folder: str = "."

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Host":
        """Return what the variables of compose.yaml say; raise InvalidInput for a port that is none."""
        ports = {}
        for name in ("https_port", "amqps_port", "mqtts_port"):
            text = environment.get(name.upper()) or str(getattr(cls, name))
            if not (text.isdecimal() and 0 < int(text) < 65_536):
                raise InvalidInput(f"{name.upper()}={text} is not a port", fix="give a number up to 65535")
            ports[name] = int(text)
        names = tuple(filter(None, map(str.strip, environment.get("ESP_HOST_NAMES", "").split(","))))
        folder = environment.get("ESP_HOST_STATE", cls.folder)
        return cls(names=names or cls.names, folder=folder, **ports)


def prepare(state: Path, host: Host) -> None:
    """Write the folder of every container into `state`."""
    secrets = SecretFolder(state / "platform" / "secrets")
    secrets.generate()
    authority = Authority(state / "authority")
    for server in SERVERS:
        names = dict.fromkeys([server, "localhost", *host.names])
        authority.certify(state / server, list(names))
    _write_servers(state, secrets)
    password = _once(state / "postgres" / "password", new_password)
    write_private(state / "postgres" / "pg_hba.conf", ACCESS)
    key = _once(state / "azurite" / "key", _new_account_key)
    write_private(state / "azurite" / "accounts", f"esp:{key}")
    urls = {
        "database_admin_url": with_login(DATABASE.format(name="postgres"), "postgres", password),
        "broker_admin_url": with_login(MANAGEMENT, ADMINISTRATOR, secrets.get(f"rabbitmq.{ADMINISTRATOR}")),
    }
    for name, url in urls.items():
        write_private(state / "platform" / name, url)
    _write_services(state, secrets, BLOB.format(key=key), password)
    gateways = {
        name: _once(state / "platform" / "gateways" / name, partial(new_api_key, name))
        for name in (*SIMULATED_GATEWAYS, ENGINEERS_GATEWAY)
    }
    _write_first_users(state, secrets, gateways)
    write_private(state / "operator" / "endpoints.json", _endpoints(host, secrets, gateways))
    _once(state / "grafana" / "password", new_password)
    (state / "sim").mkdir(exist_ok=True)
    roles = (role.name for role in APP_ROLES)
    for folder in (*SERVERS, "platform", "gateway", "operator", "auth-first", *roles):
        write_private(state / folder / "ca.crt", authority.pem)


def hand_over(state: Path, environment: Mapping[str, str]) -> None:
    """Give each folder with all in it to the user of its container, for whom alone it is readable.

    `environment`: `<FOLDER>_USER_ID` is the uid:gid of a folder that is not a service's.
    """
    for folder in state.iterdir():
        variable = f"{folder.name}_user_id".upper().replace("-", "_")
        owner = "0:0" if folder.name in ROOT_ONLY else environment.get(variable) or SERVICE_USER
        uid, _, gid = owner.partition(":")
        if not (uid.isdecimal() and gid.isdecimal()):
            raise InvalidInput(f"{variable}={owner} is not uid:gid", fix="give two numbers, such as 70:70")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
            os.chown(path, int(uid), int(gid))


def _write_servers(state: Path, secrets: SecretFolder) -> None:
    """Write the configuration of the servers."""
    settings = PlatformSettings.load(
        nginx_tls_certificate=f"{MOUNT}/tls.crt", nginx_tls_key=f"{MOUNT}/tls.key"
    )
    target = replace(TARGETS["compose"], definitions=f"{MOUNT}/definitions.json")
    for path, text in (public_files(target, settings) | secret_files(target, secrets)).items():
        if path.split("/")[0] in SERVERS:
            write_private(state / path, text)


def _write_services(state: Path, secrets: SecretFolder, blob: str, password: str) -> None:
    """Write the secret settings of every identity: of each service, and of the owner of its schema."""
    addresses = Addresses(
        amqp="amqps://rabbitmq:5671/",
        management=MANAGEMENT,
        redis="rediss://redis:6379/0",
        blob=blob,
        cluster=with_login(f"{DATABASE.format(name='esp')}&sslrootcert={MOUNT}/ca.crt", "postgres", password),
    )
    for role in APP_ROLES:
        values = service_secrets(role.service, addresses, secrets.get)
        login = secrets.get(f"postgres.{role.database_role}")
        values["database_url"] = with_login(DATABASE.format(name="esp"), role.database_role, login)
        values.pop("vault_snapshot_token", None)
        for name, value in values.items():
            write_private(state / role.name / name, value)


def _write_first_users(state: Path, secrets: SecretFolder, gateways: Mapping[str, str]) -> None:
    """Write the first administrator, API key and gateways, with the settings that `esp-auth` needs."""
    first = {"api_key": secrets.get("key.bootstrap"), "admin": _admin(secrets), "gateways": gateways}
    simulated = {name: gateways[name] for name in SIMULATED_GATEWAYS}
    write_private(state / "gateway" / "gateways.json", json.dumps(simulated))
    write_private(state / "auth-first" / "first-users.json", json.dumps(first))
    for file in (state / "auth").iterdir():
        write_private(state / "auth-first" / file.name, file.read_text())


def _endpoints(host: Host, secrets: SecretFolder, gateways: Mapping[str, str]) -> str:
    """Return endpoints.json: every address that is published, and the credentials for it."""
    name = host.names[0]
    ca_file = f"{host.folder}/operator/ca.crt"
    password = secrets.get(f"rabbitmq.{ADMINISTRATOR}")
    amqp = with_login(f"amqps://{name}:{host.amqps_port}/%2F?cafile={ca_file}", ADMINISTRATOR, password)
    absent = ("postgres", "redis", "blob", "vault", "prometheus", "engine", "processes")
    document: dict[str, Any] = {
        "kind": "compose",
        "http": f"https://{name}:{host.https_port}",
        "ca_file": ca_file,
        "amqp": amqp,
        "mqtt": f"mqtts://{name}:{host.mqtts_port}",
        "admin": _admin(secrets),
        "api_key": secrets.get("key.bootstrap"),
        "gateway": {"id": ENGINEERS_GATEWAY, "key": gateways[ENGINEERS_GATEWAY]},
        **dict.fromkeys(absent),
    }
    return f"{json.dumps(document, indent=2)}\n"


def _admin(secrets: SecretFolder) -> dict[str, str]:
    return {"username": "admin", "password": secrets.get("admin")}


def _once(path: Path, generate: Callable[[], str]) -> str:
    """Return the text of `path`, generated if it is not there."""
    if not path.exists():
        write_private(path, generate())
    return path.read_text()


def _new_account_key() -> str:
    """Return a random key of a storage account."""
    return base64.b64encode(token_bytes(64)).decode()
