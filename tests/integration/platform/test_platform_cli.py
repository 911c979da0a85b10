"""`esp-platform` on real servers: apply, dry run, check, and errors of one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest
from esp_platform.credentials import SecretFolder
from esp_platform.parts import PARTS
from esp_stack.programs import free_port
from esp_stack.servers import OpenBao, Postgres, RabbitMQ, Redis

COMMAND = Path(sys.executable).with_name("esp-platform")
UNCHANGED = [f"{part.name}: unchanged" for part in PARTS]


@dataclass
class Site:
    """Servers of a new site, and what `esp-platform` is told of them."""

    folder: Path
    postgres: Postgres
    openbao: OpenBao
    settings: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.settings, **settings}
        return subprocess.run(
            [COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def site(server_home: Path) -> Iterator[Site]:
    folder = server_home / "platform-site"
    folder.mkdir()
    secrets = SecretFolder(folder / "secrets")
    secrets.generate()
    broker_password, redis_password = secrets.get("rabbitmq.admin"), secrets.get("redis.default")
    with ExitStack() as stack:
        postgres = Postgres(server_home / "site-postgres", throwaway=True)
        openbao = OpenBao(server_home / "site-vault")
        rabbitmq = RabbitMQ(server_home / "site-rabbitmq")
        rabbitmq.passwords = {**rabbitmq.passwords, "admin": broker_password}
        redis = Redis(server_home / "site-redis")
        redis.passwords = {**redis.passwords, "default": redis_password}
        for server in (postgres, openbao, rabbitmq, redis):
            server.start()
            stack.callback(server.kill)
        (folder / "token").touch(0o600)
        (folder / "token").write_text(openbao.token)
        settings = {
            "SECRETS_FOLDER": str(secrets.folder),
            "DATABASE_ADMIN_URL": postgres.admin_url,
            "DATABASE_URL": postgres.address("esp"),
            "DATABASE_ENGINE": "postgres",
            "BROKER_ADMIN_URL": rabbitmq.administrator_url,
            "AMQP_URL": rabbitmq.address,
            "REDIS_ADMIN_URL": redis.url,
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "VAULT_URL": openbao.url,
            "VAULT_TOKEN_FILE": str(folder / "token"),
            "APP_ROLE_FOLDER": str(folder / "app-roles"),
        }
        prefixed = {f"ESP_PLATFORM_{name}": value for name, value in settings.items()}
        yield Site(folder, postgres, openbao, prefixed)


def test_a_dry_run_changes_nothing_apply_sets_everything_up_and_a_second_run_changes_nothing(site):
    announced = site.run("apply", "--dry-run")
    assert (announced.returncode, announced.stderr) == (0, "")
    assert "database: would change" in announced.stdout
    assert "  create database esp" in announced.stdout
    assert "  migrate schema backup from nothing" in announced.stdout
    assert "  create first administrator and API key" in announced.stdout
    assert not (site.folder / "app-roles").exists()
    differs = site.run("check")
    assert (differs.returncode, "vault: differs" in differs.stdout) == (1, True)

    applied = site.run("apply")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert "  create signing key, user admin, API key bootstrap" in applied.stdout
    again = site.run("apply")
    assert (again.returncode, again.stdout.splitlines()) == (0, UNCHANGED)
    checked = site.run("check")
    assert (checked.returncode, checked.stdout.splitlines()) == (0, UNCHANGED)


@pytest.fixture
def applied(site) -> Site:
    assert site.run("apply").returncode == 0
    return site


def test_drift_is_found_by_check_and_mended_by_apply_of_its_part(applied):
    with psycopg.connect(applied.postgres.admin_url, autocommit=True) as connection:
        connection.execute("REVOKE TEMPORARY ON DATABASE esp FROM esp_ingest")
    checked = applied.run("check", "--json")
    assert checked.returncode == 1
    found = json.loads(checked.stdout)
    assert found.pop("database") == {
        "changes": ["grant TEMPORARY on database esp to esp_ingest"],
        "by_hand": [],
    }
    assert all(part == {"changes": [], "by_hand": []} for part in found.values())
    assert applied.run("apply", "database").stdout.splitlines() == [
        "database: changed",
        "  grant TEMPORARY on database esp to esp_ingest",
    ]
    assert applied.run("check").returncode == 0


def test_the_files_of_an_app_role_log_in_and_give_settings_and_a_database_login(applied):
    folder, url = applied.folder / "app-roles", applied.openbao.url
    login = {
        kind.replace("-", "_"): (folder / f"ingest.{kind}").read_text() for kind in ("role-id", "secret-id")
    }
    assert (folder / "ingest.secret-id").stat().st_mode & 0o777 == 0o600
    token = httpx.post(f"{url}/v1/auth/approle/login", json=login).json()["auth"]["client_token"]
    headers = {"X-Vault-Token": token}
    settings = httpx.get(f"{url}/v1/esp/data/ingest", headers=headers).json()["data"]["data"]
    assert settings["amqp_url"].startswith("amqp://ingest:")
    made = httpx.get(f"{url}/v1/database/creds/esp_ingest", headers=headers).json()["data"]
    database = settings["database_url"].replace("://", f"://{made['username']}:{made['password']}@")
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("esp_ingest",)


def test_a_secret_id_that_vault_has_forgotten_is_replaced(applied):
    (applied.folder / "app-roles" / "auth.secret-id").write_text("8e1f5f1e-0000-0000-0000-000000000000")
    folder = applied.folder / "app-roles"
    assert applied.run("apply", "vault").stdout.splitlines() == [
        "vault: changed",
        f"  give out a secret id of AppRole auth in {folder}",
    ]


def test_no_output_has_a_secret(applied):
    shown = applied.run("apply", "--dry-run", "--json").stdout + applied.run("settings").stdout
    secrets = [path.read_text() for path in (applied.folder / "secrets").iterdir()]
    assert [secret for secret in secrets if secret in shown] == []


@pytest.mark.parametrize(
    ("settings", "arguments", "code", "words"),
    [
        ({"DATABASE_ENGINE": "oracle"}, ["apply"], 2, "ESP_PLATFORM_DATABASE_ENGINE: Input should be"),
        ({"DATABASE_URI": "x"}, ["apply"], 2, "unknown settings: ESP_PLATFORM_DATABASE_URI"),
        ({}, ["apply", "kafka"], 2, "there is no part kafka — one of database, vault"),
        ({"REDIS_ADMIN_URL": "redis://127.0.0.1:{free}/0"}, ["apply", "redis"], 3, "redis: Error 111"),
        ({"BROKER_ADMIN_URL": "http://127.0.0.1:{free}/api"}, ["check", "broker"], 3, "broker: "),
        ({"DATABASE_ADMIN_URL": "postgresql://127.0.0.1:{free}/x"}, ["check", "database"], 3, "database: "),
        (
            {"VAULT_TOKEN": "wrong", "VAULT_TOKEN_FILE": ""},
            ["check", "vault"],
            2,
            "vault: the server answered 403",
        ),
        ({"SECRETS_FOLDER": "/nonexistent"}, ["check", "database"], 2, "there is no secret postgres."),
    ],
    ids=["bad", "unknown", "no-part", "no-redis", "no-broker", "no-database", "bad-token", "no-secret"],
)
def test_what_goes_wrong_is_one_line_that_names_the_cause(site, settings, arguments, code, words):
    free = str(free_port())
    settings = {f"ESP_PLATFORM_{name}": value.replace("{free}", free) for name, value in settings.items()}
    done = site.run(*arguments, **settings)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
    assert words in done.stderr


def test_a_part_without_a_server_is_skipped_unless_it_is_named(site):
    only = {
        name: value
        for name, value in site.settings.items()
        if "VAULT" not in name and "REDIS_ADMIN" not in name
    }
    elsewhere = Site(site.folder, site.postgres, site.openbao, only)
    assert "vault: skipped, not configured" in elsewhere.run("apply").stdout.splitlines()
    named = elsewhere.run("apply", "vault")
    assert (named.returncode, "not set: ESP_PLATFORM_VAULT_URL" in named.stderr) == (2, True)
