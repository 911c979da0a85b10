"""Secrets from Vault (HashiCorp's, or OpenBao): settings from KV v2, and database logins that expire.

A process that is told `ESP_VAULT_URL` logs in with its AppRole or, on Kubernetes, with its projected
service-account token, reads the settings under
`esp/<service>`, and takes a database login of its own from `database/creds/<role>`. Its `VaultKeeper`
renews what expires, and replaces in time what cannot be renewed. While Vault is away the last known
values stay in use; if it is away at the start, or makes no database login, the secret files and the
environment are used instead, loudly: a critical log line, `esp_vault_fallback` and `vault` in
`/health/ready`. The keeper goes on asking, and returns to Vault's secrets by itself.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit, urlunsplit

import hvac
import requests
import structlog
from hvac import exceptions as refusals
from prometheus_client import Gauge

from esp_common.errors import InvalidInput
from esp_common.secrets import read_secret

log = structlog.get_logger()
_said_early: list[tuple[str, str, dict[str, Any]]] = []

VARIABLES: Final = {
    "ESP_VAULT_URL": "Vault's base URL, https unless it is on this machine; none: no Vault.",
    "ESP_VAULT_ROLE_ID_FILE": "File with the AppRole's role id.",
    "ESP_VAULT_SECRET_ID_FILE": "File with the AppRole's secret id.",
    "ESP_VAULT_JWT_FILE": "File with a service-account token, instead of an AppRole; read at each login.",
    "ESP_VAULT_JWT_ROLE": "Role of that login; none: the service's name.",
    "ESP_VAULT_JWT_MOUNT": "Path of that login method, jwt or kubernetes; none: jwt.",
    "ESP_VAULT_CA_FILE": "PEM file of the authority that signed Vault's certificate; none: the system's.",
    "ESP_VAULT_DATABASE_ROLE": "Database role whose logins Vault makes; none: the login of database_url.",
}
MOUNT: Final = "esp"
TIMEOUT_S: Final = 5
RETRY_S: Final = 5.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_AWAY: Final = (
    requests.RequestException,
    refusals.VaultDown,
    refusals.VaultNotInitialized,
    refusals.InternalServerError,
    refusals.BadGateway,
    refusals.RateLimitExceeded,
)
"""Vault does not answer, is sealed, or cannot reach the database. Any other error is a refusal."""

_FALLBACK: Final = Gauge(
    "esp_vault_fallback",
    "Whether secrets in use come from files or the environment because Vault was away at the start.",
)


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """Vault's address and this process's identity: an AppRole, or the owner of the token in `jwt_file`."""

    url: str
    role_id_file: str = ""
    secret_id_file: str = ""
    ca_file: str | None = None
    database_role: str | None = None
    jwt_file: str | None = None
    jwt_role: str | None = None
    jwt_mount: str = "jwt"

    @classmethod
    def from_environment(cls) -> Self | None:
        """Return the access in `VARIABLES`, None without a URL; raise InvalidInput if one is missing."""
        url = os.environ.get("ESP_VAULT_URL")
        if not url:
            return None
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise InvalidInput(
                "ESP_VAULT_URL is not https", fix="give an https address, and ESP_VAULT_CA_FILE"
            )
        role_id_file, secret_id_file = map(
            os.environ.get, ("ESP_VAULT_ROLE_ID_FILE", "ESP_VAULT_SECRET_ID_FILE")
        )
        jwt_file = os.environ.get("ESP_VAULT_JWT_FILE") or None
        if bool(role_id_file and secret_id_file) == bool(jwt_file):
            raise InvalidInput(
                "ESP_VAULT_URL needs either an AppRole or a service-account token",
                fix="set ESP_VAULT_ROLE_ID_FILE and ESP_VAULT_SECRET_ID_FILE, or else ESP_VAULT_JWT_FILE",
            )
        return cls(
            url,
            role_id_file or "",
            secret_id_file or "",
            ca_file=os.environ.get("ESP_VAULT_CA_FILE") or None,
            database_role=os.environ.get("ESP_VAULT_DATABASE_ROLE") or None,
            jwt_file=jwt_file,
            jwt_role=os.environ.get("ESP_VAULT_JWT_ROLE") or None,
            jwt_mount=os.environ.get("ESP_VAULT_JWT_MOUNT") or "jwt",
        )


@dataclass(frozen=True, slots=True)
class Login:
    """A database login issued by Vault for this process, with its lease (seconds)."""

    user: str
    password: str = field(repr=False)
    lease_id: str
    duration_s: float


class VaultKeeper:
    """One process's session with Vault as `service`.

    `settings()` returns Vault's values for the service; `start()` then keeps the session and the database
    login alive, and `close()` revokes both. `retry_s`: pause between attempts while Vault is unavailable.
    """

    def __init__(self, access: VaultAccess, service: str, *, retry_s: float = RETRY_S) -> None:
        self._access = access
        self._service = service
        self._retry_s = retry_s
        self._client = hvac.Client(url=access.url, verify=access.ca_file or True, timeout=TIMEOUT_S)
        self._values: dict[str, Any] | None = None
        self._login: Login | None = None
        self._renew_at = 0.0
        self._answers = True
        self._fell_back = False
        self._on_login: list[Callable[[], object]] = []
        self._on_return: list[Callable[[], object]] = []
        self._lock = Lock()
        self._wake = Event()
        self._closed = False
        self._thread: Thread | None = None

    @property
    def state(self) -> str:
        """State for operators: ok, last known (Vault is unavailable) or fallback (it was at the start)."""
        if self._fell_back:
            return "fallback: secrets are from files or the environment until Vault gives them again"
        return "ok" if self._answers else "away: last known secrets are in use"

    @property
    def fell_back(self) -> bool:
        """Whether secrets from elsewhere than Vault are in use."""
        return self._fell_back

    @property
    def login(self) -> Login | None:
        """The database login for new connections; None: that of the settings."""
        return self._login

    def settings(self) -> dict[str, Any]:
        """Return the service's settings by name, with a database login of its own in `database_url`.

        Values are read once and kept while Vault is unavailable. Returns nothing, with a critical log line,
        if Vault is unavailable from the start; raises InvalidInput if it refuses this process.
        """
        with self._lock:
            if self._values is None:
                try:
                    self._read()
                except _AWAY as error:
                    self._fall_back(error)
            return dict(self._values or {})

    def start(self) -> None:
        """Start the renewal thread, which ends with the process; idempotent."""
        if self._thread is None and (self._access.database_role or self._login or self._fell_back):
            self._thread = Thread(target=self.run, name="vault", daemon=True)
            self._thread.start()

    def run(self) -> None:
        """Renew the session and the database login until closed, retrying on every failure."""
        while not self._closed:
            self._wake.wait(max(0.0, self._renew_at - monotonic()))
            self._wake.clear()
            with self._lock:
                had_fallen_back = self._fell_back
                if not self._closed:
                    self._tend()
            if had_fallen_back and not self._fell_back:
                for call in self._on_return:  # without the lock: they may ask for the settings
                    call()

    def on_return(self, call: Callable[[], object]) -> None:
        """Call `call()` in the keeper's thread when Vault returns after a fallback."""
        self._on_return.append(call)

    def on_login(self, call: Callable[[], object]) -> None:
        """Call `call()` in the keeper's thread for each new database login."""
        self._on_login.append(call)

    def replace(self, user: str) -> bool:
        """Request a new login at once if `user`, which the database refused, still is the current one.

        Returns whether the login changed. Blocks on Vault: not for an event loop's thread.
        """
        with self._lock:
            if self._login is not None and self._login.user == user:
                self._login = None
                self._tend()
            return self._login is not None

    def close(self) -> None:
        """Revoke the session and its database login. Harmless while Vault is unavailable."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if self._client.token:
            with suppress(Exception):
                self._client.auth.token.revoke_self()

    # --- what is under the lock ---------------------------------------------------------------------------

    def _read(self) -> None:
        self._log_in()
        values = self._read_values()
        if self._access.database_role:
            try:
                self._new_login()
                values["database_url"] = self._with_login(values["database_url"])
            except _AWAY as error:
                # Vault answers, but the database in which it creates logins does not.
                del values["database_url"]
                self._fall_back(error)
        self._values = values

    def _read_values(self) -> dict[str, Any]:
        path = f"{MOUNT}/{self._service}"
        try:
            answer = self._client.secrets.kv.v2.read_secret_version(
                self._service, mount_point=MOUNT, raise_on_deleted_version=True
            )
        except refusals.InvalidPath:
            raise InvalidInput(
                f"Vault has nothing at {path}", fix=f"bao kv put {path} NAME=VALUE ..."
            ) from None
        except refusals.Forbidden:
            raise InvalidInput(
                f"Vault does not let this process read {path}", fix="give it the service's policy"
            ) from None
        values: dict[str, Any] = answer["data"]["data"]
        if self._access.database_role and "database_url" not in values:
            raise InvalidInput(
                f"{path} has no database_url to log in to as {self._access.database_role}",
                fix=f"bao kv patch {path} database_url=postgresql://host:port/database",
            )
        return values

    def _log_in(self) -> None:
        access = self._access
        answer = self._log_in_by_token(access.jwt_file) if access.jwt_file else self._log_in_by_app_role()
        self._renew_at = monotonic() + answer["auth"]["lease_duration"] / 2

    def _log_in_by_token(self, file: str) -> dict[str, Any]:
        role, mount = self._access.jwt_role or self._service, self._access.jwt_mount
        try:
            # The `kubernetes` method takes the same request.
            answer: dict[str, Any] = self._client.auth.jwt.jwt_login(role, read_secret(file), path=mount)
        except (refusals.InvalidRequest, refusals.Forbidden, refusals.Unauthorized) as error:
            raise InvalidInput(
                f"Vault refuses the token in {file} as {mount} role {role}: {'; '.join(error.errors or [])}",
                fix=f"compare its issuer, audience and subject with bao read auth/{mount}/role/{role}",
            ) from None
        return answer

    def _log_in_by_app_role(self) -> dict[str, Any]:
        role_id, secret_id = (
            read_secret(path) for path in (self._access.role_id_file, self._access.secret_id_file)
        )
        try:
            answer: dict[str, Any] = self._client.auth.approle.login(role_id, secret_id)
        except (refusals.InvalidRequest, refusals.Forbidden, refusals.Unauthorized) as error:
            raise InvalidInput(
                f"Vault refuses the AppRole of {self._service}: {'; '.join(error.errors or [])}",
                fix="put a new secret id into the file of ESP_VAULT_SECRET_ID_FILE:"
                f" bao write -f -field=secret_id auth/approle/role/{self._service}/secret-id",
            ) from None
        return answer

    def _new_login(self) -> None:
        role = self._access.database_role or ""
        try:
            answer = self._client.secrets.database.generate_credentials(role)  # type: ignore[no-untyped-call]
        except refusals.Forbidden:
            raise InvalidInput(
                f"Vault does not let this process have logins of database role {role}",
                fix="give it the policy that reads database/creds/" + role,
            ) from None
        except (refusals.InvalidRequest, refusals.InvalidPath) as error:
            raise InvalidInput(
                f"Vault cannot make a login of database role {role}: {'; '.join(error.errors or [])}",
                fix=f"see bao read database/roles/{role}",
            ) from None
        data, lease, duration_s = answer["data"], answer["lease_id"], float(answer["lease_duration"])
        self._login = Login(data["username"], data["password"], lease, duration_s)
        self._renew_at = min(self._renew_at, monotonic() + duration_s / 2)

    def _with_login(self, url: str) -> str:
        assert self._login is not None  # noqa: S101 - made just before
        parts = urlsplit(url)
        address = parts.netloc.rpartition("@")[2]
        login = f"{quote(self._login.user, safe='')}:{quote(self._login.password, safe='')}"
        return urlunsplit(parts._replace(netloc=f"{login}@{address}"))

    def _tend(self) -> None:
        """Renew everything once; on failure retry soon and keep the current values."""
        self._renew_at = monotonic() + self._retry_s
        try:
            renew_at = monotonic() + self._renew_session() / 2
            if self._access.database_role:
                renew_at = min(renew_at, monotonic() + self._renew_login() / 2)
            if self._fell_back:
                self._return()
        except Exception as error:
            if self._answers:
                log.warning("vault.away", reason=_reason(error), service=self._service)
            self._answers = False
            return
        self._renew_at = renew_at
        if not self._answers:
            log.info("vault.back", service=self._service)
        self._answers = True

    def _renew_session(self) -> float:
        """Return for how many seconds the session is valid."""
        try:
            return float(self._client.auth.token.renew_self()["auth"]["lease_duration"])
        except (refusals.Forbidden, refusals.InvalidRequest):
            # It has expired, and its leases with it.
            self._log_in()
            self._login = None
            return float(self._client.auth.token.lookup_self()["data"]["ttl"])

    def _renew_login(self) -> float:
        """Return for how many seconds the database login is valid."""
        if (login := self._login) is not None:
            with suppress(refusals.InvalidRequest, refusals.Forbidden):  # the lease has ended
                answer = self._client.sys.renew_lease(  # type: ignore[no-untyped-call]
                    login.lease_id, increment=int(login.duration_s)
                )
                left = float(answer["lease_duration"])
                if left > login.duration_s / 2:
                    return left
        # The old login is valid until its lease ends, so running statements can finish.
        self._new_login()
        log.info("vault.new-database-login", service=self._service)
        if self._values and "database_url" in self._values:
            self._values["database_url"] = self._with_login(self._values["database_url"])
        for call in self._on_login:
            call()
        return self._login.duration_s if self._login else self._retry_s

    def _return(self) -> None:
        """Switch from the fallback to Vault's values."""
        values = self._read_values()
        if self._login is not None:
            values["database_url"] = self._with_login(values["database_url"])
        self._values = values
        self._fell_back = False
        _FALLBACK.set(0)
        log.warning("vault.returned", service=self._service)

    def _fall_back(self, error: Exception) -> None:
        self._fell_back = True
        self._answers = False
        self._renew_at = monotonic() + self._retry_s
        _FALLBACK.set(1)
        say(
            "critical",
            "vault.fallback",
            service=self._service,
            reason=_reason(error),
            using="secret files and environment",
            fix="see that Vault is up, unsealed and reaches the database; this process retries by itself",
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


_keepers: dict[str, VaultKeeper] = {}


def keeper_of(service: str) -> VaultKeeper | None:
    """Return this process's keeper for `service`, created at the first call; None without ESP_VAULT_URL.

    It revokes its session when the process ends in order.
    """
    if service in _keepers:
        return _keepers[service]
    access = VaultAccess.from_environment()
    if access is None:
        return None
    keeper = _keepers[service] = VaultKeeper(access, service, retry_s=RETRY_S)
    atexit.register(keeper.close)
    return keeper


def forget_keepers() -> None:
    """Close every keeper and start anew: for tests, which change the environment."""
    while _keepers:
        _keepers.popitem()[1].close()
    _FALLBACK.set(0)
    _said_early.clear()


def say(level: str, event: str, **fields: Any) -> None:
    """Log events that occur while settings are read; before logs are set up, also write them to stderr."""
    if structlog.is_configured():
        getattr(log, level)(event, **fields)
        return
    _said_early.append((level, event, fields))
    print(f"{level}: {event}", *(f"{name}={value}" for name, value in fields.items()), file=sys.stderr)


def say_again() -> None:
    """Log the events from before logs were set up."""
    while _said_early:
        level, event, fields = _said_early.pop(0)
        getattr(log, level)(event, **fields)


def state() -> dict[str, str]:
    """Return `vault` and its state for `/health/ready`; nothing without a Vault."""
    keeper = next(iter(_keepers.values()), None)
    return {"vault": keeper.state} if keeper else {}
