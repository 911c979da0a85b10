"""Authentication and authorization of callers: principals, permissions and API keys.

The auth service verifies keys over the broker; only a key's SHA-256 leaves this process. `esp_common.tokens`
verifies tokens. The table of permissions is defined here only; documentation and tests are generated from it.
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
"""Roles of human users; a user may have several."""

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
"""Human roles per permission. A key's permissions are its scopes."""

KEY_REVOKED: Final = "auth.key-revoked"
STALE_S: Final = 300.0
NEGATIVE_TTL_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 3.0
MAX_CACHED_KEYS: Final = 10_000
VOID_ANSWERS: Final = 3
"""Maximum repetitions of a key request whose answer a revocation may have overtaken."""

KEY_PREFIX: Final = "esp_live_"
_SECRET_LENGTH: Final = 27
_CHECKSUM_LENGTH: Final = 6
_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY_ID: Final = re.compile(r"[a-z0-9-]{3,64}")
_KEY: Final = re.compile(
    rf"{KEY_PREFIX}({_KEY_ID.pattern})_[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}"
)


def scopes_of(roles: Collection[str]) -> frozenset[str]:
    """Return the union of the permissions of `roles`."""
    return frozenset(permission for permission, having in PERMISSIONS.items() if not having.isdisjoint(roles))


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: an API key, or a user in a session.

    `gateway_id`: the key belongs to that gateway and may publish only for it. `must`: an action the user has
    to complete first ("password": change it, "totp": enrol a second factor); until then `scopes` is empty.
    """

    id: str
    kind: Literal["key", "user"]
    scopes: frozenset[str]
    gateway_id: str | None = None
    session_id: str | None = None
    name: str | None = None
    must: frozenset[str] = frozenset()

    def may(self, permission: str) -> bool:
        """Return whether the caller has `permission`."""
        return permission in self.scopes

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form used in auth's replies."""
        return {
            "id": self.id,
            "kind": self.kind,
            "scopes": sorted(self.scopes),
            "gateway_id": self.gateway_id,
            "name": self.name,
        }


def new_api_key(key_id: str) -> str:
    """Return a new key `esp_live_<id>_<secret><checksum>` with 160 bits of secret.

    `key_id`: 3 to 64 of a-z, 0-9 and hyphen; ValueError for any other. The checksum detects mistyped keys and
    secret-scanner matches offline.
    """
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError(f"not an id of a key: {key_id!r}")
    secret = "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))
    key = f"{KEY_PREFIX}{key_id}_{secret}"
    return key + _checksum(key)


def key_id_of(key: str) -> str | None:
    """Return the id in `key`; None if the key is malformed or its checksum is wrong."""
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
    """Last known result for a key (None: not valid) and its monotonic time."""

    principal: Principal | None
    at: float


def key_digest(key: str) -> str:
    """Return the SHA-256 of `key` in hexadecimal, the form used in requests to auth."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyVerifier:
    """Verify API keys with the auth service and cache the results for `ttl_s` seconds.

    If auth or the broker is unavailable, keys that were valid within the last five minutes stay valid; others
    raise Unavailable. Pass `auth.key-revoked` events to `on_event` and call `forget` after each reconnection.
    """

    def __init__(self, requester: Requester, *, ttl_s: float = 30.0) -> None:
        self._requester = requester
        self._ttl_s = ttl_s
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Principal | None]] = {}
        self._evictions = 0

    def cached(self, key: str) -> Principal | None:
        """Return the principal if a fresh result is cached; never blocks."""
        known = self._known.get(key_digest(key))
        if known is not None and known.principal and time.monotonic() - known.at < self._ttl_s:
            return known.principal
        return None

    async def verify(self, key: str) -> Principal:
        """Return the key's principal; raise Unauthenticated, or Unavailable if the key cannot be verified."""
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
        """Forget a revoked key and discard requests in flight for it; the event's data has `key_id`."""
        if event.type != KEY_REVOKED:
            return
        self._evictions += 1
        key_id = event.data.get("key_id")
        for digest in [
            d for d, known in self._known.items() if known.principal and known.principal.id == key_id
        ]:
            del self._known[digest]

    def forget(self) -> None:
        """Mark all cached results stale; they are still used while auth is unavailable."""
        self._evictions += 1
        outdated = time.monotonic() - self._ttl_s
        self._known = OrderedDict(
            (digest, known._replace(at=min(known.at, outdated)))
            for digest, known in self._known.items()
            if known.principal
        )

    async def _ask_once(self, digest: str) -> Principal | None:
        """Ask auth; concurrent callers with the same key share one request."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(task)

    async def _ask(self, digest: str) -> Principal | None:
        """Repeat the request while keys are revoked meanwhile: its answer may predate the revocation."""
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
    """Return auth's reply to `auth.verify-key`; None means the key is not valid."""
    return orjson.dumps({"principal": principal.to_json() if principal else None})


def decode_answer(body: bytes) -> Principal | None:
    """Return the principal in auth's reply, None if the key is not valid."""
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


class CredentialVerifier(Protocol):
    """Interface of `app.state.verifier`."""

    def cached(self, credential: str, /) -> Principal | None:
        """Return the credential's principal if a fresh result is cached; never blocks."""

    async def verify(self, credential: str, /) -> Principal:
        """Return the principal; raise Unauthenticated, or Unavailable if verification is impossible."""


def credential(headers: Mapping[str, str]) -> str:
    """Return the key or token in `Authorization: Bearer`, or the key in `X-API-Key`.

    `headers` by lower-case name. Raises Unauthenticated if there is none.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    found = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    if not found:
        raise Unauthenticated(
            "no credential", fix="send Authorization: Bearer <token or API key>, or X-API-Key: <API key>"
        )
    return found


def count_refusal(connection: HTTPConnection) -> None:
    """Count an invalid credential by address; raise RateLimited above the limit.

    Valid credentials from the same address are neither counted nor refused.
    """
    limiter: RateLimiter | None = getattr(connection.app.state, "limiter", None)
    origin = ORIGIN.get()
    if limiter is not None and origin is not None and origin.source_address is not None:
        limiter.hit(f"refused credentials of {origin.source_address}")


class Authenticated:
    """FastAPI dependency that returns the caller of an HTTP request or a WebSocket.

    It uses the verifier in `app.state.verifier` and stores the caller as `principal` in the request's state.
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
    """FastAPI dependency that returns the caller if it has `permission`."""

    def __init__(self, permission: str) -> None:
        self.permission = permission

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Return the caller; also raise Forbidden."""
        caller = await super().__call__(connection)
        if not caller.may(str(self.permission)):
            raise _forbidden(caller, str(self.permission))
        return caller


def _forbidden(caller: Principal, permission: str) -> Forbidden:
    first = {"password": "change the password", "totp": "enrol a second factor"}
    fix = " and ".join(first.get(duty, duty) for duty in sorted(caller.must)) or "ask an administrator for it"
    return Forbidden(f"this needs the permission {permission}", fix=fix)


authenticated: Final = Authenticated()
"""Dependency of routes that every authenticated caller may use."""


def require(permission: str) -> Permitted:
    """Return a FastAPI dependency that returns the caller if it has `permission`, else raises Forbidden."""
    if permission not in PERMISSIONS:
        raise ValueError(f"not in the table of permissions: {permission}")
    return Permitted(permission)


async def PUBLIC() -> None:  # noqa: N802 - a marker
    """Dependency of the few routes without authentication (login, refresh, JWKS)."""
