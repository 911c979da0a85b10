"""What the platform needs in its Vault: an authority, secrets, AppRoles, and database logins that expire.

All of it is idempotent: what is there already stays, so that certificates and secret ids live on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from esp_common.vault import MOUNT
from psycopg import sql

from esp_stack.databases import ARCHIVER_OWNER, AUTH_OWNER, BACKUP_OWNER, DIAGNOSTICS_OWNER, OWNER
from esp_stack.servers.openbao import OpenBao

LOGIN_MAKER = "esp_vault"
"""The database role as which Vault makes logins."""
AUTHORITY_NAME = "ESP stack local CA"
AUTHORITY_LIFE = "87600h"
CERTIFICATE_LIFE = "2160h"
LOGIN_LIFE, LONGEST_LOGIN_LIFE = "1h", "24h"
SESSION_PERIOD = "1h"
SNAPSHOTS = "backup-snapshots"
SNAPSHOT_TOKEN_LIFE = "17520h"  # noqa: S105 - a time

MAKE_LOGIN = (
    """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' IN ROLE """,
    """ALTER ROLE "{{name}}" SET role = """,
)
# No VALID UNTIL: with Vault away nothing could prolong it, and services go on with what they have. Vault
# ends what has expired as soon as it is back.
END_LOGIN = (
    'ALTER ROLE "{{name}}" NOLOGIN',
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
    'DROP ROLE IF EXISTS "{{name}}"',
)


@dataclass(frozen=True)
class AppRole:
    """Who a process is to Vault: it reads `service`'s secrets and has logins of one database role."""

    name: str
    service: str
    database_role: str

    @property
    def policy(self) -> str:
        """The rights of this AppRole, and there are no others."""
        paths = (f"{MOUNT}/data/{self.service}", f"database/creds/{self.database_role}")
        return "\n".join(f'path "{path}" {{ capabilities = ["read"] }}' for path in paths)


APP_ROLES = (
    AppRole("ingest", "ingest", "esp_ingest"),
    AppRole("ingest-owner", "ingest", OWNER),
    AppRole("auth", "auth", "esp_auth"),
    AppRole("auth-owner", "auth", AUTH_OWNER),
    AppRole("diagnostics", "diagnostics", "esp_diagnostics"),
    AppRole("diagnostics-owner", "diagnostics", DIAGNOSTICS_OWNER),
    AppRole("archiver", "archiver", "esp_archiver"),
    AppRole("archiver-owner", "archiver", ARCHIVER_OWNER),
    AppRole("backup", "backup", "esp_backup"),
    AppRole("backup-owner", "backup", BACKUP_OWNER),
)


class Vault:
    """The contents of an OpenBao server, as its root sees to them."""

    def __init__(self, server: OpenBao) -> None:
        self._server = server

    def ensure_engines(self) -> None:
        """Mount key-value store, PKI, database logins and AppRoles."""
        mounts, methods = self._read("sys/mounts"), self._read("sys/auth")
        wanted: dict[str, dict[str, Any]] = {
            MOUNT: {"type": "kv", "options": {"version": "2"}},
            "pki": {"type": "pki", "config": {"max_lease_ttl": AUTHORITY_LIFE}},
            "database": {"type": "database"},
        }
        for name, engine in wanted.items():
            if f"{name}/" not in mounts:
                self._write(f"sys/mounts/{name}", engine)
        if "approle/" not in methods:
            self._write("sys/auth/approle", {"type": "approle"})

    def ensure_authority(self) -> str:
        """Return the certificate (PEM) of the authority, made at the first call; its key never leaves."""
        if not (pem := self._authority()):
            self._write(
                "pki/root/generate/internal",
                {"common_name": AUTHORITY_NAME, "ttl": AUTHORITY_LIFE, "key_type": "ec", "key_bits": 256},
            )
            pem = self._authority()
        self._write(
            "pki/roles/server",
            {
                "allowed_domains": "localhost",
                "allow_bare_domains": True,
                "allow_ip_sans": True,
                "key_type": "ec",
                "key_bits": 256,
                "max_ttl": CERTIFICATE_LIFE,
            },
        )
        return pem

    def issue_certificate(self) -> str:
        """Return a new certificate for this machine and its key, as one PEM text."""
        answer = self._write(
            "pki/issue/server",
            {"common_name": "localhost", "ip_sans": "127.0.0.1", "ttl": CERTIFICATE_LIFE},
        )["data"]
        return f"{answer['certificate']}\n{answer['private_key']}\n"

    def ensure_logins(self, connection_url: str, password: str, database_roles: list[str]) -> None:
        """Have logins of `database_roles` made over `connection_url` (with `{{username}}:{{password}}`)."""
        connection = {
            "plugin_name": "postgresql-database-plugin",
            "connection_url": connection_url,
            "username": LOGIN_MAKER,
            "password": password,
            "password_authentication": "scram-sha-256",
            "allowed_roles": database_roles,
        }
        self._write("database/config/esp", connection)
        for role in database_roles:
            make, assume = MAKE_LOGIN
            self._write(
                f"database/roles/{role}",
                {
                    "db_name": "esp",
                    # Starting as the role itself, whatever a login makes is the role's.
                    "creation_statements": [f"{make}{role}", f"{assume}'{role}'"],
                    "revocation_statements": list(END_LOGIN),
                    "default_ttl": LOGIN_LIFE,
                    "max_ttl": LONGEST_LOGIN_LIFE,
                },
            )

    def ensure_app_role(self, app_role: AppRole, **limits: Any) -> str:
        """Have `app_role` with its policy and return its role id; `limits`: other fields of an AppRole."""
        path = f"auth/approle/role/{app_role.name}"
        self._write(f"sys/policies/acl/{app_role.name}", {"policy": app_role.policy})
        fields = {"token_policies": [app_role.name], "token_period": SESSION_PERIOD, **limits}
        self._write(path, {"token_bound_cidrs": ["127.0.0.1/32"], **fields})
        return str(self._read(f"{path}/role-id")["role_id"])

    def new_secret_id(self, app_role: AppRole) -> str:
        """Return a new secret id, usable from this machine only."""
        answer = self._write(f"auth/approle/role/{app_role.name}/secret-id", {"cidr_list": ["127.0.0.1/32"]})
        return str(answer["data"]["secret_id"])

    def knows_secret_id(self, app_role: AppRole, secret_id: str) -> bool:
        """Return whether `secret_id` is one of the AppRole's."""
        path = f"auth/approle/role/{app_role.name}/secret-id/lookup"
        answer = self._server.api("POST", path, {"secret_id": secret_id})
        return answer.status_code == httpx.codes.OK

    def ensure_snapshot_token(self, token: str) -> None:
        """Have `token` take snapshots of the whole vault, and do nothing else."""
        if self._server.api("POST", "auth/token/lookup", {"token": token}).is_success:
            return
        policy = 'path "sys/storage/raft/snapshot" { capabilities = ["read"] }'
        self._write(f"sys/policies/acl/{SNAPSHOTS}", {"policy": policy})
        wanted = {"id": token, "policies": [SNAPSHOTS], "period": SNAPSHOT_TOKEN_LIFE}
        self._write("auth/token/create-orphan", {**wanted, "display_name": "backup"})

    def put_secrets(self, service: str, values: Mapping[str, str]) -> None:
        """Have `values` as what `service` reads; nothing is written when they are there already."""
        answer = self._server.api("GET", f"{MOUNT}/data/{service}")
        if answer.is_success and answer.json()["data"]["data"] == dict(values):
            return
        self._write(f"{MOUNT}/data/{service}", {"data": dict(values)})

    def _authority(self) -> str:
        answer = self._server.api("GET", "pki/ca/pem")
        return answer.text if answer.is_success else ""

    def _read(self, path: str) -> dict[str, Any]:
        data: dict[str, Any] = self._server.api("GET", path).raise_for_status().json()["data"]
        return data

    def _write(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._server.api("POST", path, dict(body)).raise_for_status()
        document: dict[str, Any] = answer.json() if answer.content else {}
        return document


def ensure_login_maker(admin_url: str, password: str) -> None:
    """Have the database role as which Vault makes logins and ends their sessions."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        known = "SELECT 1 FROM pg_roles WHERE rolname = %s"
        verb = "ALTER" if connection.execute(known, (LOGIN_MAKER,)).fetchone() else "CREATE"
        verifier = connection.pgconn.encrypt_password(
            password.encode(), LOGIN_MAKER.encode(), b"scram-sha-256"
        ).decode()
        name = sql.Identifier(LOGIN_MAKER)
        connection.execute(
            sql.SQL("{} ROLE {} LOGIN CREATEROLE PASSWORD {}").format(
                sql.SQL(verb), name, sql.Literal(verifier)
            )
        )
        connection.execute(sql.SQL("GRANT pg_signal_backend TO {}").format(name))
