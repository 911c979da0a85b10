"""Settings and secrets: from variables or files, and never in sight."""

import json
import logging
from pathlib import Path

import pytest
from esp_common import telemetry, vault
from esp_common.amqp_nodes import nodes_of
from esp_common.database import Queries
from esp_common.errors import InvalidInput, NotFound, Unavailable, run_cli
from esp_common.secrets import LooseSecretWarning, read_secret
from esp_common.settings import ServiceSettings, settings_table
from esp_common.urls import with_authority
from esp_common.vault import Login, VaultAccess, VaultKeeper


def secret(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_secret_file_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESP_DATABASE_URL", "postgresql://from-variable/esp")
    monkeypatch.setenv("ESP_DATABASE_URL_FILE", str(secret(tmp_path, "postgresql://from-file/esp\n")))
    assert ServiceSettings.load().database_url == "postgresql://from-file/esp"


def test_a_secret_others_may_read_is_used_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(LooseSecretWarning, match="0640"):
        assert read_secret(secret(tmp_path, "s", 0o640)) == "s"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
@pytest.mark.filterwarnings("error")
def test_a_private_secret_or_a_mounted_one_is_used_without_a_warning(tmp_path: Path, mode: int) -> None:
    assert read_secret(secret(tmp_path, "s", mode)) == "s"


@pytest.mark.parametrize("mode", [0o444, 0o460, 0o660, 0o604])
def test_a_secret_that_others_may_change_or_read_is_used_with_a_warning(tmp_path: Path, mode: int) -> None:
    with pytest.warns(LooseSecretWarning, match=f"{mode:04o}"):
        read_secret(secret(tmp_path, "s", mode))


def test_a_missing_secret_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESP_REDIS_URL_FILE", "/nowhere/secret")
    with pytest.raises(InvalidInput, match="/nowhere/secret"):
        ServiceSettings.load()


def test_a_wrong_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESP_HTTP_PORT", "hunter2")
    with pytest.raises(InvalidInput) as caught:
        ServiceSettings.load()
    assert "ESP_HTTP_PORT" in caught.value.line()
    assert "hunter2" not in caught.value.line()


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    assert "hunter2" not in repr(ServiceSettings(amqp_url="amqp://u:hunter2@h/"))


def test_the_table_tells_every_setting_and_its_meaning() -> None:
    table = settings_table(ServiceSettings).splitlines()
    assert len(table) == 1 + len(ServiceSettings.model_fields) + len(vault.VARIABLES)
    assert any(line.startswith("ESP_STATEMENT_TIMEOUT_S") and "Seconds" in line for line in table)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "amqp://ingest:hunter2@127.0.0.1:5672/"},
        {"url": "redis://:hunter2@127.0.0.1"},
        {"password": "hunter2"},
        {"api_key": "hunter2"},
        {"request": {"Authorization": "hunter2"}},
        {"reason": ["sent Bearer hunter2"]},
        {"reason": "key esp_live_hunter2"},
        {"reason": "key esp_live_gw-01_hunter2"},
        {"reason": "token eyJhbGciOiJFZERTQSJ9.hunter2.hunter2"},
        {"reason": ConnectionError("postgresql://esp:hunter2@db/esp refused")},
        {"reason": "Authorization: Bearer hunter2"},
        {"dsn": "host=db password=hunter2 port=1"},
    ],
)
def test_logs_do_not_show_secrets(
    fields: dict[str, object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    telemetry.configure("ingest", "worker", ServiceSettings())
    logging.getLogger("some.library").error("it failed: %s", fields, extra=fields)
    line = capsys.readouterr().out
    assert "hunter2" not in line
    assert json.loads(line)["role"] == "worker"


def test_queries_are_found_by_name() -> None:
    queries = Queries("-- name: one\n-- The first.\nSELECT 1;\n\n-- name: two\nSELECT 2;\n")
    assert queries.one.endswith("SELECT 1;")
    assert queries["two"] == "SELECT 2;"
    with pytest.raises(AttributeError, match="three"):
        _ = queries.three


def test_a_query_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="one"):
        Queries("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")


@pytest.mark.parametrize(
    ("error", "code"), [(InvalidInput("x"), 2), (Unavailable("x"), 3), (NotFound("x"), 4)]
)
def test_a_command_that_fails_prints_one_line_and_exits_by_cause(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def app() -> None:
        raise error

    with pytest.raises(SystemExit) as exited:
        run_cli(app)
    assert exited.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("amqps://u:p@h/v", "amqps://u:p@h/v?cafile=/ca file.pem"),
        ("amqps://u:p@h/v?heartbeat=5", "amqps://u:p@h/v?heartbeat=5&cafile=/ca file.pem"),
        ("rediss://:p@h:6379/1", "rediss://:p@h:6379/1?ssl_ca_certs=/ca file.pem"),
        (
            "postgresql://u@h/d?sslmode=verify-full",
            "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/ca file.pem",
        ),
        ("postgresql://u@h/d?sslmode=require", None),
        ("postgresql://u@h/d?sslmode=verify-full&sslrootcert=/other", None),
        ("postgresql://u@h/d", None),
        ("amqp://u:p@h/v", None),
        ("redis://h", None),
        (
            "amqps://u:p@a:1,b/v?x=1",
            "amqps://u:p@a:1/v?x=1&cafile=/ca file.pem,amqps://u:p@b/v?x=1&cafile=/ca file.pem",
        ),
        ("rediss+sentinel://u:p@a,b/esp/1", "rediss+sentinel://u:p@a,b/esp/1?ssl_ca_certs=/ca file.pem"),
        (
            "postgresql://u@a,b/d?sslmode=verify-full",
            "postgresql://u@a,b/d?sslmode=verify-full&sslrootcert=/ca file.pem",
        ),
    ],
)
def test_the_authority_is_named_where_each_client_looks_for_it(url: str, named: str | None) -> None:
    expected = (named or url).replace(" ", "%20")
    assert with_authority(url, "/ca file.pem") == expected


def test_every_url_that_asks_for_tls_gets_the_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESP_TLS_CA_FILE", "/ca.pem")
    monkeypatch.setenv("ESP_AMQP_URL", "amqps://h/")
    settings = ServiceSettings.load(redis_url="rediss://h/0")
    assert settings.amqp_url == "amqps://h/?cafile=/ca.pem"
    assert settings.redis_url == "rediss://h/0?ssl_ca_certs=/ca.pem"
    assert settings.database_url == ServiceSettings().database_url


def test_origins_are_named_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServiceSettings.load().cors_origins == ()
    monkeypatch.setenv("ESP_CORS_ORIGINS", "https://console.example, http://127.0.0.1:3000")
    assert ServiceSettings.load().cors_origins == ("https://console.example", "http://127.0.0.1:3000")


@pytest.mark.parametrize("origin", ["*", "https://*.example", "null", "https://a.example/path", "file://x"])
def test_no_setting_opens_the_api_to_every_page(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESP_CORS_ORIGINS", origin)
    with pytest.raises(InvalidInput, match="ESP_CORS_ORIGINS"):
        ServiceSettings.load()


def test_trusted_proxies_are_networks_and_this_machine_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(map(str, ServiceSettings.load().trusted_proxies)) == ["127.0.0.0/8", "::1/128"]
    monkeypatch.setenv("ESP_TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::/32 ,192.0.2.7")
    networks = list(map(str, ServiceSettings.load().trusted_proxies))
    assert networks == ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]
    monkeypatch.setenv("ESP_TRUSTED_PROXIES", "")
    assert ServiceSettings.load().trusted_proxies == ()
    assert "127.0.0.0/8,::1/128" in settings_table(ServiceSettings)


@pytest.mark.parametrize("networks", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "10.0.0.0/8;::1", "*"])
def test_a_trusted_proxy_that_is_no_network_is_refused_by_name(
    networks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESP_TRUSTED_PROXIES", networks)
    with pytest.raises(InvalidInput, match=r"ESP_TRUSTED_PROXIES: .*(not appear to be|host bits)"):
        ServiceSettings.load()


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("amqp://u:p@a:5672/v", ["amqp://u:p@a:5672/v"]),
        (
            "amqp://u:p,w@a:1, b/v?heartbeat=5",
            ["amqp://u:p,w@a:1/v?heartbeat=5", "amqp://u:p,w@b/v?heartbeat=5"],
        ),
        ("amqp://u:p@a/v,amqps://u:p@[::1]:2/v", ["amqp://u:p@a/v", "amqps://u:p@[::1]:2/v"]),
        ("amqp://a,b", ["amqp://a", "amqp://b"]),
    ],
)
def test_an_address_of_the_broker_lists_its_nodes(url: str, nodes: list[str]) -> None:
    assert nodes_of(url) == nodes
    assert ServiceSettings.load(amqp_url=url).amqp_url == url


@pytest.mark.parametrize(
    ("url", "added"),
    [
        ("postgresql://u:p@a/d", ""),
        ("postgresql://u:p,w@a/d", ""),
        ("postgresql://u:p@a:1,b:2/d", "?target_session_attrs=read-write"),
        ("postgresql://u:p@/d?host=a,b", "&target_session_attrs=read-write"),
        ("postgresql://a,b/d?target_session_attrs=any", ""),
    ],
)
def test_of_several_database_servers_the_one_that_can_be_written_to_is_used(url: str, added: str) -> None:
    assert ServiceSettings.load(database_url=url).database_url == url + added


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("amqp_url", "http://hunter2@h/"),
        ("amqp_url", "amqp://u:hunter2@/v"),
        ("amqp_url", "amqp://u:hunter2@a,,b/v"),
        ("database_url", "mysql://u:hunter2@h/d"),
        ("redis_url", "hunter2"),
        ("redis_url", "redis://u:hunter2@a:1,b:2/0"),
        ("redis_url", "redis+sentinel://u:hunter2@a:1,b:2"),
        ("redis_url", "redis+sentinel://u:hunter2@a:1,b:2/esp/first"),
        ("redis_url", "redis+sentinel://u:hunter2@a:1,:2/esp"),
    ],
)
def test_an_address_that_cannot_be_used_is_named_without_its_secret(name: str, url: str) -> None:
    with pytest.raises(InvalidInput, match=f"ESP_{name.upper()}") as caught:
        ServiceSettings.load(**{name: url})
    assert "hunter2" not in caught.value.line()


def test_a_database_login_of_vault_keeps_every_host() -> None:
    keeper = VaultKeeper(VaultAccess("http://127.0.0.1:1", "role-id", "secret-id"), "ingest")
    keeper._login = Login("v-ingest", "p@ss", "lease", 60)
    url = keeper._with_login("postgresql://a:1,b:2/esp?target_session_attrs=read-write")
    assert url == "postgresql://v-ingest:p%40ss@a:1,b:2/esp?target_session_attrs=read-write"
