"""The roles: every process of ours, its settings, and the files its credentials are in."""

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from esp_auth.domain.secrets import AUDIT_CHAIN, decode_master_key, derive
from esp_common import topology
from esp_platform.databases import ARCHIVER_OWNER, AUTH_OWNER, BACKUP_OWNER, DIAGNOSTICS_OWNER, OWNER
from esp_platform.identities import APP_ROLES, AppRole
from esp_platform.service_secrets import service_secrets

from esp_stack.accounts import account_of
from esp_stack.programs import Program, executable, private_file, private_folder, share_folder
from esp_stack.stack import ADMIN, DATABASE, ENGINEERS_GATEWAY, Stack

SIMULATOR = "gateway-sim"
ROLES = (
    *("auth-api", "auth-worker", "ingest-api", "ingest-worker", "ingest-maintenance"),
    *("diagnostics-api", "diagnostics-worker", "diagnostics-notifier", "archiver-api", "archiver-worker"),
    *("backup-api", "backup-worker", SIMULATOR),
)

API_ROLES = tuple(name for name in ROLES if name.endswith("-api"))

SICK_PUMPS = (
    ("SIM-004", "gas_interference", 0.05),
    ("SIM-013", "tubing_hole", 0.1),
    ("SIM-022", "pump_wear", 0.2),
    ("SIM-007", "gauge_failure", 0.1),
    ("SIM-038", "flowline_restriction", 0.15),
    ("SIM-045", "phase_unbalance", 0.02),
)
"""Pumps of the simulated field with a past, their faults, and for which share of that past they have them."""


@dataclass(frozen=True)
class Role:
    """One process of ours; `ready_url` answers 200 when it does its work (None: it does while it runs)."""

    program: Program
    ready_url: str | None


@dataclass(frozen=True)
class Secrets:
    """Files that one account alone can read."""

    folder: Path
    user: str | None

    def write(self, name: str, value: str) -> str:
        """Have `value` in the file `name`; return its path."""
        private_folder(self.folder, self.user)
        return str(private_file(self.folder / name, value, self.user))


@dataclass(frozen=True)
class Identity:
    """As which account a process runs, and the settings it has there."""

    user: str | None
    settings: Mapping[str, str]


class Roles:
    """The roles of a stack. Credentials reach them as files that only their account can read."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        folder = stack.homes / "secrets"
        self._secrets = {
            app_role: Secrets(folder / app_role.name, account_of(app_role.name)) for app_role in APP_ROLES
        }
        self._gateway_secrets = Secrets(folder / "gateway", account_of("gateway"))
        # The backup worker reads the database's files, so it runs as the database's account.
        self._cluster_secrets = Secrets(folder / "backup-worker", stack.cluster_user)

    def all(self) -> list[Role]:
        """Return every role, in starting order."""
        ingest, owner = self._settings("esp_ingest"), self._settings(OWNER)
        auth, diagnostics = self._settings("esp_auth"), self._settings("esp_diagnostics")
        archiver = self._settings("esp_archiver")
        return [
            self._role("auth-api", "esp-auth", ("api",), auth),
            self._role("auth-worker", "esp-auth", ("worker",), self._auth_worker(auth)),
            self._role("ingest-api", "esp-ingest", ("api",), ingest),
            self._role("ingest-worker", "esp-ingest", ("worker",), ingest),
            self._role("ingest-maintenance", "esp-ingest", ("maintenance",), owner),
            self._role("diagnostics-api", "esp-diagnostics", ("api",), diagnostics),
            self._role("diagnostics-worker", "esp-diagnostics", ("worker",), diagnostics),
            self._role("diagnostics-notifier", "esp-diagnostics", ("notifier",), diagnostics),
            self._role("archiver-api", "esp-archiver", ("api",), archiver),
            self._role("archiver-worker", "esp-archiver", ("worker",), archiver),
            self._role("backup-api", "esp-backup", ("api",), self._backup_settings()),
            self._role(
                "backup-worker",
                "esp-backup",
                ("worker",),
                self._with_audit_key(self._backup_settings(self._cluster_secrets)),
            ),
            Role(self._gateway_program(SIMULATOR, self._simulator()), None),
        ]

    def migrations(self) -> list[Program]:
        """Return what brings each service's schema up to date."""
        return [
            self._migration("ingest", OWNER),
            self._migration("auth", AUTH_OWNER),
            self._migration("diagnostics", DIAGNOSTICS_OWNER),
            self._migration("archiver", ARCHIVER_OWNER),
            self._migration("backup", BACKUP_OWNER),
        ]

    def _migration(self, service: str, owner: str) -> Program:
        return self._program(f"{service}-migrate", f"esp-{service}", ("migrate",), self._settings(owner))

    @property
    def bootstrap_file(self) -> Path:
        """The file `bootstrap()` reads: it has keys of others, so it is removed when that has run."""
        return self._secrets[_app_role("esp_auth")].folder / "auth.bootstrap"

    def bootstrap(self) -> Program:
        """Return what makes the first user and the first API keys, where there are none."""
        stack = self._stack
        first = {
            "api_key": stack.api_key,
            "admin": {"username": ADMIN, "password": stack.admin_password},
            "gateways": stack.gateway_keys,
        }
        secrets = self._secrets[_app_role("esp_auth")]
        arguments = ("bootstrap", "--file", secrets.write(self.bootstrap_file.name, json.dumps(first)))
        return self._program("bootstrap", "esp-auth", arguments, self._settings("esp_auth"))

    def simulated_assets(self) -> Program:
        """Return what prints the simulated field's assets."""
        return self._gateway_program("assets", ("simulate", "--assets"))

    def import_assets(self, assets: Path) -> Program:
        """Return what imports `assets`."""
        arguments = ("assets", "import", str(assets))
        return self._program("assets-import", "esp-ingest", arguments, self._settings("esp_ingest"))

    def for_operators(self) -> dict[str, str]:
        """Return the settings with which a person runs the services' commands: from files, not the vault."""
        files = {
            name: path
            for app_role in map(_app_role, (f"esp_{service}" for service in topology.SERVICES))
            for name, path in self._files(app_role, self._secrets[app_role]).items()
        }
        return files | self._cluster()

    def fill_vault(self) -> None:
        """Put what the services read into the vault, and what they log in to it with into files."""
        vault = self._stack.vault
        for app_role in APP_ROLES:
            places = [self._secrets[app_role]]
            if app_role.database_role == "esp_backup":
                places.append(self._cluster_secrets)
            for secrets in places:
                self._let_log_in(app_role, secrets)
        vault.ensure_snapshot_token(self._stack.snapshot_token)
        for service in {app_role.service for app_role in APP_ROLES}:
            vault.put_secrets(service, self._values(service) | {"database_url": self._database_url("")})

    def _let_log_in(self, app_role: AppRole, secrets: Secrets) -> None:
        """Have in files with what an AppRole logs in to the vault."""
        vault = self._stack.vault
        secrets.write(f"{app_role.name}.role-id", vault.ensure_app_role(app_role))
        known = secrets.folder / f"{app_role.name}.secret-id"
        if not (known.exists() and vault.knows_secret_id(app_role, known.read_text())):
            secrets.write(known.name, vault.new_secret_id(app_role))

    def _role(self, name: str, command: str, arguments: tuple[str, ...], identity: Identity) -> Role:
        stack = self._stack
        prefix = command.replace("-", "_").upper()
        own = {
            **({f"{prefix}_HTTP_PORT": str(stack.ports[name])} if name in API_ROLES else {}),
            f"{prefix}_METRICS_PORT": str(metrics_port(stack, name)),
            f"{prefix}_AUDIT_FOLDER": str(private_folder(stack.homes / "audit" / name, identity.user)),
        }
        program = self._program(name, command, arguments, identity)
        program = replace(program, environment={**identity.settings, **own})
        return Role(program, f"http://127.0.0.1:{metrics_port(stack, name)}/health/ready")

    def _gateway_program(self, name: str, arguments: tuple[str, ...]) -> Program:
        return self._program(name, "esp-gateway", arguments, Identity(account_of("gateway"), {}))

    def _program(self, name: str, command: str, arguments: tuple[str, ...], identity: Identity) -> Program:
        path = executable(command, str(Path(sys.executable).parent))
        return Program(name, (path, *arguments), self._stack.homes, identity.user, identity.settings)

    def _settings(self, database_role: str, secrets: Secrets | None = None) -> Identity:
        """Return as whom a process with the rights of `database_role` runs, and its settings: the vault,
        and the files that stand in for it.
        """
        app_role = _app_role(database_role)
        secrets = secrets or self._secrets[app_role]
        settings = {
            "ESP_VAULT_URL": self._stack.openbao.url,
            "ESP_VAULT_ROLE_ID_FILE": str(secrets.folder / f"{app_role.name}.role-id"),
            "ESP_VAULT_SECRET_ID_FILE": str(secrets.folder / f"{app_role.name}.secret-id"),
            "ESP_VAULT_DATABASE_ROLE": app_role.database_role,
            **self._files(app_role, secrets),
        }
        return Identity(secrets.user, settings)

    def _auth_worker(self, auth: Identity) -> Identity:
        """Return auth's settings with the socket that nginx, as the folder's group, writes to."""
        socket = self._stack.refusals_socket
        socket.parent.mkdir(exist_ok=True)
        share_folder(socket.parent, auth.user, self._stack.nginx.user)
        return replace(auth, settings={**auth.settings, "ESP_AUTH_EDGE_LOG_SOCKET": str(socket)})

    def _backup_settings(self, secrets: Secrets | None = None) -> Identity:
        """Return the settings of a role of backup: the cluster's files, and where backups go."""
        identity = self._settings("esp_backup", secrets)
        return replace(identity, settings={**identity.settings, **self._cluster()})

    def _with_audit_key(self, identity: Identity) -> Identity:
        """Let a restore drill verify the seals of the audit log, without auth's master key."""
        key = derive(decode_master_key(self._stack.master_key), AUDIT_CHAIN)
        file = self._cluster_secrets.write("auth.audit_key", base64.b64encode(key).decode())
        verify = f"{executable('esp-auth', str(Path(sys.executable).parent))} audit verify"
        own = {"ESP_BACKUP_AUDIT_VERIFY_COMMAND": verify, "ESP_AUTH_AUDIT_KEY_FILE": file}
        return replace(identity, settings={**identity.settings, **own})

    def _cluster(self) -> dict[str, str]:
        stack = self._stack
        own = {
            "cluster_data": stack.postgres.data,
            "postgres_bin": stack.postgres.binaries,
            "state_folder": private_folder(stack.backup_state, stack.postgres.user),
            "snapshot_folder": private_folder(stack.homes / "snapshots", stack.postgres.user),
            "local_repository": private_folder(stack.homes / "backups", stack.postgres.user),
            "vault_snapshot_url": stack.openbao.url,
            "configuration_files": private_folder(stack.kept_configuration, stack.postgres.user),
        }
        return {f"ESP_BACKUP_{name}".upper(): str(value) for name, value in own.items()}

    def _files(self, app_role: AppRole, secrets: Secrets) -> dict[str, str]:
        """Return the settings that name the secret files of `app_role`, and the stack's authority."""
        service, role = app_role.service, app_role.database_role
        login = f"{role}:{self._stack.postgres.passwords[role]}@"
        files = {
            name: secrets.write(f"{service}.{name}", value) for name, value in self._values(service).items()
        }
        files["database_url"] = secrets.write(f"{role}.database", self._database_url(login))
        settings = {f"ESP_{service}_{name}_FILE".upper(): path for name, path in files.items()}
        authority = str(self._stack.ca_file)
        settings |= {f"ESP_{service}_TLS_CA_FILE".upper(): authority}
        if "blob_connection_string" in files:
            settings |= {f"ESP_{service}_BLOB_CA_FILE".upper(): authority}
        return settings

    def _values(self, service: str) -> dict[str, str]:
        """Return the secret settings of `service` but for its database's, which depend on the role."""
        return service_secrets(service, self._stack.addresses, self._stack.credentials.get)

    def _database_url(self, login: str) -> str:
        return self._stack.postgres.address(DATABASE, login=login)

    def _simulator(self) -> tuple[str, ...]:
        stack = self._stack
        keys = {name: key for name, key in stack.gateway_keys.items() if name != ENGINEERS_GATEWAY}
        spool = private_folder(stack.homes / "spool", account_of("gateway"))
        return (
            "simulate",
            "--url",
            f"{stack.rabbitmq.address}/",
            "--ca-file",
            str(stack.ca_file),
            "--gateways-file",
            self._gateway_secrets.write("gateway.keys", json.dumps(keys)),
            "--spool",
            str(spool),
            *(_past(stack.history_h) if stack.history_h else ()),
        )


def metrics_port(stack: Stack, role: str) -> int:
    """Return the port of the role's health and metrics: a role without an API has no other."""
    return stack.ports[f"{role}-metrics" if role in API_ROLES else role]


def _past(hours: float) -> Iterator[str]:
    """Return what has the simulated field begin in the past, and some of its pumps suffer since then."""
    yield from ("--history-h", f"{hours:g}")
    for pump, fault, share in SICK_PUMPS:
        yield from ("--fault", f"{pump}:{fault}:1:{hours * share:g}")


def _app_role(database_role: str) -> AppRole:
    return next(app_role for app_role in APP_ROLES if app_role.database_role == database_role)
