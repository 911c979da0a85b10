"""Settings and database logins from Vault: what a service gets, what it does not, and Vault going away."""

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import asyncpg
import httpx
import jwt
import psycopg
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from esp_common import telemetry, vault
from esp_common.database import create_pool
from esp_common.errors import InvalidInput
from esp_common.roles import serve_role
from esp_common.settings import ServiceSettings
from esp_common.vault import VaultAccess, VaultKeeper
from esp_platform.changes import apply
from esp_platform.databases import LOGIN_MAKER, ensure_login_maker
from esp_platform.identities import APP_ROLES, AppRole
from esp_platform.vault import TokenIssuer, Vault
from esp_stack.servers import OpenBao, Postgres
from prometheus_client import REGISTRY
from pydantic_settings import SettingsConfigDict

INGEST, INGEST_OWNER, AUTH, *_ = APP_ROLES
LEASE_S = 2
MAKER_PASSWORD = "maker"


class IngestSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="ESP_INGEST_")


@dataclass
class Deployment:
    """An OpenBao with the platform's contents over a database, and the files its AppRoles read."""

    server: OpenBao
    vault: Vault
    folder: Path
    database_url: str
    admin_url: str
    url_of: Callable[[str], str]
    files: dict[str, Path] = field(default_factory=dict)

    def access(self, app_role: AppRole = INGEST, *, logins: bool = True) -> VaultAccess:
        """What a process of `app_role` is told."""
        return VaultAccess(
            self.server.url,
            str(self.folder / f"{app_role.name}.role-id"),
            str(self.folder / f"{app_role.name}.secret-id"),
            database_role=app_role.database_role if logins else None,
        )

    def tell(self, monkeypatch: pytest.MonkeyPatch, app_role: AppRole = INGEST, **others: str) -> None:
        """Put what a process of `app_role` is told into the environment."""
        access = self.access(app_role)
        monkeypatch.setenv("ESP_VAULT_URL", access.url)
        monkeypatch.setenv("ESP_VAULT_ROLE_ID_FILE", access.role_id_file)
        monkeypatch.setenv("ESP_VAULT_SECRET_ID_FILE", access.secret_id_file)
        monkeypatch.setenv("ESP_VAULT_DATABASE_ROLE", app_role.database_role)
        for name, value in others.items():
            monkeypatch.setenv(name, value)

    def logins(self, role: str = "esp_ingest") -> set[str]:
        """Names of the logins there are for a role."""
        with psycopg.connect(self.admin_url) as connection:
            rows = connection.execute(
                "SELECT member.rolname FROM pg_auth_members JOIN pg_roles member ON member.oid = member"
                " WHERE roleid = %s::regrole",
                (role,),
            ).fetchall()
        return {name for (name,) in rows}


def private(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_text(text)


def eventually(holds: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    deadline = monotonic() + timeout_s
    while not holds():
        assert monotonic() < deadline, f"not within {timeout_s} s: {what}"
        sleep(0.05)


@pytest.fixture(scope="module")
def deployed(server_home: Path, postgres_server: Postgres, make_database: Any) -> Iterator[Deployment]:
    server = OpenBao(server_home / "vault")
    server.start()
    contents = Vault(server)
    contents.ensure_engines()
    database = make_database("postgres")
    ensure_login_maker(postgres_server.admin_url, MAKER_PASSWORD)
    address = f"127.0.0.1:{postgres_server.port}"
    contents.ensure_logins(
        f"postgresql://{{{{username}}}}:{{{{password}}}}@{address}/postgres?sslmode=disable",
        MAKER_PASSWORD,
        [role.database_role for role in APP_ROLES],
    )
    folder = server_home / "app-roles"
    folder.mkdir()
    database_url = f"postgresql://{address}/{database.name}"
    deployment = Deployment(server, contents, folder, database_url, database.admin_url, database.url)
    for service in ("ingest", "auth"):
        contents.put_secrets(
            service, {"amqp_url": f"amqp://{service}:from-vault@broker/", "database_url": database_url}
        )
    for app_role in APP_ROLES:
        private(folder / f"{app_role.name}.role-id", contents.ensure_app_role(app_role))
        private(folder / f"{app_role.name}.secret-id", contents.new_secret_id(app_role))
    with psycopg.connect(database.url("esp_ingest_owner")) as connection:
        connection.execute("CREATE SCHEMA kept")
        connection.execute("CREATE TABLE kept.rows AS SELECT 42 AS n")
        connection.execute("GRANT USAGE ON SCHEMA kept TO esp_ingest")
        connection.execute("GRANT SELECT ON kept.rows TO esp_ingest")
    yield deployment
    server.stop()


@pytest.fixture(autouse=True)
def running(deployed: Deployment) -> Iterator[None]:
    """Vault up at the start of each test, and nothing known of it or of logs from the test before."""
    structlog.reset_defaults()
    if not deployed.server.ready():
        deployed.server.kill()
        deployed.server.start()
    yield
    vault.forget_keepers()


@pytest.fixture
def short_leases(deployed: Deployment) -> Iterator[None]:
    """Logins that end after seconds, and cannot be renewed for much longer."""
    path = "database/roles/esp_ingest"
    role = deployed.server.api("GET", path).json()["data"]
    limits = {"default_ttl": f"{LEASE_S}s", "max_ttl": f"{2 * LEASE_S}s"}
    deployed.server.api("POST", path, role | limits).raise_for_status()
    yield
    deployed.server.api("POST", path, role).raise_for_status()


def test_settings_come_from_vault_with_a_login_of_the_services_role(deployed, monkeypatch):
    deployed.tell(monkeypatch, ESP_INGEST_AMQP_URL="amqp://from-the-environment/")
    settings = IngestSettings.load(http_port=4711)
    assert settings.amqp_url == "amqp://ingest:from-vault@broker/"
    assert settings.http_port == 4711
    with psycopg.connect(settings.database_url) as connection:
        session, role = connection.execute("SELECT session_user, current_user").fetchone()
        assert (session in deployed.logins(), role) == (True, "esp_ingest")
        assert connection.execute("SELECT n FROM kept.rows").fetchone() == (42,)
    assert REGISTRY.get_sample_value("esp_vault_fallback") == 0
    assert vault.state() == {"vault": "ok"}


def test_what_the_owners_login_makes_belongs_to_the_owner(deployed, monkeypatch):
    deployed.tell(monkeypatch, INGEST_OWNER)
    with psycopg.connect(IngestSettings.load().database_url) as connection:
        connection.execute("CREATE SCHEMA migrated")
        owner = connection.execute(
            "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'migrated'"
        ).fetchone()
    assert owner == ("esp_ingest_owner",)


def test_an_argument_wins_over_vault(deployed, monkeypatch):
    deployed.tell(monkeypatch)
    assert IngestSettings.load(amqp_url="amqp://argument/").amqp_url == "amqp://argument/"


def test_a_setting_of_a_newer_version_is_passed_over(deployed, monkeypatch):
    deployed.tell(monkeypatch, AUTH)
    deployed.vault.put_secrets(
        "auth", {"amqp_url": "amqp://a", "database_url": "postgresql://h/d", "new": "x"}
    )

    class AuthSettings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="ESP_AUTH_")

    assert AuthSettings.load().amqp_url == "amqp://a"


@pytest.mark.parametrize(
    "path", ["esp/data/auth", "database/creds/esp_auth", "database/creds/esp_ingest_owner", "sys/mounts"]
)
def test_a_service_reads_nothing_but_its_own(deployed, path):
    approle = {
        "role_id": (deployed.folder / "ingest.role-id").read_text(),
        "secret_id": (deployed.folder / "ingest.secret-id").read_text(),
    }
    login = httpx.post(f"{deployed.server.url}/v1/auth/approle/login", json=approle).json()
    token = {"X-Vault-Token": login["auth"]["client_token"]}
    assert httpx.get(f"{deployed.server.url}/v1/esp/data/ingest", headers=token).status_code == 200
    assert httpx.get(f"{deployed.server.url}/v1/{path}", headers=token).status_code == 403


ISSUER = "https://cluster.example"


@pytest.fixture
def cluster_key(deployed: Deployment) -> ec.EllipticCurvePrivateKey:
    """The key with which a cluster signs service-account tokens; Vault trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    config = {"jwt_validation_pubkeys": [public.decode()], "bound_issuer": ISSUER}
    issuer = TokenIssuer(config, "vault", "system:serviceaccount:esp:esp-{name}")
    apply(deployed.vault.engine_changes(jwt=True))
    apply(deployed.vault.issuer_changes(issuer))
    apply(deployed.vault.jwt_role_changes(INGEST, issuer))
    return key


def service_account_token(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    now = datetime.now(UTC)
    claims = {"iss": ISSUER, "aud": "vault", "sub": f"system:serviceaccount:esp:esp-{name}"}
    return jwt.encode({**claims, "iat": now, "exp": now + timedelta(minutes=5)}, key, "ES256")


def test_a_service_account_token_serves_as_login(deployed, monkeypatch, tmp_path, cluster_key):
    private(tmp_path / "token", service_account_token(cluster_key, "ingest"))
    monkeypatch.setenv("ESP_VAULT_URL", deployed.server.url)
    monkeypatch.setenv("ESP_VAULT_JWT_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("ESP_VAULT_DATABASE_ROLE", INGEST.database_role)
    settings = IngestSettings.load()
    assert settings.amqp_url == "amqp://ingest:from-vault@broker/"
    with psycopg.connect(settings.database_url) as connection:
        assert connection.execute("SELECT n FROM kept.rows").fetchone() == (42,)


def test_token_of_another_service_account_is_an_error_that_names_the_fix(deployed, tmp_path, cluster_key):
    token = service_account_token(cluster_key, "auth")
    private(tmp_path / "token", token)
    access = VaultAccess(deployed.server.url, jwt_file=str(tmp_path / "token"))
    with pytest.raises(InvalidInput, match="refuses the token in") as refused:
        VaultKeeper(access, "ingest").settings()
    assert "bao read auth/jwt/role/ingest" in refused.value.fix
    assert token not in refused.value.line()


def test_session_that_ended_is_begun_again_with_the_rotated_token(deployed, tmp_path, cluster_key):
    private(tmp_path / "token", service_account_token(cluster_key, "ingest"))
    access = VaultAccess(
        deployed.server.url, jwt_file=str(tmp_path / "token"), database_role=INGEST.database_role
    )
    keeper = VaultKeeper(access, "ingest", retry_s=0.1)
    keeper.settings()
    first = keeper.login
    deployed.server.api("POST", "sys/leases/revoke-prefix/auth/jwt/login").raise_for_status()
    (tmp_path / "token").write_text(service_account_token(cluster_key, "ingest"))
    keeper.start()
    keeper.replace(first.user)
    eventually(lambda: keeper.login not in (None, first), "a login by the new token")
    assert keeper.state == "ok"
    keeper.close()


def test_another_services_secrets_are_an_error_that_names_the_fix(deployed):
    keeper = VaultKeeper(deployed.access(AUTH), "ingest")
    with pytest.raises(InvalidInput, match="does not let this process read esp/ingest") as refused:
        keeper.settings()
    assert "policy" in refused.value.fix


def test_a_wrong_secret_id_is_an_error_that_names_the_fix(deployed, monkeypatch, tmp_path):
    private(tmp_path / "wrong", "8e1f5f1e-0000-0000-0000-000000000000")
    deployed.tell(monkeypatch)
    monkeypatch.setenv("ESP_VAULT_SECRET_ID_FILE", str(tmp_path / "wrong"))
    with pytest.raises(InvalidInput, match="refuses the AppRole") as refused:
        IngestSettings.load()
    assert "ESP_VAULT_SECRET_ID_FILE" in refused.value.fix
    assert "8e1f5f1e" not in refused.value.line()


def test_nothing_stored_is_an_error_that_names_the_fix(deployed):
    deployed.server.api("DELETE", "esp/metadata/ingest").raise_for_status()
    try:
        with pytest.raises(InvalidInput, match="nothing at esp/ingest") as refused:
            VaultKeeper(deployed.access(), "ingest").settings()
    finally:
        secrets = {"amqp_url": "amqp://ingest:from-vault@broker/", "database_url": deployed.database_url}
        deployed.vault.put_secrets("ingest", secrets)
    assert "bao kv put esp/ingest" in refused.value.fix


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({"ESP_VAULT_URL": "http://vault.example:8200"}, "not https"),
        ({"ESP_VAULT_URL": "https://vault.example:8200"}, "either an AppRole or"),
        (
            {
                "ESP_VAULT_URL": "https://vault.example:8200",
                "ESP_VAULT_ROLE_ID_FILE": "role-id",
                "ESP_VAULT_SECRET_ID_FILE": "secret-id",
                "ESP_VAULT_JWT_FILE": "token",
            },
            "either an AppRole or",
        ),
    ],
    ids=["plain-http", "neither", "both"],
)
def test_half_a_configuration_is_an_error(monkeypatch, variables, wrong):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=wrong):
        VaultAccess.from_environment()


def test_a_vault_that_dies_leaves_the_last_known_secrets(deployed, monkeypatch):
    deployed.tell(monkeypatch)
    before = IngestSettings.load()
    deployed.server.kill()
    assert IngestSettings.load() == before
    with psycopg.connect(before.database_url) as connection:
        assert connection.execute("SELECT n FROM kept.rows").fetchone() == (42,)


def test_a_vault_away_at_the_start_is_replaced_loudly(deployed, monkeypatch, tmp_path, capsys):
    private(tmp_path / "amqp", "amqp://from-a-file/")
    deployed.tell(
        monkeypatch,
        ESP_INGEST_AMQP_URL_FILE=str(tmp_path / "amqp"),
        ESP_INGEST_DATABASE_URL="postgresql://from-the-environment/",
    )
    deployed.server.kill()
    settings = IngestSettings.load()
    assert settings.amqp_url == "amqp://from-a-file/"
    assert settings.database_url == "postgresql://from-the-environment/"
    assert REGISTRY.get_sample_value("esp_vault_fallback") == 1
    assert vault.state()["vault"].startswith("fallback")
    assert "critical: vault.fallback service=ingest" in capsys.readouterr().err
    telemetry.configure("ingest", "api", settings)
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (line["event"], line["level"]) == ("vault.fallback", "critical")


def test_a_sealed_vault_is_away(deployed, monkeypatch):
    deployed.tell(monkeypatch, ESP_INGEST_AMQP_URL="amqp://from-the-environment/")
    deployed.server.api("PUT", "sys/seal").raise_for_status()
    try:
        settings = IngestSettings.load()
    finally:
        deployed.server.kill()  # it unseals itself when it starts
    assert settings.amqp_url == "amqp://from-the-environment/"
    assert REGISTRY.get_sample_value("esp_vault_fallback") == 1


async def test_a_pool_goes_on_with_new_logins_and_the_old_ones_end(deployed, monkeypatch, short_leases):
    deployed.tell(monkeypatch)
    settings = IngestSettings.load()
    pool = await create_pool(settings, role="test", max_size=2)
    users: set[str] = set()
    try:
        async with asyncio.timeout(60):
            while len(users) < 3:
                users.add(await pool.fetchval("SELECT session_user"))
                assert await pool.fetchval("SELECT current_user") == "esp_ingest"
                assert await pool.fetchval("SELECT n FROM kept.rows") == 42
                await asyncio.sleep(0.05)
    finally:
        await pool.close()
    eventually(lambda: len(users & deployed.logins()) <= 2, "the first login is gone")


async def test_a_connection_ends_with_its_login(deployed, short_leases):
    keeper = VaultKeeper(deployed.access(), "ingest")
    url = keeper.settings()["database_url"]
    connection = await asyncpg.connect(url)
    keeper.close()
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    await asyncio.wait_for(ended.wait(), 30)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url)


async def test_a_pool_outlives_a_vault_that_is_away_for_longer_than_its_lease(
    deployed, monkeypatch, short_leases
):
    deployed.tell(monkeypatch)
    pool = await create_pool(IngestSettings.load(), role="test", max_size=2)
    try:
        deployed.server.kill()
        deadline = monotonic() + 3 * LEASE_S
        while monotonic() < deadline:
            await pool.expire_connections()
            assert await pool.fetchval("SELECT n FROM kept.rows") == 42
            await asyncio.sleep(0.1)
        assert vault.state()["vault"].startswith("away")
        deployed.server.start()  # and ends what has expired: connections are lost, and made again
        async with asyncio.timeout(60):
            answer = None
            while (vault.state()["vault"], answer) != ("ok", 42):
                with suppress(asyncpg.PostgresError, OSError):
                    answer = await pool.fetchval("SELECT n FROM kept.rows")
                await asyncio.sleep(0.1)
    finally:
        await pool.close()


async def test_a_login_the_database_refuses_is_replaced_at_once(deployed, monkeypatch):
    deployed.tell(monkeypatch)
    pool = await create_pool(IngestSettings.load(), role="test", min_size=0)
    try:
        user = await pool.fetchval("SELECT session_user")
        with psycopg.connect(deployed.admin_url, autocommit=True) as connection:
            connection.execute(f'ALTER ROLE "{user}" NOLOGIN')
        await pool.expire_connections()
        other = await pool.fetchval("SELECT session_user")
        assert other not in (user, "esp_ingest")
        with psycopg.connect(deployed.admin_url, autocommit=True) as connection:
            connection.execute(f'ALTER ROLE "{other}" NOLOGIN')
        deployed.server.kill()
        await pool.expire_connections()
        with pytest.raises(ConnectionRefusedError, match="Vault makes no other login"):
            await pool.fetchval("SELECT session_user")
    finally:
        await pool.close()


def test_a_session_that_vault_has_forgotten_is_begun_again(deployed):
    keeper = VaultKeeper(deployed.access(), "ingest", retry_s=0.1)
    first = keeper.settings()["database_url"]
    deployed.server.api("POST", "sys/leases/revoke-prefix/auth/approle", {}).raise_for_status()
    assert keeper.replace(keeper.login.user)
    assert keeper.settings()["database_url"] != first
    keeper.close()


def test_a_database_that_is_away_leaves_the_other_secrets(deployed, monkeypatch, postgres_server):
    deployed.tell(monkeypatch, ESP_INGEST_DATABASE_URL="postgresql://from-the-environment/")
    postgres_server.kill()
    try:
        settings = IngestSettings.load()
        assert settings.amqp_url == "amqp://ingest:from-vault@broker/"
        assert settings.database_url == "postgresql://from-the-environment/"
        assert REGISTRY.get_sample_value("esp_vault_fallback") == 1
    finally:
        postgres_server.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert IngestSettings.load().database_url.endswith("from-the-environment/")


@contextmanager
def no_logins(deployed: Deployment) -> Iterator[None]:
    """Vault up, and unable to make a login: its own at the database is locked."""
    with psycopg.connect(deployed.admin_url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {LOGIN_MAKER} NOLOGIN")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (LOGIN_MAKER,)
        )
        try:
            yield
        finally:
            connection.execute(f"ALTER ROLE {LOGIN_MAKER} LOGIN")


async def test_a_role_returns_to_vault_when_it_makes_logins_again(deployed, monkeypatch):
    monkeypatch.setattr(vault, "RETRY_S", 0.1)
    deployed.tell(monkeypatch, ESP_INGEST_DATABASE_URL=deployed.url_of("esp_ingest"))
    stop, is_ready = asyncio.Event(), asyncio.Event()
    users: list[str] = []

    async def role(settings: IngestSettings, stop: asyncio.Event) -> None:
        pool = await create_pool(settings, role="test", min_size=0)
        try:
            users.append(await pool.fetchval("SELECT session_user"))
            is_ready.set()
            while users[-1] == "esp_ingest" or vault.state()["vault"] != "ok":
                await asyncio.sleep(0.05)
                users.append(await pool.fetchval("SELECT session_user"))
        finally:
            await pool.close()

    with no_logins(deployed):
        settings = IngestSettings.load()
        assert settings.amqp_url == "amqp://ingest:from-vault@broker/"
        running = asyncio.create_task(serve_role(role, settings, stop))
        await asyncio.wait_for(is_ready.wait(), 60)
        assert users[0] == "esp_ingest"
        assert REGISTRY.get_sample_value("esp_vault_fallback") == 1
        assert vault.state()["vault"].startswith("fallback")
    await asyncio.wait_for(running, 60)
    assert users[-1] in deployed.logins()
    assert REGISTRY.get_sample_value("esp_vault_fallback") == 0
    assert not stop.is_set(), "the database login is all that changed"


async def test_a_role_whose_other_secrets_differ_ends_to_start_with_vaults(deployed, monkeypatch):
    monkeypatch.setattr(vault, "RETRY_S", 0.1)
    deployed.tell(
        monkeypatch,
        ESP_INGEST_AMQP_URL="amqp://from-the-environment/",
        ESP_INGEST_DATABASE_URL=deployed.database_url,
    )
    deployed.server.kill()
    settings = IngestSettings.load()
    assert settings.amqp_url == "amqp://from-the-environment/"
    stop = asyncio.Event()

    async def role(_: IngestSettings, stop: asyncio.Event) -> None:
        await stop.wait()

    running = asyncio.create_task(serve_role(role, settings, stop))
    await asyncio.to_thread(deployed.server.start)
    await asyncio.wait_for(running, 60)
    assert IngestSettings.load().amqp_url == "amqp://ingest:from-vault@broker/"
    assert REGISTRY.get_sample_value("esp_vault_fallback") == 0


async def test_a_fallback_login_that_the_database_refuses_is_an_outage(deployed, monkeypatch):
    deployed.tell(
        monkeypatch, ESP_INGEST_DATABASE_URL=deployed.url_of("esp_ingest").replace("esp_ingest:", "nobody:")
    )
    with no_logins(deployed):
        pool = await create_pool(IngestSettings.load(), role="test", min_size=0)
        try:
            with pytest.raises(ConnectionRefusedError, match="Vault has made no login yet"):
                await pool.fetchval("SELECT 1")
        finally:
            await pool.close()


def test_closing_ends_the_login(deployed):
    keeper = VaultKeeper(deployed.access(), "ingest")
    keeper.settings()
    user = keeper.login.user
    assert user in deployed.logins()
    keeper.close()
    eventually(lambda: user not in deployed.logins(), "the login is gone")


def test_no_secret_is_logged_or_shown(deployed, monkeypatch, capsys):
    deployed.tell(monkeypatch)
    with structlog.testing.capture_logs() as logs:
        settings = IngestSettings.load()
        keeper = vault.keeper_of("ingest")
        assert keeper.replace(keeper.login.user)
        deployed.server.kill()
        keeper._tend()
    shown = f"{logs} {settings} {keeper.login} {capsys.readouterr()} {deployed.server.log_tail(200)}"
    audit = (deployed.server.home / "audit.log").read_text()
    secrets = ["from-vault", keeper.login.password, (deployed.folder / "ingest.secret-id").read_text()]
    assert [secret for secret in secrets if secret in shown or secret in audit] == []
    assert "approle/login" in audit


def test_the_maker_of_logins_is_no_superuser(deployed):
    with psycopg.connect(deployed.admin_url) as connection:
        rights = "SELECT rolsuper, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = %s"
        assert connection.execute(rights, (LOGIN_MAKER,)).fetchone() == (False, False, False)
