"""Who calls, and whether they may: API keys verified by the auth service, over the broker.

What leaves this process is a key's SHA-256, never the key. The table of permissions is here and nowhere
else; documentation and tests are made from it.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import orjson
import structlog
from fastapi import Request

from esp_common import topology
from esp_common.contracts.events import Event
from esp_common.errors import EspError, Forbidden, Unauthenticated, Unavailable
from esp_common.messaging import Requester

log = structlog.get_logger()

_READERS: Final = frozenset({"admin", "engineer", "operator", "viewer"})

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
    "metrics:read": frozenset({"admin"}),
}
"""Permission → the human roles that have it. A key has the permissions that are its scopes."""

KEY_REVOKED: Final = "auth.key-revoked"
STALE_S: Final = 300.0
NEGATIVE_TTL_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 3.0
MAX_CACHED_KEYS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls; `gateway_id` when the key is a gateway's and may speak only for it."""

    id: str
    kind: Literal["key", "user"]
    scopes: frozenset[str]
    gateway_id: str | None = None

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
        }


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

    def cached(self, key: str) -> Principal | None:
        """Return the principal if the key is known to be good at this moment; never waits."""
        known = self._known.get(key_digest(key))
        if known is not None and known.principal and time.monotonic() - known.at < self._ttl_s:
            return known.principal
        return None

    async def verify(self, key: str) -> Principal:
        """Return who `key` belongs to; raise Unauthenticated, or Unavailable when nobody can tell."""
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
            raise Unauthenticated("this API key is not valid", fix="ask an administrator for a key")
        return principal

    def on_event(self, event: Event) -> None:
        """Forget a key that was revoked; the event's data names its digest (`key_sha256`)."""
        if event.type == KEY_REVOKED:
            self._known.pop(event.data.get("key_sha256", ""), None)

    def forget(self) -> None:
        """Treat every remembered answer as out of date; it still serves while auth cannot be asked."""
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
        answer = await self._requester.request(
            topology.COMMANDS,
            topology.AUTH_VERIFY_KEY,
            orjson.dumps({"key_sha256": digest}),
            timeout_s=ANSWER_TIMEOUT_S,
        )
        principal = decode_answer(answer)
        self._known[digest] = _Known(principal, time.monotonic())
        self._known.move_to_end(digest)
        if len(self._known) > MAX_CACHED_KEYS:
            self._known.popitem(last=False)
        return principal


def encode_answer(principal: Principal | None) -> bytes:
    """Return auth's answer to `auth.verify-key`; None says the key is not valid."""
    return orjson.dumps({"principal": principal.to_json() if principal else None})


def decode_answer(body: bytes) -> Principal | None:
    """Return the principal of auth's answer, None when the key is not valid."""
    fields = orjson.loads(body)["principal"]
    if fields is None:
        return None
    return Principal(fields["id"], fields["kind"], frozenset(fields["scopes"]), fields["gateway_id"])


def credential(headers: Mapping[str, str]) -> str:
    """Return the key in `Authorization: Bearer` or `X-API-Key`; `headers` by lower-case name.

    Raises Unauthenticated when there is none.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    if not key:
        raise Unauthenticated("no API key", fix="send it as Authorization: Bearer <key> or X-API-Key")
    return key


async def authenticate(request: Request) -> Principal:
    """FastAPI dependency: who calls. The application has its KeyVerifier as `app.state.verifier`."""
    verifier: KeyVerifier = request.app.state.verifier
    key = credential(request.headers)
    return verifier.cached(key) or await verifier.verify(key)


def require(permission: str) -> Callable[[Request], Awaitable[Principal]]:
    """Return a FastAPI dependency that gives the caller if they have `permission`, else Forbidden."""
    if permission not in PERMISSIONS:
        raise ValueError(f"not in the table of permissions: {permission}")

    async def permitted(request: Request) -> Principal:
        principal = await authenticate(request)
        if not principal.may(permission):
            raise Forbidden(f"this needs the permission {permission}", fix="ask an administrator for it")
        return principal

    return permitted
