"""No secret that was used is in a log (at DEBUG), an answer, a record, a metric or a command line."""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Final

import httpx
import psutil
import pyotp
import pytest
from deployed import SERVICES, Deployed, Session
from esp_auth.domain import secrets
from esp_common.auth import new_api_key

SHORTEST: Final = 6


@dataclass
class Used:
    """The secrets that were used, by what they are, and every answer that is not to hold one."""

    secrets: dict[str, str] = field(default_factory=dict)
    answers: list[httpx.Response] = field(default_factory=list)

    def found_in(self, text: str) -> list[str]:
        """Return the names of the secrets that a text holds, the longest part that tells them at least."""
        return [name for name, secret in self.secrets.items() if _telling(secret) in text]


def _telling(secret: str) -> str:
    """Return the part of a secret that is nobody else's: of a key or token, what follows its public part."""
    if secret.startswith("esp_live_"):
        return secret.rpartition("_")[2]
    if secret.count(".") == 2:
        return secret.rpartition(".")[2]
    return secret


class User:
    """Somebody who uses the platform, and makes mistakes with secrets in every place there is."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self.used = Used()

    def keep(self, name: str, secret: str) -> str:
        """Note a secret under its name."""
        assert len(secret) >= SHORTEST, f"{name} is too short to be looked for"
        self.used.secrets[name] = secret
        return secret

    def keep_session(self, name: str, session: Session) -> Session:
        """Note a session's secrets."""
        self.keep(f"{name}: access token", session.access_token)
        self.keep(f"{name}: refresh token", session.refresh_token)
        self.keep(f"{name}: password", session.password)
        return session

    def ask(self, method: str, path: str, *, on: str = "auth", **options: Any) -> httpx.Response:
        """Make a request whose answer must not hold a secret."""
        url = f"{getattr(self._deployed, on).url}{path}"
        answer = httpx.request(method, url, timeout=30, **options)
        self.used.answers.append(answer)
        return answer

    def misplace(self, path: str, on: str, **headers: str) -> None:
        """Make a request with a secret in its path or id: who sent them is told, and nobody else."""
        httpx.get(f"{getattr(self._deployed, on).url}{path}", headers=headers, timeout=30)


def use(deployed: Deployed) -> Used:
    """Log in, refresh, change, enrol, make and rotate keys, publish; and get each of it wrong once."""
    user = User(deployed)
    _keep_configured(user, deployed)
    session = user.keep_session("user", deployed.new_session("admin"))
    user.keep_session("refreshed", deployed.refresh(deployed.log_in(session.username, session.password)))
    _enrol(user, deployed, session)
    _use_keys(user, deployed, session)
    _make_mistakes(user, session)
    return user.used


def _keep_configured(user: User, deployed: Deployed) -> None:
    user.keep("master key", deployed.master_key)
    user.keep("broker secret", deployed.broker_secret)
    user.keep("sealing key", deployed.sealing_key)
    user.keep("blob storage's key", deployed.azurite.account_key)
    user.keep("bootstrap key", deployed.bootstrap_key)
    user.keep("first administrator's password", deployed.admin_password)
    for gateway, key in deployed.gateway_keys.items():
        user.keep(f"key of {gateway}", key)
    for name in SERVICES:
        user.keep(f"broker password of {name}", deployed.rabbitmq.passwords[name])
    for role in (f"esp_{name}" for name in SERVICES):
        user.keep(f"database password of {role}", deployed.url(role).split("@")[0].rpartition(":")[2])
    user.keep("redis password", deployed.redis_url.split("@")[0].rpartition(":")[2])
    master = secrets.decode_master_key(deployed.master_key)
    for label in (secrets.API_KEY_PEPPER, secrets.SIGNING_KEYS, secrets.TOTP, secrets.AUDIT_CHAIN):
        user.keep(label, secrets.derive(master, label).hex())
    user.keep("signing key", deployed.signing_key()[1].private_bytes_raw().hex())


def _enrol(user: User, deployed: Deployed, session: Session) -> None:
    enrolled = deployed.call("POST", "auth/totp", {"password": session.password}, session=session)
    seed = user.keep("TOTP secret", enrolled.json()["secret"])
    code = pyotp.TOTP(seed)
    user.keep("TOTP code", code.now())
    answer = user.ask("POST", "/api/v1/auth/totp/confirm", json={"code": code.now()}, headers=session.header)
    assert answer.status_code == 204, answer.text
    login = {"username": session.username, "password": session.password}
    for body in (
        login,
        {**login, "totp": code.now()},
        {**login, "totp": user.keep("wrong code", "900000999")},
    ):
        user.ask("POST", "/api/v1/auth/login", json=body)


def _use_keys(user: User, deployed: Deployed, session: Session) -> None:
    key = user.keep("made key", deployed.new_key("assets:read", "telemetry:write"))
    for header in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        user.ask("GET", "/api/v1/pumps", on="ingest", headers=header)
        user.ask("POST", "/api/v1/telemetry", on="ingest", headers=header, json=[{"pump_id": "none"}])
    rotated = deployed.call("POST", f"api-keys/{key.split('_')[2]}/rotate", session=session).json()["key"]
    user.keep("rotated key", rotated)
    user.ask("POST", f"/api/v1/api-keys/{key.split('_')[2]}/revoke", headers=session.header)
    user.ask("GET", "/api/v1/pumps", on="ingest", headers={"X-API-Key": rotated})


def _make_mistakes(user: User, session: Session) -> None:
    """Put secrets where they do not belong: wrong fields, paths, queries, headers, broken bodies."""
    typed = user.keep("password typed wrong", f"wrong-{token_hex(8)}")
    for body in (
        {"username": session.username, "password": typed},
        {"username": typed, "password": typed},
        {"username": session.username, "password": [typed]},
        {"username": session.username, "password": typed, "extra": typed},
        {"refresh_token": typed},
    ):
        user.ask("POST", "/api/v1/auth/login", json=body)
        user.ask("POST", "/api/v1/auth/refresh", json=body)
    user.ask("POST", "/api/v1/auth/login", content=f'{{"password": "{typed}", broken')
    user.ask("POST", "/api/v1/auth/refresh", json={"refresh_token": session.refresh_token + "x"})
    weak = {"username": "weak", "password": user.keep("weak password", "password12"), "roles": []}
    user.ask("POST", "/api/v1/users", headers=session.header, json=weak)
    change = {"current": typed, "new": user.keep("new password", "another-horse-77-Qx")}
    user.ask("POST", "/api/v1/auth/password", headers=session.header, json=change)
    forged = user.keep("forged token", f"{session.access_token[:-12]}AbCdEfGhIjKl")
    made_up = user.keep("made up key", new_api_key("made-up"))
    for on in ("auth", "ingest"):
        for wrong in (forged, made_up, typed):
            user.ask("GET", "/api/v1/pumps", on=on, headers={"Authorization": f"Bearer {wrong}"})
            user.ask("GET", "/api/v1/pumps", on=on, headers={"Authorization": f"Basic {wrong}"})
            user.ask("GET", "/api/v1/pumps", on=on, headers={"X-API-Key": wrong})
        for wrong in (forged, made_up):
            user.misplace("/api/v1/pumps", on, **{"X-Request-ID": wrong})
            user.ask("GET", f"/api/v1/pumps?token={wrong}", on=on)
            for path in (f"/api/v1/pumps/{wrong}", f"/api/v1/{wrong}", f"/{wrong}"):
                user.misplace(path, on)


@pytest.fixture(scope="module")
def used(deployed: Deployed) -> Used:
    """What was used, and what was answered."""
    return use(deployed)


def test_no_log_holds_a_secret(used: Used, deployed: Deployed) -> None:
    for role in deployed.roles:
        text = role.log.read_text()
        assert '"level"' in text, f"{role.name} logs nothing"
        assert used.found_in(text) == [], role.name
        assert (
            re.search(r"esp_live_[a-z0-9-]+_[0-9A-Za-z]{33}|esp_refresh_|eyJ[\w-]+\.eyJ|\$argon2", text)
            is None
        )


def test_no_answer_repeats_a_secret(used: Used) -> None:
    assert len(used.answers) > 40
    for answer in used.answers:
        where = f"{answer.request.method} {answer.request.url.path} {answer.status_code}"
        assert used.found_in(answer.text + str(answer.headers)) == [], where


def test_no_record_event_or_row_holds_a_secret(used: Used, deployed: Deployed) -> None:
    _settle(deployed)
    tables = deployed.administer("SELECT tablename FROM pg_tables WHERE schemaname = 'auth'")
    assert tables
    for (table,) in tables:
        rows = deployed.administer(f"SELECT t::text FROM auth.{table} t")
        assert used.found_in("\n".join(row[0] for row in rows)) == [], table
    records = deployed.administer("SELECT count(*) FROM auth.audit_log")
    assert records[0][0] > 0


def _settle(deployed: Deployed) -> None:
    """Wait until what was noted is stored: nothing more has come for a second."""
    deadline, count, since = time.monotonic() + 30, -1, time.monotonic()
    while time.monotonic() - since < 1 and time.monotonic() < deadline:
        now = deployed.administer("SELECT count(*) FROM auth.audit_log")[0][0]
        if now != count:
            count, since = now, time.monotonic()
        time.sleep(0.1)


def test_no_export_of_the_record_holds_a_secret(used: Used, deployed: Deployed) -> None:
    header = {"X-API-Key": deployed.bootstrap_key}
    for form in ("csv", "jsonl"):
        answer = httpx.get(
            f"{deployed.auth.url}/api/v1/audit/export?format={form}", headers=header, timeout=60
        )
        assert answer.status_code == 200
        assert used.found_in(answer.text) == [], form


def test_no_metric_health_or_documentation_holds_a_secret(used: Used, deployed: Deployed) -> None:
    header = {"X-API-Key": deployed.bootstrap_key}
    for role in deployed.roles:
        for path in ("/metrics", "/health/ready", "/health/live"):
            answer = httpx.get(f"{role.metrics_url}{path}", timeout=30)
            assert used.found_in(answer.text) == [], f"{role.name} {path}"
    for service in SERVICES:
        answer = httpx.get(f"{deployed.api(service).url}/openapi.json", headers=header, timeout=30)
        assert used.found_in(answer.text) == [], f"{service} /openapi.json"


def _processes() -> Iterator[Mapping[str, Any]]:
    for process in psutil.process_iter(["pid", "cmdline"]):
        yield process.info


def test_no_command_line_or_environment_holds_a_secret(used: Used, deployed: Deployed) -> None:
    for process in _processes():
        assert used.found_in(" ".join(process["cmdline"] or ())) == [], process["pid"]
    for role in deployed.roles:
        assert role.process
        environment = psutil.Process(role.process.pid).environ()
        assert used.found_in(str(environment)) == [], role.name


def test_settings_are_printed_without_their_secrets(used: Used, deployed: Deployed) -> None:
    for service in SERVICES:
        settings = deployed.api(service).settings
        assert used.found_in(deployed.command(service, "settings", **settings)) == []
