"""The Vault part of the bootstrap on a real OpenBao: idempotent, without loss of what others have stored."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from esp_platform.changes import apply
from esp_platform.databases import ensure_login_maker
from esp_platform.identities import APP_ROLES, AppRole
from esp_platform.vault import TokenIssuer, Vault
from esp_stack.servers import OpenBao, Postgres

INGEST: AppRole = APP_ROLES[0]
SUBJECT = "system:serviceaccount:esp:esp-{name}"


@pytest.fixture(scope="module")
def server(server_home: Path) -> Iterator[OpenBao]:
    server = OpenBao(server_home / "platform-vault")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    """The key that a cluster signs its service accounts' tokens with."""
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def issuer(key) -> TokenIssuer:
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    config = {"jwt_validation_pubkeys": [pem.decode()], "bound_issuer": "https://cluster.example"}
    return TokenIssuer(config, "vault", SUBJECT)


def changes(vault, issuer):
    """Every change of the part, in the order in which it is applied."""
    yield from vault.engine_changes(jwt=True)
    yield from vault.authority_changes(["localhost", "rabbitmq"])
    yield from vault.issuer_changes(issuer)
    for app_role in APP_ROLES:
        yield from vault.app_role_changes(app_role)
        yield from vault.jwt_role_changes(app_role, issuer)
    yield from vault.secret_changes("ingest", {"amqp_url": "amqps://rabbitmq/"})
    yield from vault.snapshot_token_changes("a-token-for-snapshots")


def texts(found):
    return [change.text for change in found]


def test_a_dry_run_announces_what_an_apply_makes_and_a_second_apply_makes_nothing(server, issuer):
    vault = Vault(server)
    announced = texts(apply(changes(vault, issuer), dry_run=True))
    assert "enable login method jwt" in announced
    assert "create certificate authority" in announced
    assert vault.authority() == ""
    assert texts(apply(changes(vault, issuer))) == announced
    assert texts(changes(vault, issuer)) == []


def test_drift_is_mended_and_secrets_of_others_stay(server, issuer):
    vault = Vault(server)
    apply(changes(vault, issuer))
    server.api("POST", "sys/policies/acl/ingest", {"policy": 'path "*" { capabilities = ["read"] }'})
    server.api("POST", "auth/approle/role/auth", {"token_policies": ["root"]})
    server.api("DELETE", "auth/jwt/role/backup")
    server.api("POST", "esp/data/ingest", {"data": {"amqp_url": "other", "smtp_password": "kept"}})
    assert texts(apply(changes(vault, issuer))) == [
        "set policy ingest",
        "set AppRole auth",
        "create JWT role backup",
        "set secrets of ingest: amqp_url",
    ]
    stored = server.api("GET", "esp/data/ingest").json()["data"]["data"]
    assert stored == {"amqp_url": "amqps://rabbitmq/", "smtp_password": "kept"}


def log_in(server, key, role, **claims):
    now = datetime.now(UTC)
    subject = SUBJECT.format(name=role)
    token = {"iss": "https://cluster.example", "aud": "vault", "sub": subject, "iat": now, "nbf": now}
    token = jwt.encode({**token, "exp": now + timedelta(minutes=5), **claims}, key, "ES256")
    return httpx.post(f"{server.url}/v1/auth/jwt/login", json={"role": role, "jwt": token})


def test_a_service_account_token_logs_in_as_its_own_identity_only(server, issuer, key):
    apply(changes(Vault(server), issuer))
    answer = log_in(server, key, "ingest")
    assert answer.json()["auth"]["token_policies"] == ["default", "ingest"]
    for refused in ({"sub": SUBJECT.format(name="auth")}, {"aud": "other"}, {"iss": "https://other.example"}):
        assert log_in(server, key, "ingest", **refused).status_code == 400
    assert log_in(server, ec.generate_private_key(ec.SECP256R1()), "ingest").status_code == 400


def test_an_app_role_is_bound_to_networks_only_where_they_are_given(server):
    apply(Vault(server).engine_changes())
    for cidrs, bound in (((), []), (("127.0.0.1/32",), ["127.0.0.1"])):
        vault = Vault(server, bound_cidrs=cidrs)
        role_id = vault.ensure_app_role(INGEST)
        role = server.api("GET", "auth/approle/role/ingest").json()["data"]
        assert (role["token_bound_cidrs"] or []) == bound
        assert texts(vault.app_role_changes(INGEST)) == []
        login = {"role_id": role_id, "secret_id": vault.new_secret_id(INGEST)}
        assert httpx.post(f"{server.url}/v1/auth/approle/login", json=login).status_code == 200


def test_the_login_makers_password_is_set_again_only_when_it_has_changed(server, postgres_server: Postgres):
    vault = Vault(server)
    apply(vault.engine_changes())
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{postgres_server.port}/postgres"
    ensure_login_maker(postgres_server.admin_url, "first")
    vault.ensure_logins(url, "first", ["esp_ingest"])
    assert texts(vault.login_changes(url, "first", ["esp_ingest"])) == []
    assert server.api("GET", "database/creds/esp_ingest").status_code == 200
    ensure_login_maker(postgres_server.admin_url, "second")
    assert texts(apply(vault.login_changes(url, "second", ["esp_ingest"]))) == ["set database connection esp"]
    assert server.api("GET", "database/creds/esp_ingest").status_code == 200
