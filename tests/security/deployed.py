"""The platform as it is deployed: servers, migrated databases, and every API as a process of its own.

The broker knows its services, and asks auth about gateways; secrets reach the processes as files.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes, token_hex, token_urlsafe
from typing import Any, Self
from uuid import UUID

import httpx
import jwt
import psycopg
from azure.storage.blob import BlobServiceClient
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from esp_auth.domain import secrets
from esp_common.auth import PERMISSIONS, new_api_key
from esp_platform.databases import (
    ARCHIVER_OWNER,
    AUTH_OWNER,
    BACKUP_OWNER,
    DIAGNOSTICS_OWNER,
    OWNER,
    drop_database,
)
from esp_stack.plain_http import ask
from esp_stack.programs import Program, free_port, private_file, wait_for
from esp_stack.servers import Azurite, Postgres, RabbitMQ

BINARIES = Path(sys.executable).parent
OWNERS = {
    "auth": AUTH_OWNER,
    "ingest": OWNER,
    "diagnostics": DIAGNOSTICS_OWNER,
    "archiver": ARCHIVER_OWNER,
    "backup": BACKUP_OWNER,
}
"""The services in the order in which their schemas are made, and the owner of each."""
SERVICES = tuple(OWNERS)
GATEWAYS = ("gw-01", "gw-02")
CHEAP_HASHES = {"ARGON2_MEMORY_KIB": "1024", "ARGON2_PASSES": "1"}
UNLIMITED = {
    "DELAY_ADDRESS_FAILURES": "100000",
    "DELAY_ACCOUNT_FAILURES": "100000",
    "RATE_LIMIT_PER_MINUTE": "0",
}


@dataclass
class Session:
    """What one login gave: its tokens, and whose they are."""

    username: str
    password: str = field(repr=False)
    user_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)

    @property
    def header(self) -> dict[str, str]:
        """The header that presents the access token."""
        return {"Authorization": f"Bearer {self.access_token}"}


class Role:
    """One process of a service; everything it needs to know in files that only we can read."""

    def __init__(self, folder: Path, service: str, role: str, settings: Mapping[str, str]) -> None:
        self.name = f"{service}-{role}"
        self.port, self.metrics_port = free_port(), free_port()
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{self.name}.log"
        argv = (str(BINARIES / f"esp-{service}"), role)
        prefix = f"ESP_{service.upper()}_"
        environment = {
            f"{prefix}{name}_FILE": _file(folder, self.name, name, v) for name, v in settings.items()
        }
        self._program = Program(self.name, argv, folder, None, environment)
        self.settings = dict(settings)
        self.process: subprocess.Popen[bytes] | None = None

    def listen_on(self, port: int) -> Self:
        """Listen on this port instead of any."""
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        return self

    def start(self) -> None:
        """Start the process."""
        prefix = f"ESP_{self.name.split('-')[0].upper()}_"
        environment = {
            **self._program.full_environment(),
            f"{prefix}HTTP_PORT": str(self.port),
            f"{prefix}METRICS_PORT": str(self.metrics_port),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._program.command(), env=environment, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        """Wait until the role says that it is ready."""
        wait_for(self._check, f"{self.name}: {self.log}", 90)

    def _check(self) -> None:
        assert self.process
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended:\n{self.log.read_text()[-4000:]}")
        answer = ask("GET", f"{self.metrics_url}/health/ready", timeout=5)
        assert answer.status_code == 200, answer.text

    def stop(self) -> None:
        """End the process."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _file(folder: Path, role: str, name: str, content: str) -> str:
    return str(private_file(folder / f"{role}.{name.lower()}", content, None))


class Deployed:
    """The services with their APIs, their users and keys, and the secrets they were given."""

    def __init__(self, home: Path, postgres: Postgres, redis_url: str) -> None:
        self._exit = ExitStack()
        self.home = home
        self.postgres = postgres
        self.redis_url = redis_url
        self.database = f"security_{token_hex(6)}"
        self.master_key = base64.b64encode(token_bytes(32)).decode()
        self.sealing_key = base64.b64encode(token_bytes(32)).decode()
        self.broker_secret = token_urlsafe(24)
        self.bootstrap_key = new_api_key("bootstrap")
        self.gateway_keys = {gateway: new_api_key(gateway) for gateway in GATEWAYS}
        self.admin_password = f"first-{token_urlsafe(12)}"
        auth_port = free_port()
        self.broker_url = f"http://127.0.0.1:{auth_port}/broker/{self.broker_secret}"
        self.rabbitmq = RabbitMQ(home / "rabbitmq", auth_url=self.broker_url, auth_cache_ttl_ms=1000)
        self.azurite = Azurite(home / "azurite")
        self._given: dict[str, Session] = {}
        self._auth_port = auth_port

    # --- servers and roles --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _start(self) -> None:
        self.home.mkdir()
        self.home.chmod(0o755)
        self._exit.callback(self.rabbitmq.kill)
        self.rabbitmq.start()
        self._exit.callback(self.azurite.kill)
        self.azurite.start()
        with BlobServiceClient.from_connection_string(self.azurite.connection_string) as blobs:
            blobs.create_container("archive")
        self.postgres.ensure_database(self.database, timescale=False)
        self._exit.callback(drop_database, self.postgres.admin_url, self.database)
        ingest = self._settings("ingest", "esp_ingest")
        auth = self._settings("auth", "esp_auth") | {
            "MASTER_KEY": self.master_key,
            "BROKER_SECRET": self.broker_secret,
            **CHEAP_HASHES,
            **UNLIMITED,
        }
        self.auth = Role(self.home, "auth", "api", auth).listen_on(self._auth_port)
        self.auth_worker = Role(self.home, "auth", "worker", auth)
        self.ingest = Role(self.home, "ingest", "api", ingest | {"RATE_LIMIT_PER_MINUTE": "0"})
        self.diagnostics = self._api("diagnostics", MASTER_KEY=self.sealing_key)
        self.archiver = self._api("archiver", BLOB_CONNECTION_STRING=self.azurite.connection_string)
        self.backup = self._api("backup")
        for service, owner in OWNERS.items():
            self.command(service, "migrate", DATABASE_URL=self.url(owner), ENGINE="postgres")
        first = self._bootstrap_file()
        self.command("auth", "bootstrap", "--file", str(first), **auth)
        for role in self.roles:
            self._exit.callback(role.stop)
            role.start()
        for role in self.roles:
            role.wait_ready()
        # A full queue of what nobody stores here would end the tests: its own worker is not part of them.

    def _api(self, service: str, **settings: str) -> Role:
        common = self._settings(service, f"esp_{service}") | {"RATE_LIMIT_PER_MINUTE": "0"}
        return Role(self.home, service, "api", common | settings)

    def _settings(self, service: str, database_role: str) -> dict[str, str]:
        return {
            "AMQP_URL": self.rabbitmq.url_for(service),
            "DATABASE_URL": self.url(database_role),
            "REDIS_URL": self.redis_url,
            "ENGINE": "postgres",
            "LOG_LEVEL": "DEBUG",
        }

    def _bootstrap_file(self) -> Path:
        first = {
            "api_key": self.bootstrap_key,
            "admin": {"username": "admin", "password": self.admin_password},
            "gateways": self.gateway_keys,
        }
        return private_file(self.home / "bootstrap.json", json.dumps(first), None)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Every process of ours that runs."""
        return (self.auth, self.auth_worker, *(self.api(name) for name in SERVICES if name != "auth"))

    def api(self, service: str) -> Role:
        """Return the API of a service."""
        role: Role = getattr(self, service)
        return role

    def url(self, role: str) -> str:
        """Return the database's URL for a role."""
        return self.postgres.url(role, self.database)

    def command(self, service: str, *arguments: str, **settings: str) -> str:
        """Run `esp-<service> <arguments>` to its end; return all it prints."""
        prefix = f"ESP_{service.upper()}_"
        files = {f"{prefix}{k}_FILE": _file(self.home, f"{service}-cli", k, v) for k, v in settings.items()}
        done = subprocess.run(
            [BINARIES / f"esp-{service}", *arguments],
            env={**os.environ, **files},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def administer(self, statement: str, *parameters: object) -> list[Any]:
        """Run a statement as the database's superuser; return its rows."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    # --- credentials --------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: object = None, *, session: Session | None = None
    ) -> httpx.Response:
        """Call auth's API as `session`, else with the bootstrap key; fail on any error."""
        header = session.header if session else {"X-API-Key": self.bootstrap_key}
        answer = httpx.request(
            method, f"{self.auth.url}/api/v1/{path}", json=body, headers=header, timeout=30
        )
        assert answer.is_success, answer.text
        return answer

    def log_in(self, username: str, password: str) -> Session:
        """Log in."""
        body = {"username": username, "password": password}
        answer = httpx.post(f"{self.auth.url}/api/v1/auth/login", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return self._session(username, password, answer.json())

    def refresh(self, session: Session) -> Session:
        """Spend the session's refresh token for the next tokens."""
        body = {"refresh_token": session.refresh_token}
        answer = httpx.post(f"{self.auth.url}/api/v1/auth/refresh", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return self._session(session.username, session.password, answer.json())

    @staticmethod
    def _session(username: str, password: str, tokens: Mapping[str, Any]) -> Session:
        claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
        return Session(username, password, claims["sub"], tokens["access_token"], tokens["refresh_token"])

    def new_session(self, *roles: str, settled: bool = True) -> Session:
        """Make a user with these roles and log in; unless `settled`, the password has to be changed yet."""
        name, password = f"user-{token_hex(4)}", f"first {token_urlsafe(12)}"
        self.call("POST", "users", {"username": name, "password": password, "roles": list(roles)})
        session = self.log_in(name, password)
        if not settled:
            return session
        own = f"second {token_urlsafe(12)}"
        self.call("POST", "auth/password", {"current": password, "new": own}, session=session)
        return self.log_in(name, own)

    def session(self, *roles: str) -> Session:
        """Return a session of a user with these roles, the same each time."""
        name = " ".join(roles)
        if name not in self._given:
            self._given[name] = self.new_session(*roles)
        return self._given[name]

    def new_key(self, *scopes: str, gateway_id: str | None = None) -> str:
        """Make an API key."""
        wanted = {"name": "test", "scopes": list(scopes), "gateway_id": gateway_id}
        return str(self.call("POST", "api-keys", wanted).json()["key"])

    def signing_key(self) -> tuple[str, Ed25519PrivateKey]:
        """Return the key that auth signs with, as someone who holds its master key could."""
        rows = self.administer(
            "SELECT kid, sealed_private_key FROM auth.signing_keys WHERE signs_from <= now() "
            "ORDER BY signs_from DESC LIMIT 1"
        )
        kid, sealed = rows[0]
        key = secrets.derive(secrets.decode_master_key(self.master_key), secrets.SIGNING_KEYS)
        return kid, Ed25519PrivateKey.from_private_bytes(secrets.unseal(key, bytes(sealed), kid))

    def public_key(self) -> dict[str, str]:
        """Return the JSON Web Key that auth publishes."""
        answer = httpx.get(f"{self.auth.url}/api/v1/auth/.well-known/jwks.json").raise_for_status()
        key: dict[str, str] = answer.json()["keys"][0]
        return key

    @property
    def every_permission(self) -> list[str]:
        """The whole table's permissions."""
        return sorted(PERMISSIONS)


NOWHERE = str(UUID(int=0))
"""The id of nothing."""
