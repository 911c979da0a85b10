"""The roles: every process of ours, its settings, and the files its credentials are in."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from esp_stack.databases import ARCHIVER_OWNER, AUTH_OWNER, DIAGNOSTICS_OWNER, OWNER
from esp_stack.programs import Program, executable, private_file, private_folder
from esp_stack.stack import ADMIN, DATABASE, ENGINEERS_GATEWAY, Stack
from esp_stack.vault import APP_ROLES, AppRole

SIMULATOR = "gateway-sim"
ROLES = (
    *("auth-api", "auth-worker", "ingest-api", "ingest-worker", "ingest-maintenance"),
    *("diagnostics-api", "diagnostics-worker", "archiver-api", "archiver-worker"),
    SIMULATOR,
)

SICK_PUMPS = (
    ("SIM-004", "gas_interference", 0.05),
    ("SIM-013", "tubing_hole", 0.1),
    ("SIM-022", "pump_wear", 0.2),
    ("SIM-027", "gauge_failure", 0.1),
    ("SIM-038", "flowline_restriction", 0.15),
    ("SIM-045", "phase_unbalance", 0.02),
)
"""Pumps of the simulated field with a past, their faults, and for which share of that past they have them."""


@dataclass(frozen=True)
class Role:
    """One process of ours; `ready_url` answers 200 when it does its work (None: it does while it runs)."""

    program: Program
    ready_url: str | None


class Roles:
    """The roles of a stack. Credentials reach them as files that only their account can read."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._secrets = stack.homes / "secrets"

    def all(self) -> list[Role]:
        """Return every role, in starting order."""
        ingest, owner = self._settings("esp_ingest"), self._settings(OWNER)
        auth, diagnostics = self._settings("esp_auth"), self._settings("esp_diagnostics")
        archiver = self._settings("esp_archiver")
        return [
            self._role("auth-api", "esp-auth", ("api",), auth),
            self._role("auth-worker", "esp-auth", ("worker",), auth),
            self._role("ingest-api", "esp-ingest", ("api",), ingest),
            self._role("ingest-worker", "esp-ingest", ("worker",), ingest),
            self._role("ingest-maintenance", "esp-ingest", ("maintenance",), owner),
            self._role("diagnostics-api", "esp-diagnostics", ("api",), diagnostics),
            self._role("diagnostics-worker", "esp-diagnostics", ("worker",), diagnostics),
            self._role("archiver-api", "esp-archiver", ("api",), archiver),
            self._role("archiver-worker", "esp-archiver", ("worker",), archiver),
            Role(self._program(SIMULATOR, "esp-gateway", self._simulator(), {}), None),
        ]

    def migrations(self) -> list[Program]:
        """Return what brings each service's schema up to date."""
        return [
            self._migration("ingest", OWNER),
            self._migration("auth", AUTH_OWNER),
            self._migration("diagnostics", DIAGNOSTICS_OWNER),
            self._migration("archiver", ARCHIVER_OWNER),
        ]

    def _migration(self, service: str, owner: str) -> Program:
        return self._program(f"{service}-migrate", f"esp-{service}", ("migrate",), self._settings(owner))

    def bootstrap(self) -> Program:
        """Return what makes the first user and the first API keys, where there are none."""
        stack = self._stack
        first = {
            "api_key": stack.api_key,
            "admin": {"username": ADMIN, "password": stack.admin_password},
            "gateways": stack.gateway_keys,
        }
        arguments = ("bootstrap", "--file", self._secret("auth.bootstrap", json.dumps(first)))
        return self._program("bootstrap", "esp-auth", arguments, self._settings("esp_auth"))

    def simulated_assets(self) -> Program:
        """Return what prints the simulated field's assets."""
        return self._program("assets", "esp-gateway", ("simulate", "--assets"), {})

    def import_assets(self, assets: Path) -> Program:
        """Return what imports `assets`."""
        arguments = ("assets", "import", str(assets))
        return self._program("assets-import", "esp-ingest", arguments, self._settings("esp_ingest"))

    def for_operators(self) -> dict[str, str]:
        """Return the settings with which a person runs the services' commands: from files, not the vault."""
        services = ("esp_ingest", "esp_auth", "esp_diagnostics", "esp_archiver")
        return {name: path for role in services for name, path in self._files(_app_role(role)).items()}

    def fill_vault(self) -> None:
        """Put what the services read into the vault, and what they log in to it with into files."""
        vault = self._stack.vault
        for app_role in APP_ROLES:
            self._secret(f"{app_role.name}.role-id", vault.ensure_app_role(app_role))
            known = self._secrets / f"{app_role.name}.secret-id"
            if not (known.exists() and vault.knows_secret_id(app_role, known.read_text())):
                self._secret(known.name, vault.new_secret_id(app_role))
        for service in {app_role.service for app_role in APP_ROLES}:
            vault.put_secrets(service, self._values(service) | {"database_url": self._database_url("")})

    def _role(self, name: str, command: str, arguments: tuple[str, ...], settings: Mapping[str, str]) -> Role:
        port = self._stack.ports[name]
        prefix = command.replace("-", "_").upper()
        own = {
            f"{prefix}_HTTP_PORT": str(port),
            f"{prefix}_AUDIT_FOLDER": str(
                private_folder(self._stack.homes / "audit" / name, self._stack.user)
            ),
        }
        program = self._program(name, command, arguments, {**settings, **own})
        return Role(program, f"http://127.0.0.1:{port}/health/ready")

    def _program(
        self, name: str, command: str, arguments: tuple[str, ...], settings: Mapping[str, str]
    ) -> Program:
        path = executable(command, str(Path(sys.executable).parent))
        return Program(name, (path, *arguments), self._stack.homes, self._stack.user, settings)

    def _settings(self, database_role: str) -> dict[str, str]:
        """Return the settings of a process with the rights of `database_role`: the vault, and the files
        that stand in for it.
        """
        app_role = _app_role(database_role)
        return {
            "ESP_VAULT_URL": self._stack.openbao.url,
            "ESP_VAULT_ROLE_ID_FILE": str(self._secrets / f"{app_role.name}.role-id"),
            "ESP_VAULT_SECRET_ID_FILE": str(self._secrets / f"{app_role.name}.secret-id"),
            "ESP_VAULT_DATABASE_ROLE": app_role.database_role,
            **self._files(app_role),
        }

    def _files(self, app_role: AppRole) -> dict[str, str]:
        """Return the settings that name the secret files of `app_role`, and the stack's authority."""
        service, role = app_role.service, app_role.database_role
        login = f"{role}:{self._stack.postgres.passwords[role]}@"
        files = {
            name: self._secret(f"{service}.{name}", value) for name, value in self._values(service).items()
        }
        files["database_url"] = self._secret(f"{role}.database", self._database_url(login))
        settings = {f"ESP_{service}_{name}_FILE".upper(): path for name, path in files.items()}
        authority = str(self._stack.ca_file)
        settings |= {f"ESP_{service}_TLS_CA_FILE".upper(): authority}
        if "blob_connection_string" in files:
            settings |= {f"ESP_{service}_BLOB_CA_FILE".upper(): authority}
        return settings

    def _values(self, service: str) -> dict[str, str]:
        """Return the secret settings of `service` but for its database's, which depend on the role."""
        stack = self._stack
        values = {
            "amqp_url": stack.rabbitmq.url_for(service),
            "redis_url": stack.redis.url_of(0, service),
        }
        if service == "auth":
            values |= {
                "master_key": stack.master_key,
                "broker_secret": stack.broker_secret,
                "broker_management_url": stack.rabbitmq.session_keeper_url,
            }
        if service == "archiver":
            values["blob_connection_string"] = stack.azurite.connection_string
        return values

    def _database_url(self, login: str) -> str:
        return self._stack.postgres.address(DATABASE, login=login)

    def _simulator(self) -> tuple[str, ...]:
        stack = self._stack
        keys = {name: key for name, key in stack.gateway_keys.items() if name != ENGINEERS_GATEWAY}
        spool = private_folder(stack.homes / "spool", stack.user)
        return (
            "simulate",
            "--url",
            f"{stack.rabbitmq.address}/",
            "--ca-file",
            str(stack.ca_file),
            "--gateways-file",
            self._secret("gateway.keys", json.dumps(keys)),
            "--spool",
            str(spool),
            *(_past(stack.history_h) if stack.history_h else ()),
        )

    def _secret(self, name: str, value: str) -> str:
        private_folder(self._secrets, self._stack.user)
        return str(private_file(self._secrets / name, value, self._stack.user))


def _past(hours: float) -> Iterator[str]:
    """Return what has the simulated field begin in the past, and some of its pumps suffer since then."""
    yield from ("--history-h", f"{hours:g}")
    for pump, fault, share in SICK_PUMPS:
        yield from ("--fault", f"{pump}:{fault}:1:{hours * share:g}")


def _app_role(database_role: str) -> AppRole:
    return next(app_role for app_role in APP_ROLES if app_role.database_role == database_role)
