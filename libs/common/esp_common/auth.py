"""Who calls, and whether they may: principals, the table of permissions, and API keys.

Keys are verified by the auth service, over the broker; what leaves this process is a key's SHA-256, never
the key. Tokens are verified in `esp_common.tokens`. The table of permissions is here and nowhere else;
documentation and tests are made from it.
"""

import asyncio
import hashlib
import re
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol
from zlib import crc32

import orjson
import structlog
from starlette.requests import HTTPConnection

from esp_common import topology
from esp_common.audit import ORIGIN
from esp_common.contracts.events import Event
from esp_common.errors import EspError, Forbidden, Unauthenticated, Unavailable
from esp_common.messaging import Requester
from esp_common.rate_limit import RateLimiter

log = structlog.get_logger()

ROLES: Final = ("admin", "engineer", "operator", "viewer", "auditor")
"""What a human may be; one human may be several."""

_READERS: Final = frozenset({"admin", "engineer", "operator", "viewer"})
_ADMIN: Final = frozenset({"admin"})
_AUDIT: Final = frozenset({"admin", "auditor"})

PERMISSIONS: Final[Mapping[str, frozenset[str]]] = {
    "telemetry:write": frozenset({"engineer"}),
    "telemetry:read": _READERS,
    "assets:read": _READERS,
    "assets:write": frozenset({"engineer"}),
    "quality:read": _READERS,
    "quarantine:read": frozenset({"admin", "engineer", "operator"}),
    "quarantine:write": frozenset({"engineer"}),
    "dead-letters:read": frozenset({"admin", "engineer"}),
    "dead-letters:write": frozenset({"engineer"}),
    "diagnostics:read": _READERS,
    "rules:read": _READERS,
    "rules:write": frozenset({"engineer"}),
    "alerts:read": _READERS,
    "alerts:write": frozenset({"engineer", "operator"}),
    "notifications:read": frozenset({"admin", "engineer"}),
    "notifications:write": frozenset({"admin", "engineer"}),
    "archive:read": _READERS,
    "archive:write": frozenset({"admin", "engineer"}),
    "backups:read": frozenset({"admin", "engineer"}),
    "backups:write": _ADMIN,
    "users:read": _ADMIN,
    "users:write": _ADMIN,
    "api-keys:read": _ADMIN,
    "api-keys:write": _ADMIN,
    "audit:read": _AUDIT,
    "audit:verify": _AUDIT,
}
"""Permission → the human roles that have it. A key has the permissions that are its scopes."""

KEY_REVOKED: Final = "auth.key-revoked"
STALE_S: Final = 300.0
NEGATIVE_TTL_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 3.0
MAX_CACHED_KEYS: Final = 10_000
VOID_ANSWERS: Final = 3
"""How often a key is asked for again because keys were revoked meanwhile; then the answer serves once."""

KEY_PREFIX: Final = "esp_live_"
_SECRET_LENGTH: Final = 27
_CHECKSUM_LENGTH: Final = 6
_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY_ID: Final = re.compile(r"[a-z0-9-]{3,64}")
_KEY: Final = re.compile(
    rf"{KEY_PREFIX}({_KEY_ID.pattern})_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}"
)


def scopes_of(roles: Collection[str]) -> frozenset[str]:
    """Return the permissions of a human with `roles`: whatever one of them has."""
    return frozenset(permission for permission, having in PERMISSIONS.items() if not having.isdisjoint(roles))


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a key, or a user in a session.

    `gateway_id`: the key is a gateway's and may speak only for it. `must`: what the user has to do first
    ("password": change it, "totp": enrol a second factor); until then there are no scopes.
    """

    id: str
    kind: Literal["key", "user"]
    scopes: frozenset[str]
    gateway_id: str | None = None
    session_id: str | None = None
    name: str | None = None
    must: frozenset[str] = frozenset()

    def may(self, permission: str) -> bool:
        """Return whether this caller has `permission`."""
        return permission in self.scopes

    def to_json(self) -> dict[str, Any]:
        """Return the form in which auth answers."""
        return {
            "id": self.id,
            "kind": self.kind,
            "scopes": sorted(self.scopes),
            "gateway_id": self.gateway_id,
            "name": self.name,
        }


# --- API keys ---------------------------------------------------------------------------------------------


def new_api_key(key_id: str) -> str:
    """Return a new key `esp_live_<id>_<secret><checksum>` with 160 bits of secret.

    `key_id`: 3 to 64 of a-z, 0-9 and hyphen; ValueError for any other. The checksum tells a mistyped key, or
    a secret scanner's find, without asking anybody.
    """
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError(f"not an id of a key: {key_id!r}")
    secret = "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))
    key = f"{KEY_PREFIX}{key_id}_{secret}"
    return key + _checksum(key)


def key_id_of(key: str) -> str | None:
    """Return the id that `key` carries; None when it is malformed or its checksum is wrong."""
    match = _KEY.fullmatch(key)
    if match is None or _checksum(key[:-_CHECKSUM_LENGTH]) != key[-_CHECKSUM_LENGTH:]:
        return None
    return match[1]


def _checksum(text: str) -> str:
    """Return the CRC-32 of `text` as six base62 digits."""
    number, digits = crc32(text.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


class _Known(NamedTuple):
    """What auth last said of a key (None: it is not valid), and when by the monotonic clock."""

    principal: Principal | None
    at: float


def key_digest(key: str) -> str:
    """Return the form of `key` in which services ask for it: SHA-256, hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyVerifier:
    """Verifies API keys with the auth service and remembers its answers for `ttl_s` seconds.

    With auth or broker away a key that was good in the last five minutes stays good; any other is refused
    with Unavailable. Give `on_event` the events `auth.key-revoked` and `forget` each reconnection.
    """

    def __init__(self, requester: Requester, *, ttl_s: float = 30.0) -> None:
        self._requester = requester
        self._ttl_s = ttl_s
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Principal | None]] = {}
        self._evictions = 0

    def cached(self, key: str) -> Principal | None:
        """Return the principal if the key is known to be good at this moment; never waits."""
        known = self._known.get(key_digest(key))
        if known is not None and known.principal and time.monotonic() - known.at < self._ttl_s:
            return known.principal
        return None

    async def verify(self, key: str) -> Principal:
        """Return who `key` belongs to; raise Unauthenticated, or Unavailable when nobody can tell."""
        if key_id_of(key) is None:
            raise _invalid_key()
        digest = key_digest(key)
        known = self._known.get(digest)
        age_s = time.monotonic() - known.at if known else STALE_S
        if known and age_s < (self._ttl_s if known.principal else NEGATIVE_TTL_S):
            principal = known.principal
        else:
            try:
                principal = await self._ask_once(digest)
            except EspError as error:
                if known is None or known.principal is None or age_s >= STALE_S:
                    raise Unavailable("keys cannot be verified at the moment", retry_after_s=2) from error
                log.warning("auth.stale-key-accepted", principal=known.principal.id, age_s=round(age_s))
                principal = known.principal
        if principal is None:
            raise _invalid_key()
        return principal

    def on_event(self, event: Event) -> None:
        """Forget a key that was revoked, and what auth is just answering; the event's data has `key_id`."""
        if event.type != KEY_REVOKED:
            return
        self._evictions += 1
        key_id = event.data.get("key_id")
        for digest in [
            d for d, known in self._known.items() if known.principal and known.principal.id == key_id
        ]:
            del self._known[digest]

    def forget(self) -> None:
        """Treat every remembered answer as out of date; it still serves while auth cannot be asked."""
        self._evictions += 1
        outdated = time.monotonic() - self._ttl_s
        self._known = OrderedDict(
            (digest, known._replace(at=min(known.at, outdated)))
            for digest, known in self._known.items()
            if known.principal
        )

    async def _ask_once(self, digest: str) -> Principal | None:
        """Ask auth; callers with the same key share one question."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(task)

    async def _ask(self, digest: str) -> Principal | None:
        """Ask until no key is revoked meanwhile: the answer may be older than that, and would be kept."""
        for _ in range(VOID_ANSWERS):
            evictions = self._evictions
            principal = await self._ask_auth(digest)
            if evictions == self._evictions:
                self._keep(digest, principal)
                break
        return principal

    async def _ask_auth(self, digest: str) -> Principal | None:
        answer = await self._requester.request(
            topology.COMMANDS,
            topology.AUTH_VERIFY_KEY,
            orjson.dumps({"key_sha256": digest}),
            timeout_s=ANSWER_TIMEOUT_S,
        )
        return decode_answer(answer)

    def _keep(self, digest: str, principal: Principal | None) -> None:
        self._known[digest] = _Known(principal, time.monotonic())
        self._known.move_to_end(digest)
        if len(self._known) > MAX_CACHED_KEYS:
            self._known.popitem(last=False)


def _invalid_key() -> Unauthenticated:
    return Unauthenticated("this API key is not valid", fix="ask an administrator for a key")


def encode_answer(principal: Principal | None) -> bytes:
    """Return auth's answer to `auth.verify-key`; None says the key is not valid."""
    return orjson.dumps({"principal": principal.to_json() if principal else None})


def decode_answer(body: bytes) -> Principal | None:
    """Return the principal of auth's answer, None when the key is not valid."""
    fields = orjson.loads(body)["principal"]
    if fields is None:
        return None
    return Principal(
        fields["id"],
        fields["kind"],
        frozenset(fields["scopes"]),
        fields["gateway_id"],
        name=fields.get("name"),
    )


# --- every route ------------------------------------------------------------------------------------------


class CredentialVerifier(Protocol):
    """What an application has as `app.state.verifier`."""

    def cached(self, credential: str, /) -> Principal | None:
        """Return whose credential this is if that is known at this moment; never waits."""

    async def verify(self, credential: str, /) -> Principal:
        """Return whose credential this is; raise Unauthenticated, or Unavailable when nobody can tell."""


def credential(headers: Mapping[str, str]) -> str:
    """Return the key or token in `Authorization: Bearer`, or the key in `X-API-Key`.

    `headers` by lower-case name. Raises Unauthenticated when there is none.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    found = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    if not found:
        raise Unauthenticated(
            "no credential", fix="send Authorization: Bearer <token or API key>, or X-API-Key: <API key>"
        )
    return found


def count_refusal(connection: HTTPConnection) -> None:
    """Count a credential that is not valid, by address; raise RateLimited when it is one too many.

    Those who present valid ones from the same address are not counted with it, and not refused.
    """
    limiter: RateLimiter | None = getattr(connection.app.state, "limiter", None)
    origin = ORIGIN.get()
    if limiter is not None and origin is not None and origin.source_address is not None:
        limiter.hit(f"refused credentials of {origin.source_address}")


class Authenticated:
    """FastAPI dependency: who calls, by any valid credential. For HTTP and WebSocket alike.

    The application has its verifier as `app.state.verifier`; the edge finds the caller in the request's
    state as `principal`.
    """

    permission: str | None = None

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Return the caller; raise Unauthenticated, Unavailable or RateLimited."""
        known: Principal | None = getattr(connection.state, "principal", None)
        if known is not None:
            return known
        verifier: CredentialVerifier = connection.app.state.verifier
        given = credential(connection.headers)
        try:
            caller = verifier.cached(given) or await verifier.verify(given)
        except Unauthenticated:
            count_refusal(connection)
            raise
        connection.state.principal = caller
        limiter: RateLimiter | None = getattr(connection.app.state, "limiter", None)
        if limiter is not None:
            limiter.hit(caller.id)
        return caller


class Permitted(Authenticated):
    """FastAPI dependency: the caller, if they have `permission`."""

    def __init__(self, permission: str) -> None:
        self.permission = permission

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Return the caller; raise Forbidden as well."""
        caller = await super().__call__(connection)
        if not caller.may(str(self.permission)):
            raise _forbidden(caller, str(self.permission))
        return caller


def _forbidden(caller: Principal, permission: str) -> Forbidden:
    first = {"password": "change the password", "totp": "enrol a second factor"}
    fix = " and ".join(first.get(duty, duty) for duty in sorted(caller.must)) or "ask an administrator for it"
    return Forbidden(f"this needs the permission {permission}", fix=fix)


authenticated: Final = Authenticated()
"""Dependency of routes for every caller with a valid credential, whatever they may do."""


def require(permission: str) -> Permitted:
    """Return a FastAPI dependency that gives the caller if they have `permission`, else Forbidden."""
    if permission not in PERMISSIONS:
        raise ValueError(f"not in the table of permissions: {permission}")
    return Permitted(permission)


async def PUBLIC() -> None:  # noqa: N802 - a marker
    """Dependency of the few routes that answer without a credential (login, refresh, JWKS)."""
