"""Vault (or OpenBao): secrets engines, authority, policies, logins of processes, and database logins.

What is there and equal stays, so that certificates and secret ids live on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Final, Protocol

import httpx
from esp_common.vault import MOUNT

from esp_platform.changes import Change, apply
from esp_platform.databases import LOGIN_MAKER
from esp_platform.identities import SNAPSHOT_POLICY, SNAPSHOTS, AppRole

AUTHORITY_NAME: Final = "ESP stack local CA"
HOUR_S: Final = 3600
AUTHORITY_LIFE_S: Final = 87_600 * HOUR_S
CERTIFICATE_LIFE_S: Final = 2160 * HOUR_S
LOGIN_LIFE_S, MAX_LOGIN_LIFE_S = HOUR_S, 24 * HOUR_S
SESSION_PERIOD_S: Final = HOUR_S
SNAPSHOT_TOKEN_LIFE_S: Final = 17_520 * HOUR_S
BOOTSTRAP: Final = "platform"
"""Name under which the bootstrap keeps a digest of the login maker's password, which Vault does not show."""

MAKE_LOGIN: Final = (
    """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' IN ROLE """,
    """ALTER ROLE "{{name}}" SET role = """,
)
# No VALID UNTIL: with Vault away nothing could prolong it, and services go on with what they have. Vault
# ends what has expired as soon as it is back.
END_LOGIN: Final = (
    'ALTER ROLE "{{name}}" NOLOGIN',
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
    'DROP ROLE IF EXISTS "{{name}}"',
)


class VaultApi(Protocol):
    """Vault's HTTP API under `/v1`, with a token that may change all of this; errors are answers as well."""

    def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return the answer to a request."""
        ...


@dataclass(frozen=True)
class TokenIssuer:
    """Issuer of the service-account tokens that log in by `auth/jwt`, and what a token has to say.

    `config`: fields of `auth/jwt/config`. `subject`: the subject of an identity, with `{name}` for its name.
    """

    config: Mapping[str, Any]
    audience: str
    subject: str


class Vault:
    """Contents of a Vault server. `bound_cidrs`: networks an AppRole may log in from; none: any."""

    def __init__(self, server: VaultApi, *, bound_cidrs: Sequence[str] = ()) -> None:
        self._server = server
        self._cidrs = list(bound_cidrs)

    def ensure_engines(self) -> None:
        """Enable key-value store, PKI, database logins and AppRoles."""
        apply(self.engine_changes())

    def engine_changes(self, *, jwt: bool = False) -> Iterator[Change]:
        """Find secrets engines and login methods that are not enabled."""
        engines: dict[str, dict[str, Any]] = {
            MOUNT: {"type": "kv", "options": {"version": "2"}},
            "pki": {"type": "pki", "config": {"max_lease_ttl": AUTHORITY_LIFE_S}},
            "database": {"type": "database"},
        }
        present = self._read("sys/mounts")
        for name, engine in engines.items():
            if f"{name}/" not in present:
                path = f"sys/mounts/{name}"
                yield Change(f"enable secrets engine {name}", partial(self._write, path, engine))
        methods = self._read("sys/auth")
        for name in ("approle", *(["jwt"] if jwt else [])):
            if f"{name}/" not in methods:
                path = f"sys/auth/{name}"
                yield Change(f"enable login method {name}", partial(self._write, path, {"type": name}))

    def ensure_authority(self, names: Sequence[str] = ("localhost",)) -> str:
        """Create the authority and its right to certify `names`; return its certificate (PEM)."""
        apply(self.authority_changes(names))
        return self.authority()

    def authority(self) -> str:
        """Return the certificate (PEM) of the authority; empty while there is none."""
        answer = self._server.api("GET", "pki/ca/pem")
        return answer.text if answer.is_success else ""

    def authority_changes(self, names: Sequence[str]) -> Iterator[Change]:
        """Find whether the authority is missing or may not certify `names`; its key never leaves Vault."""
        if not self.authority():
            fields = {
                "common_name": AUTHORITY_NAME,
                "ttl": AUTHORITY_LIFE_S,
                "key_type": "ec",
                "key_bits": 256,
            }
            write = partial(self._write, "pki/root/generate/internal", fields)
            yield Change("create certificate authority", write)
        role = {
            "allowed_domains": list(names),
            "allow_bare_domains": True,
            "allow_ip_sans": True,
            "key_type": "ec",
            "key_bits": 256,
            "max_ttl": CERTIFICATE_LIFE_S,
        }
        yield from self._object_changes("pki/roles/server", role, "certificate role server")

    def issue_certificate(self, names: Sequence[str] = ("localhost",), ip: str = "127.0.0.1") -> str:
        """Return a new certificate for `names` and `ip`, and its key, as one PEM text."""
        common_name, *others = names
        fields = {"common_name": common_name, "alt_names": ",".join(others), "ip_sans": ip}
        answer = self._write("pki/issue/server", {**fields, "ttl": CERTIFICATE_LIFE_S})["data"]
        return f"{answer['certificate']}\n{answer['private_key']}\n"

    def ensure_logins(self, connection_url: str, password: str, database_roles: list[str]) -> None:
        """Let Vault create logins of `database_roles`; see `login_changes`."""
        apply(self.login_changes(connection_url, password, database_roles))

    def login_changes(
        self, connection_url: str, password: str, database_roles: Sequence[str]
    ) -> Iterator[Change]:
        """Find what Vault lacks to create logins of `database_roles`.

        `connection_url` has `{{username}}:{{password}}` for the login maker's.
        """
        details = {
            "connection_url": connection_url,
            "username": LOGIN_MAKER,
            "password_authentication": "scram-sha-256",
        }
        config = {"plugin_name": "postgresql-database-plugin", "allowed_roles": list(database_roles)}
        digest = {"login_maker_sha256": sha256(password.encode()).hexdigest()}
        present = self._read("database/config/esp")
        is_equal = _is_equal(details, present.get("connection_details", {})) and _is_equal(config, present)
        if not is_equal or self._secrets(BOOTSTRAP) != digest:
            yield Change(
                "set database connection esp",
                lambda: self._set_connection(details | config, password, digest),
            )
        make, assume = MAKE_LOGIN
        for role in database_roles:
            fields = {
                "db_name": "esp",
                # A session starts as the role itself, which then owns what the login creates.
                "creation_statements": [f"{make}{role}", f"{assume}'{role}'"],
                "revocation_statements": list(END_LOGIN),
                "default_ttl": LOGIN_LIFE_S,
                "max_ttl": MAX_LOGIN_LIFE_S,
            }
            yield from self._object_changes(
                f"database/roles/{role}", fields, f"logins of database role {role}"
            )

    def _set_connection(self, fields: Mapping[str, Any], password: str, digest: Mapping[str, str]) -> None:
        self._write("database/config/esp", {**fields, "password": password})
        self._write(f"{MOUNT}/data/{BOOTSTRAP}", {"data": dict(digest)})

    def ensure_app_role(self, app_role: AppRole, **limits: Any) -> str:
        """Create `app_role` with its policy and return its role id; `limits`: other fields of an AppRole."""
        apply(self.app_role_changes(app_role, **limits))
        return self.role_id(app_role)

    def role_id(self, app_role: AppRole) -> str:
        """Return the role id of an AppRole."""
        return str(self._read(f"auth/approle/role/{app_role.name}/role-id")["role_id"])

    def app_role_changes(self, app_role: AppRole, **limits: Any) -> Iterator[Change]:
        """Find whether the policy or the AppRole of an identity is missing or different."""
        yield from self.policy_changes(app_role.name, app_role.policy)
        fields = {
            "token_policies": [app_role.name],
            "token_period": SESSION_PERIOD_S,
            "token_bound_cidrs": self._cidrs,
            **limits,
        }
        path = f"auth/approle/role/{app_role.name}"
        yield from self._object_changes(path, fields, f"AppRole {app_role.name}")

    def policy_changes(self, name: str, policy: str) -> Iterator[Change]:
        """Find whether a policy is missing or different."""
        yield from self._object_changes(f"sys/policies/acl/{name}", {"policy": policy}, f"policy {name}")

    def issuer_changes(self, issuer: TokenIssuer) -> Iterator[Change]:
        """Find whether `auth/jwt` trusts another issuer."""
        yield from self._object_changes("auth/jwt/config", issuer.config, "issuer of service-account tokens")

    def jwt_role_changes(self, app_role: AppRole, issuer: TokenIssuer) -> Iterator[Change]:
        """Find whether the identity cannot log in with a service-account token of `issuer`."""
        fields = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [issuer.audience],
            "bound_subject": issuer.subject.format(name=app_role.name),
            "token_policies": [app_role.name],
            "token_period": SESSION_PERIOD_S,
        }
        yield from self._object_changes(f"auth/jwt/role/{app_role.name}", fields, f"JWT role {app_role.name}")

    def new_secret_id(self, app_role: AppRole) -> str:
        """Return a new secret id, usable from the bound networks only."""
        path = f"auth/approle/role/{app_role.name}/secret-id"
        return str(self._write(path, {"cidr_list": self._cidrs})["data"]["secret_id"])

    def knows_secret_id(self, app_role: AppRole, secret_id: str) -> bool:
        """Return whether `secret_id` is one of the AppRole's."""
        path = f"auth/approle/role/{app_role.name}/secret-id/lookup"
        answer = self._server.api("POST", path, {"secret_id": secret_id})
        return answer.status_code == httpx.codes.OK

    def ensure_snapshot_token(self, token: str) -> None:
        """Create `token`, which takes snapshots of the whole vault and does nothing else."""
        apply(self.snapshot_token_changes(token))

    def snapshot_token_changes(self, token: str) -> Iterator[Change]:
        """Find whether the token that takes snapshots, or its policy, is missing."""
        yield from self.policy_changes(SNAPSHOTS, SNAPSHOT_POLICY)
        if not self._server.api("POST", "auth/token/lookup", {"token": token}).is_success:
            fields = {"id": token, "policies": [SNAPSHOTS], "period": SNAPSHOT_TOKEN_LIFE_S}
            write = partial(self._write, "auth/token/create-orphan", {**fields, "display_name": "backup"})
            yield Change("create token for snapshots", write)

    def put_secrets(self, service: str, values: Mapping[str, str]) -> None:
        """Store `values` with what `service` reads; see `secret_changes`."""
        apply(self.secret_changes(service, values))

    def secret_changes(self, service: str, values: Mapping[str, str]) -> Iterator[Change]:
        """Find secrets of `service` that are missing or different; others stay as they are."""
        present = self._secrets(service)
        names = sorted(name for name, value in values.items() if present.get(name) != value)
        if names:
            write = partial(self._write, f"{MOUNT}/data/{service}", {"data": {**present, **values}})
            yield Change(f"set secrets of {service}: {', '.join(names)}", write)

    def _secrets(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self._read(f"{MOUNT}/data/{service}").get("data") or {}
        return found

    def _object_changes(self, path: str, wanted: Mapping[str, Any], what: str) -> Iterator[Change]:
        present = self._read(path)
        if not _is_equal(wanted, present):
            yield Change(f"{'set' if present else 'create'} {what}", partial(self._write, path, wanted))

    def _read(self, path: str) -> dict[str, Any]:
        """Return what is at `path`; nothing if it is not there."""
        answer = self._server.api("GET", path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return {}
        data: dict[str, Any] = answer.raise_for_status().json()["data"]
        return data

    def _write(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._server.api("POST", path, dict(body)).raise_for_status()
        document: dict[str, Any] = answer.json() if answer.content else {}
        return document


def _is_equal(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    return all(_comparable(value) == _comparable(present.get(name)) for name, value in wanted.items())


def _comparable(value: Any) -> Any:
    """Return a value without the differences in how Vault shows it: order, `/32` of an address."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return sorted(str(item).strip().removesuffix("/32") for item in value)
    return value.strip() if isinstance(value, str) else value
