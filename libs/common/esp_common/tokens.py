"""Verify access tokens locally: no request waits for the auth service once its public keys are known.

Tokens are JWTs as RFC 8725 recommends: EdDSA over Ed25519 and no other algorithm, `typ` at+jwt, a `kid` in
auth's key set, and every claim of `REQUIRED`. Keys come over the broker (`auth.jwks`); while auth is
unavailable the last known ones are used. `esp_common.revocations` knows the revoked tokens.
"""

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any, Final, NamedTuple

import jwt
import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from esp_common import topology
from esp_common.auth import KEY_PREFIX, KeyVerifier, Principal, scopes_of
from esp_common.contracts.events import Event
from esp_common.errors import EspError, Unauthenticated, Unavailable
from esp_common.messaging import Requester
from esp_common.revocations import REVOKED, Revocations

log = structlog.get_logger()

ISSUER: Final = "esp-auth"
AUDIENCE: Final = "esp"
ALGORITHM: Final = "EdDSA"
TYPE: Final = "at+jwt"
REQUIRED: Final = ("iss", "aud", "sub", "name", "roles", "sid", "jti", "iat", "nbf", "exp")
LEEWAY_S: Final = 30
"""How far auth's clock may be ahead of ours; expiry has no leeway."""

KEYS_ROTATED: Final = "auth.keys-rotated"
EVENTS: Final = ("auth.key-revoked", KEYS_ROTATED, REVOKED)
"""Events to pass to the verifier's `on_event`."""

REFETCH_S: Final = 5.0
RELOAD_S: Final = 600.0
RETRY_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 3.0
MAX_TOKEN_LENGTH: Final = 8192
MAX_REMEMBERED: Final = 10_000


_UNREADABLE: Final = (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError)
"""Errors raised by decoding text that is not one of our tokens."""


class Token(NamedTuple):
    """A token with a valid signature and claims; times in epoch seconds."""

    principal: Principal
    session_id: str
    issued_at: float
    expires_at: float


def read_token(token: str, key: Ed25519PublicKey) -> Token:
    """Return the claims of `token` if `key` signed it and it is valid for us now; raise Unauthenticated."""
    try:
        complete = jwt.decode_complete(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY_S,
            options={"require": list(REQUIRED), "strict_aud": True},
        )
        if complete["header"].get("typ") != TYPE:
            raise _invalid()
        return _token(complete["payload"])
    except jwt.ExpiredSignatureError:
        raise _expired() from None
    except _UNREADABLE:
        raise _invalid() from None


def key_id_in(token: str) -> str:
    """Return the unverified `kid` of `token`; raise Unauthenticated."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise _invalid()
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except _UNREADABLE:
        raise _invalid() from None
    if not isinstance(kid, str) or not kid:
        raise _invalid()
    return kid


def _token(claims: dict[str, Any]) -> Token:
    must = frozenset(_texts(claims.get("must", [])))
    roles = _texts(claims["roles"])
    principal = Principal(
        id=_text(claims["sub"]),
        kind="user",
        scopes=frozenset() if must else scopes_of(roles),
        session_id=_text(claims["sid"]),
        name=_text(claims["name"]),
        must=must,
    )
    return Token(principal, _text(claims["sid"]), _seconds(claims["iat"]), _seconds(claims["exp"]))


def _text(claim: object) -> str:
    if not isinstance(claim, str) or not claim:
        raise TypeError("not a text")
    return claim


def _texts(claim: object) -> list[str]:
    if not isinstance(claim, list):
        raise TypeError("not a list")
    return [_text(each) for each in claim]


def _seconds(claim: object) -> float:
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim):
        raise TypeError("not a time")
    return float(claim)


def _invalid() -> Unauthenticated:
    return Unauthenticated("this token is not valid", fix="log in again")


def _expired() -> Unauthenticated:
    return Unauthenticated("this token has expired", fix="refresh it, or log in again")


class TokenKeys:
    """auth's public keys by `kid`. Run `run()` beside the application to notice rotations."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._due = asyncio.Event()
        self._asking = asyncio.Lock()
        self._asked_at = float("-inf")
        self._failed: bool | None = None
        self.generation = 0
        """Rises whenever the keys are others than before: what was verified with them has to be again."""

    def note_change(self) -> None:
        """Fetch the keys again: they were rotated, or may have been while disconnected."""
        self._due.set()

    async def run(self) -> None:
        """Keep the keys current until cancelled."""
        while True:
            self._due.clear()
            async with self._asking:
                await self._fetch()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._failed else RELOAD_S):
                    await self._due.wait()

    async def find(self, kid: str) -> Ed25519PublicKey:
        """Return the key; raise Unauthenticated if auth has no such key, Unavailable if auth cannot be asked.

        Unknown `kid`s cost auth at most one request in `REFETCH_S` seconds.
        """
        if kid not in self._keys:
            async with self._asking:  # a concurrent caller may have fetched it already
                if kid not in self._keys and time.monotonic() - self._asked_at >= REFETCH_S:
                    await self._fetch()
        key = self._keys.get(kid)
        if key is None:
            if self._failed:
                raise Unavailable("tokens cannot be verified at the moment", retry_after_s=2)
            raise _invalid()
        return key

    async def _fetch(self) -> None:
        """Fetch auth's keys; keep the known ones if auth is unavailable."""
        self._asked_at = time.monotonic()
        failed_before, self._failed = self._failed, True
        try:
            answer = await self._requester.request(
                topology.COMMANDS, topology.AUTH_JWKS, b"{}", timeout_s=ANSWER_TIMEOUT_S
            )
            keys = read_jwks(answer)
        except (EspError, ValueError, KeyError, TypeError, AttributeError) as error:
            if not failed_before:
                log.warning("tokens.keys-unknown", reason=str(error), known=len(self._keys))
            return
        self._failed = False
        if {kid: key.public_bytes_raw() for kid, key in keys.items()} != {
            kid: key.public_bytes_raw() for kid, key in self._keys.items()
        }:
            self._keys = keys
            self.generation += 1
            log.info("tokens.keys", kids=sorted(keys))


def read_jwks(document: bytes) -> dict[str, Ed25519PublicKey]:
    """Return the Ed25519 signing keys of a JSON Web Key Set by `kid`.

    Raises ValueError, KeyError, TypeError or AttributeError if it is not one.
    """
    found = {}
    for entry in orjson.loads(document)["keys"]:
        if entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519" and entry.get("use", "sig") == "sig":
            raw = jwt.utils.base64url_decode(entry["x"])
            found[str(entry["kid"])] = Ed25519PublicKey.from_public_bytes(raw)
    return found


class _Remembered(NamedTuple):
    """A verified token, and the generation of keys that verified it."""

    token: Token
    generation: int


class Verifier(KeyVerifier):
    """Verify a caller's credential: API keys with auth, tokens locally.

    The application keeps it as `app.state.verifier`, runs `run()` beside itself, passes the events of
    `EVENTS` to `on_event`, and calls `forget` whenever events may have been missed. `redis_url`: source of
    revocations (None: auth over the broker only).
    """

    def __init__(
        self,
        requester: Requester,
        *,
        redis_url: str | None = None,
        ttl_s: float = 30.0,
        revocations: Revocations | None = None,
    ) -> None:
        super().__init__(requester, ttl_s=ttl_s)
        self._token_keys = TokenKeys(requester)
        self._revocations = revocations or Revocations(requester, redis_url)
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    async def run(self) -> None:
        """Keep public keys and revocations current until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._token_keys.run())
            group.create_task(self._revocations.run())

    def cached(self, credential: str) -> Principal | None:
        """Return the credential's principal if a fresh result is cached; never blocks."""
        if credential.startswith(KEY_PREFIX):
            return super().cached(credential)
        token = self._recall(credential)
        if token is None or not self._revocations.current or self._refusal(token):
            return None
        return token.principal

    async def verify(self, credential: str) -> Principal:
        """Return the principal; raise Unauthenticated, or Unavailable if verification is impossible."""
        if credential.startswith(KEY_PREFIX):
            return await super().verify(credential)
        token = self._recall(credential)
        if token is None:
            key = await self._token_keys.find(key_id_in(credential))
            generation = self._token_keys.generation
            token = read_token(credential, key)
            self._remember(credential, _Remembered(token, generation))
        await self._revocations.ensure_current()
        if refusal := self._refusal(token):
            raise refusal
        return token.principal

    def on_event(self, event: Event) -> None:
        """Apply an event of auth: a key or token revoked, keys rotated."""
        super().on_event(event)
        self._revocations.on_event(event)
        if event.type == KEYS_ROTATED:
            self._token_keys.note_change()

    def forget(self) -> None:
        """Reload everything that missed events may have changed."""
        super().forget()
        self._token_keys.note_change()

    def _refusal(self, token: Token) -> Unauthenticated | None:
        if token.expires_at <= time.time():
            return _expired()
        if self._revocations.revoked(token.principal.id, token.session_id, token.issued_at):
            return _invalid()
        return None

    def _recall(self, credential: str) -> Token | None:
        remembered = self._remembered.get(_name(credential))
        if remembered is None or remembered.generation != self._token_keys.generation:
            return None
        return remembered.token

    def _remember(self, credential: str, remembered: _Remembered) -> None:
        self._remembered[_name(credential)] = remembered
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _name(credential: str) -> bytes:
    """Return the cache key of a token: not the token itself, since memory may be dumped."""
    return hashlib.sha256(credential.encode(errors="replace")).digest()
