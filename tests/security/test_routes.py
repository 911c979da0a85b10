"""Every route × every role and key scope × every kind of credential, good and bad, on the running APIs.

What is expected follows from the table of permissions and from what each route declares of itself.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from deployed import NOWHERE, SERVICES, Deployed
from esp_archiver.app import open_api as open_archiver
from esp_archiver.settings import ArchiverSettings
from esp_auth.api.answers import person
from esp_auth.app import open_api as open_auth
from esp_auth.settings import AuthSettings
from esp_backup.app import open_api as open_backup
from esp_backup.settings import BackupSettings
from esp_common.auth import PERMISSIONS, PUBLIC, ROLES, Authenticated, Permitted, new_api_key, scopes_of
from esp_diagnostics.app import open_api as open_diagnostics
from esp_diagnostics.settings import DiagnosticsSettings
from esp_ingest.app import open_api as open_ingest
from esp_ingest.settings import IngestSettings
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts

SCOPES: Final = sorted(PERMISSIONS)
PROBES: Final = {"/health/live", "/health/ready", "/health/startup"}
QUESTIONS: Final = {("POST", "/api/v1/pumps/{id}/what-if")}
"""Posts that change nothing."""
SOCKETS: Final = {"/api/v1/live"}
"""WebSockets, whose credential comes as the first message: they have tests of their own."""
AT_ONCE: Final = 4


# --- what the routes say of themselves --------------------------------------------------------------------


@dataclass(frozen=True)
class Declared:
    """One method of one route, and whom it is for: `needs` is a permission, "authenticated", "person"
    (a user in a session, not a key) or "public"."""

    service: str
    method: str
    template: str
    needs: str | None

    def __str__(self) -> str:
        return f"{self.service} {self.method} {self.template}"

    @property
    def path(self) -> str:
        """A path of this route at which there is nothing."""
        return re.sub(r"\{[^}]*\}", NOWHERE, self.template)


def _calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    for dependency in dependant.dependencies:
        if dependency.call:
            yield dependency.call
        yield from _calls(dependency)


def needed(dependant: Dependant) -> str | None:
    """Return what a route with these dependencies needs of its caller; None when it does not say."""
    calls = list(_calls(dependant))
    permissions = {call.permission for call in calls if isinstance(call, Permitted)}
    if permissions:
        (permission,) = permissions
        return permission
    if person in calls:
        return "person"
    if any(isinstance(call, Authenticated) for call in calls):
        return "authenticated"
    return "public" if PUBLIC in calls else None


def application_of(wrapped: Any) -> FastAPI:
    """Return the FastAPI application inside of what a server is given."""
    while not isinstance(wrapped, FastAPI):
        wrapped = next(v for k, v in vars(wrapped).items() if k in ("_app", "_application", "application"))
    return wrapped


def declared_by(service: str, application: FastAPI) -> list[Declared]:
    """Return every route of an API; the probes, which are for everybody, excepted."""
    found = []
    for route in iter_route_contexts(application.routes):
        kind = type(route.original_route)
        if route.path in PROBES or (kind is APIWebSocketRoute and route.path in SOCKETS):
            continue
        assert kind is APIRoute, f"{service} {route.path}: no test knows what a {kind.__name__} needs"
        needs = needed(route.dependant)
        found += [Declared(service, method, str(route.path), needs) for method in sorted(route.methods or ())]
    return found


@pytest.fixture(scope="module")
async def applications(deployed: Deployed) -> AsyncIterator[dict[str, FastAPI]]:
    """The applications as the APIs put them together; the ones that answer are processes of their own."""

    def common(service: str) -> dict[str, Any]:
        return {
            "amqp_url": deployed.rabbitmq.url_for(service),
            "redis_url": deployed.redis_url,
            "database_url": deployed.url(f"esp_{service}"),
        }

    secrets = {"master_key": deployed.master_key, "broker_secret": deployed.broker_secret}
    archive = {"blob_connection_string": deployed.azurite.connection_string}
    stop = asyncio.Event()
    opening = {
        "auth": open_auth(AuthSettings(**common("auth"), **secrets), stop),
        "ingest": open_ingest(IngestSettings(**common("ingest")), stop),
        "diagnostics": open_diagnostics(
            DiagnosticsSettings(**common("diagnostics"), master_key=deployed.sealing_key), stop
        ),
        "archiver": open_archiver(ArchiverSettings(**common("archiver"), **archive), stop),
        "backup": open_backup(BackupSettings(**common("backup")), stop),
    }
    async with AsyncExitStack() as stack:
        opened = {name: await stack.enter_async_context(context) for name, context in opening.items()}
        for _, background in opened.values():
            for part in background:
                part.close()
        yield {service: application_of(wrapped) for service, (wrapped, _) in opened.items()}


@pytest.fixture(scope="module")
def routes(applications: dict[str, FastAPI]) -> list[Declared]:
    """Every route of every API."""
    return [route for service, found in applications.items() for route in declared_by(service, found)]


def test_every_route_says_whom_it_is_for(routes: list[Declared]) -> None:
    assert [str(route) for route in routes if route.needs is None] == []
    assert {route.service for route in routes} == set(SERVICES)


def test_only_these_routes_answer_without_a_credential(routes: list[Declared]) -> None:
    public = {(route.method, route.template) for route in routes if route.needs == "public"}
    assert public == {
        ("POST", "/api/v1/auth/login"),
        ("POST", "/api/v1/auth/refresh"),
        ("GET", "/api/v1/auth/.well-known/jwks.json"),
        # The broker's questions, behind the secret of their path.
        *(("POST", f"/broker/{question}") for question in ("user", "vhost", "resource", "topic")),
        # The console's files, which are the same for everybody and hold no data.
        ("GET", "/"),
        ("GET", "/console/{name:path}"),
    }


def test_what_changes_something_needs_a_right_to_write(routes: list[Declared]) -> None:
    reads = {"GET", "HEAD"}
    permitted = [
        route
        for route in routes
        if route.needs in PERMISSIONS and (route.method, route.template) not in QUESTIONS
    ]
    wrong = [
        str(route) for route in permitted if (route.method in reads) != str(route.needs).endswith(":read")
    ]
    assert wrong == []


# --- asking -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request by somebody, and whether it is to be let through."""

    who: str
    header: Mapping[str, str]
    route: Declared
    allowed: bool
    refusal: int = 403


class Asker:
    """Makes requests over connections that stay open: httpx would take ten times as long for them all."""

    def __init__(self, deployed: Deployed) -> None:
        self.ports = {service: deployed.api(service).port for service in SERVICES}
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._own = threading.local()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def answer(
        self, service: str, method: str, path: str, header: Mapping[str, str], body: str | None = None
    ) -> tuple[int, str]:
        """Make a request; return the status and the body."""
        connections = self._own.__dict__.setdefault("connections", {})
        if service not in connections:
            connections[service] = HTTPConnection("127.0.0.1", self.ports[service], timeout=30)
        try:
            connections[service].request(method, path, body, dict(header))
            answer = connections[service].getresponse()
        except ConnectionError:  # it was idle for so long that the server closed it
            connections[service].close()
            connections[service].request(method, path, body, dict(header))
            answer = connections[service].getresponse()
        return answer.status, answer.read().decode(errors="replace")

    def wrong(self, asked: Sequence[Asked]) -> list[str]:
        """Make every request; return what is wrong with the answers."""
        assert asked, "nothing was asked"
        return [wrong for wrong in self._threads.map(self._ask, asked) if wrong]

    def _ask(self, asked: Asked) -> str | None:
        # As through a proxy, so that nobody takes this test for the scraper of this machine.
        header = {"X-Forwarded-For": "192.0.2.7", **asked.header}
        status, text = self.answer(asked.route.service, asked.route.method, asked.route.path, header)
        refused = status in (401, 403)
        if status >= 500 or refused == asked.allowed:
            return f"{asked.who}: {asked.route}: {status} {text[:200]}"
        if refused and status != asked.refusal:
            return f"{asked.who}: {asked.route}: refused with {status}, not {asked.refusal}"
        return None


@pytest.fixture(scope="module")
def asker(deployed: Deployed) -> Iterator[Asker]:
    """Asks the running APIs."""
    asker = Asker(deployed)
    yield asker
    asker.close()


# --- good credentials -------------------------------------------------------------------------------------


def harmless(routes: Sequence[Declared]) -> list[Declared]:
    """Return the routes that a request without a body may call without ending its own session."""
    return [route for route in routes if route.template != "/api/v1/auth/logout"]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_the_table_says(
    role: str, routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    header, scopes = deployed.session(role).header, scopes_of({role})
    asked = [
        Asked(role, header, route, route.needs in {"public", "authenticated", "person", *scopes})
        for route in harmless(routes)
    ]
    assert asker.wrong(asked) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_may_do_what_its_scope_says(
    scope: str, routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    key = deployed.new_key(scope)
    for header in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        asked = [
            Asked(scope, header, route, route.needs in {"public", "authenticated", scope}) for route in routes
        ]
        assert asker.wrong(asked) == []


def test_several_roles_add_up(routes: list[Declared], deployed: Deployed, asker: Asker) -> None:
    header, scopes = deployed.session("operator", "auditor").header, scopes_of({"operator", "auditor"})
    asked = [
        Asked("both", header, route, route.needs in {"public", "authenticated", "person", *scopes})
        for route in harmless(routes)
    ]
    assert asker.wrong(asked) == []


@pytest.mark.parametrize("roles", [(), ("admin",), ROLES], ids=["none", "admin", "all"])
def test_nobody_may_anything_before_the_first_password_is_changed_or_without_a_role(
    roles: tuple[str, ...], routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    header = deployed.new_session(*roles, settled=False).header
    asked = [
        Asked("new user", header, route, route.needs in {"public", "authenticated", "person"})
        for route in harmless(routes)
    ]
    assert asker.wrong(asked) == []


# --- bad credentials --------------------------------------------------------------------------------------


def part(document: Mapping[str, Any]) -> str:
    """Return one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


class Forger:
    """Makes tokens that are wrong in one thing each; the signing key is stolen where that thing needs it."""

    def __init__(self, deployed: Deployed) -> None:
        self.kid, self.private = deployed.signing_key()
        self.public = deployed.public_key()

    def signed(self, claims: Mapping[str, Any], key: Any = None, **header: Any) -> str:
        """Sign claims as auth does, but for what is stated otherwise."""
        stated = {"kid": self.kid, "typ": "at+jwt", **header}
        return jwt.encode(dict(claims), key or self.private, "EdDSA", stated)

    def hmac(self, claims: Mapping[str, Any], key: bytes) -> str:
        """Sign with HS256, whatever the key is: the library itself refuses a public one."""
        header = {"alg": "HS256", "kid": self.kid, "typ": "at+jwt"}
        text = f"{part(header)}.{part(claims)}"
        signature = hmac.digest(key, text.encode(), hashlib.sha256)
        return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


Forgery = Callable[[Forger, str, dict[str, Any]], str]


def _public_raw(forger: Forger) -> bytes:
    return base64.urlsafe_b64decode(forger.public["x"] + "=")


def _public_pem(forger: Forger) -> bytes:
    return forger.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _more(forger: Forger, token: str, claims: dict[str, Any]) -> str:
    header, _, signature = token.split(".")
    return f"{header}.{part({**claims, 'roles': list(ROLES)})}.{signature}"


def _flipped(forger: Forger, token: str, claims: dict[str, Any]) -> str:
    text, _, signature = token.rpartition(".")
    return f"{text}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def _of_a_stranger(forger: Forger, token: str, claims: dict[str, Any]) -> str:
    return forger.signed(claims, Ed25519PrivateKey.generate())


FORGERIES: Final[Mapping[str, Forgery]] = {
    "expired": lambda forger, _, claims: forger.signed({**claims, "exp": int(time.time()) - 1}),
    "not valid yet": lambda forger, _, claims: forger.signed({**claims, "nbf": time.time() + 3600}),
    "never expires": lambda forger, _, claims: forger.signed({k: v for k, v in claims.items() if k != "exp"}),
    "wrong audience": lambda forger, _, claims: forger.signed({**claims, "aud": "other"}),
    "wrong issuer": lambda forger, _, claims: forger.signed({**claims, "iss": "other"}),
    "wrong type": lambda forger, _, claims: forger.signed(claims, typ="JWT"),
    "unknown kid": lambda forger, _, claims: forger.signed(claims, kid="unknown"),
    "no kid": lambda forger, _, claims: forger.signed(claims, kid=""),
    "algorithm none": lambda forger, _, claims: (
        f"{part({'alg': 'none', 'kid': forger.kid, 'typ': 'at+jwt'})}.{part(claims)}."
    ),
    "HS256 with the public key": lambda forger, _, claims: forger.hmac(claims, _public_raw(forger)),
    "HS256 with the public key as PEM": lambda forger, _, claims: forger.hmac(claims, _public_pem(forger)),
    "tampered payload": _more,
    "tampered signature": _flipped,
    "no signature": lambda _, token, __: token.rpartition(".")[0] + ".",
    "signed by a stranger": _of_a_stranger,
    "key in its own header": lambda forger, _, claims: forger.signed(
        claims, (own := Ed25519PrivateKey.generate()), jwk=_jwk(own)
    ),
}


def _jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    raw = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": raw, "alg": "EdDSA"}


@pytest.fixture(scope="module")
def forger(deployed: Deployed) -> Forger:
    """Somebody who has got hold of the signing key."""
    return Forger(deployed)


def refused_everywhere(who: str, header: Mapping[str, str], routes: Sequence[Declared]) -> list[Asked]:
    """Return a request to every route, of which only the public ones are to answer."""
    return [Asked(who, header, route, route.needs == "public", refusal=401) for route in routes]


def test_without_a_credential_nothing_answers(routes: list[Declared], asker: Asker) -> None:
    nothing: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"X-API-Key": ""},
        {"Cookie": "access_token=x"},
    ]
    asked = [each for header in nothing for each in refused_everywhere(str(header), header, routes)]
    assert asker.wrong(asked) == []


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_wrong_token_is_refused_whatever_roles_it_states(
    forgery: str,
    routes: list[Declared],
    deployed: Deployed,
    asker: Asker,
    forger: Forger,
) -> None:
    asked = []
    for role in ROLES:
        good = deployed.session(role).access_token
        claims = jwt.decode(good, options={"verify_signature": False})
        forged = FORGERIES[forgery](forger, good, claims)
        asked += refused_everywhere(f"{forgery} {role}", {"Authorization": f"Bearer {forged}"}, routes)
    assert asker.wrong(asked) == []


def test_the_forger_could_sign_if_nothing_else_were_wrong(
    routes: list[Declared], deployed: Deployed, asker: Asker, forger: Forger
) -> None:
    claims = jwt.decode(deployed.session("viewer").access_token, options={"verify_signature": False})
    header = {"Authorization": f"Bearer {forger.signed(claims)}"}
    reads = [route for route in routes if route.needs == "assets:read"]
    assert asker.wrong([Asked("forger", header, route, True) for route in reads]) == []


def malformed(key: str) -> dict[str, str]:
    """Return what could be taken for `key`, but is not."""
    stranger = new_api_key("stranger")
    last = "0" if key[-1] != "0" else "1"
    return {
        "checksum": key[:-1] + last,
        "cut": key[:-1],
        "longer": key + "0",
        "prefix alone": "esp_live_",
        "unknown": stranger,
        "other secret under its id": new_api_key(key.split("_")[2]),
        "digest": hashlib.sha256(key.encode()).hexdigest(),
        "SQL": "esp_live_' OR 1=1 --",
    }


@pytest.mark.parametrize("scope", SCOPES)
def test_a_wrong_key_is_refused_whatever_it_resembles(
    scope: str, routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    concerned = [route for route in routes if route.needs in (scope, "authenticated", "person")]
    asked = [
        each
        for name, key in malformed(deployed.new_key(scope)).items()
        for each in refused_everywhere(name, {"X-API-Key": key}, concerned)
    ]
    assert asker.wrong(asked) == []


def used_everywhere(asker: Asker, header: Mapping[str, str]) -> None:
    """Have both services know a credential as a good one, as they would in the middle of a day's work."""
    for service in SERVICES:
        assert asker.answer(service, "GET", "/openapi.json", header)[0] == 200


def refused_at_last(asker: Asker, header: Mapping[str, str]) -> None:
    """Wait until both services know that the credential is not good any more."""
    deadline = time.monotonic() + 20
    for service in SERVICES:
        while asker.answer(service, "GET", "/openapi.json", header)[0] != 401:
            assert time.monotonic() < deadline, f"{service} still lets it in"
            time.sleep(0.02)


@pytest.mark.parametrize("how", ["logged out", "revoked", "disabled", "deleted", "password reset", "reuse"])
def test_a_revoked_token_is_refused_everywhere(
    how: str, routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    session = deployed.new_session(*ROLES)
    used_everywhere(asker, session.header)
    user = f"users/{session.user_id}"
    match how:
        case "logged out":
            deployed.call("POST", "auth/logout", session=session)
        case "revoked":
            deployed.call("POST", f"{user}/revoke")
        case "disabled":
            deployed.call("PATCH", user, {"disabled": True})
        case "deleted":
            deployed.call("DELETE", user)
        case "password reset":
            deployed.call("POST", f"{user}/password", {"password": f"reset {uuid4()}"})
        case "reuse":
            deployed.refresh(session)
            body = {"refresh_token": session.refresh_token}
            stolen = httpx.post(f"{deployed.auth.url}/api/v1/auth/refresh", json=body)
            assert stolen.status_code == 401
    refused_at_last(asker, session.header)
    assert asker.wrong(refused_everywhere(how, session.header, routes)) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_revoked_key_is_refused_everywhere(
    scope: str, routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    key = deployed.new_key(scope)
    header = {"X-API-Key": key}
    used_everywhere(asker, header)
    deployed.call("POST", f"api-keys/{key.split('_')[2]}/revoke")
    refused_at_last(asker, header)
    concerned = [route for route in routes if route.needs in (scope, "authenticated", "person")]
    assert asker.wrong(refused_everywhere("revoked", header, concerned)) == []


def test_an_expired_key_is_refused_everywhere(
    routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    key = deployed.new_key(*SCOPES)
    deployed.administer(
        "UPDATE auth.api_keys SET expires_at = now() - interval '1 second' WHERE key_id = %s",
        key.split("_")[2],
    )
    assert asker.wrong(refused_everywhere("expired", {"X-API-Key": key}, routes)) == []


def test_a_rotated_key_without_overlap_is_refused_and_the_new_one_is_good(
    routes: list[Declared], deployed: Deployed, asker: Asker
) -> None:
    key = deployed.new_key("assets:read")
    used_everywhere(asker, {"X-API-Key": key})
    rotated = deployed.call("POST", f"api-keys/{key.split('_')[2]}/rotate", {"overlap_s": 0}).json()["key"]
    refused_at_last(asker, {"X-API-Key": key})
    reads = [route for route in routes if route.needs == "assets:read"]
    assert asker.wrong(refused_everywhere("old", {"X-API-Key": key}, reads)) == []
    good = [Asked("new", {"X-API-Key": rotated}, route, True) for route in reads]
    assert asker.wrong(good) == []


# --- what is beside the API -------------------------------------------------------------------------------


def test_the_broker_is_answered_behind_its_secret_only(deployed: Deployed, asker: Asker) -> None:
    form = urlencode({"username": "gw-01", "password": deployed.gateway_keys["gw-01"]})
    admin = {"X-API-Key": deployed.bootstrap_key}
    for path in ("/broker/user", "/broker//user", f"/broker/{'x' * 32}/user", "/api/v1/broker/user"):
        assert asker.answer("auth", "POST", path, admin, form)[0] == 404, path
    assert asker.answer("auth", "POST", f"/broker/{deployed.broker_secret}/user", {}, form) == (200, "allow")


@pytest.mark.parametrize("service", SERVICES)
def test_metrics_are_on_the_second_listener_alone_and_nothing_else_is_there(
    service: str, deployed: Deployed, asker: Asker
) -> None:
    for credential in ({}, {"X-API-Key": deployed.bootstrap_key}):
        assert asker.answer(service, "GET", "/metrics", credential)[0] == 404
    second = deployed.api(service).metrics_url
    assert httpx.get(f"{second}/metrics", timeout=30).status_code == 200
    for path in ("/api/v1/auth/me", "/api/v1/pumps", "/api/v1/telemetry", "/docs", "/openapi.json", "/"):
        for method in ("GET", "POST"):
            assert httpx.request(method, second + path, timeout=30).status_code == 404, path
