"""`POST /api/v1/telemetry`: readings in, an answer once the broker has them.

Plain ASGI, because a framework's work for each request would be more than the request itself. Even ASGI's
own (a task, an event and six dictionaries a request) is half of what a small post costs, so the server hands
those to `TelemetryEndpoint.take` as they come off the wire. Both ways say what FastAPI would say.
"""

from collections.abc import Callable, MutableMapping
from typing import Any, Final

import orjson
import structlog
from esp_common.audit import AuditTrail
from esp_common.auth import CredentialVerifier, Principal, credential
from esp_common.client_address import TrustedProxies
from esp_common.contracts.readings import API_GATEWAY
from esp_common.errors import (
    EspError,
    Forbidden,
    InvalidInput,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from esp_common.http import SECURITY_HEADERS, problem_response
from prometheus_client import Counter
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from esp_ingest.coalescer import Coalescer, Receipt
from esp_ingest.domain.decode import ARROW_TYPE, JSON_TYPE, Body

log = structlog.get_logger()

PATH: Final = "/api/v1/telemetry"
PERMISSION: Final = "telemetry:write"
ACTION: Final = f"POST {PATH}"
"""What posts are called in the audit log."""
MAX_KEY_LENGTH: Final = 128
"""Longest `Idempotency-Key`: it travels as an AMQP message_id, which has room for 255 bytes."""

POSTS: Final = Counter("esp_ingest_posts", "Posts of readings answered, by status.", ["status"])
_CREDENTIALS: Final = ((b"authorization", "authorization"), (b"x-api-key", "x-api-key"))
_JSON: Final = JSON_TYPE.encode()
_UNUSUAL: Final = frozenset({b"idempotency-key", b"content-encoding", b"expect"})
_ACCEPTED: Final = POSTS.labels(202)


class NothingAccepted(InvalidInput):
    """Every reading of a post was refused whole; they are in quarantine."""

    def __init__(self, receipt: Receipt) -> None:
        detail = "every reading was rejected" if receipt.rejected else "the body holds no reading"
        super().__init__(detail, fix="see the reasons; rejected readings are kept in quarantine")
        self._receipt = receipt

    def extensions(self) -> dict[str, Any]:
        """Return the members that a 202 has too."""
        return _members(self._receipt)


class TelemetryEndpoint:
    """The ASGI application of the path; it needs nothing of the application around it."""

    def __init__(
        self,
        verifier: CredentialVerifier,
        coalescer: Coalescer,
        trail: AuditTrail,
        max_body_bytes: int,
        proxies: TrustedProxies,
    ) -> None:
        self._verifier = verifier
        self._coalescer = coalescer
        self._trail = trail
        self._max_body_bytes = max_body_bytes
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        outcome: Receipt | Exception
        scope.setdefault("state", {})
        try:
            outcome = await self._take(scope, receive)
        except ClientDisconnect:
            return
        except Exception as error:
            outcome = error
        caller = scope["state"].get("principal")
        await self._answer(outcome, caller, self.source_address(scope))(scope, receive, send)

    def source_address(self, scope: Scope) -> str | None:
        """Return the address of the client of a request."""
        return self._proxies.client_address(scope)

    def known(self, headers: dict[bytes, bytes]) -> Principal | None:
        """Return who begins a post that `take` may serve: plain JSON, of a caller whose key is known."""
        if headers.get(b"content-type") != _JSON or not headers.keys().isdisjoint(_UNUSUAL):
            return None
        try:
            caller = self._verifier.cached(credential(_credentials(headers)))
        except Unauthenticated:
            return None
        return caller if caller is not None and caller.may(PERMISSION) else None

    def take(
        self, caller: Principal, source: str | None, content: bytes, answer: Callable[[Response], None]
    ) -> bool:
        """Take a small post of a `known` caller, and have `answer` called with the response.

        `source`: the address it came from. Returns whether it did; any other post is one for `__call__`.
        """
        body = Body(content, JSON_TYPE, _gateway(caller))
        try:
            return self._coalescer.join(body, lambda outcome: answer(self._answer(outcome, caller, source)))
        except Unavailable:
            return False

    def _answer(self, outcome: Receipt | Exception, caller: Principal | None, source: str | None) -> Response:
        """Return what the caller is told, having it noted: posts alike within a second share a record."""
        response = _response(outcome)
        self._trail.tally(
            ACTION,
            PATH,
            actor_id=caller.id if caller else None,
            actor_kind=caller.kind if caller else "anonymous",
            status=response.status_code,
            source_address=source,
        )
        return response

    async def _take(self, scope: Scope, receive: Receive) -> Receipt:
        """Authorise, then read, then hand over: nobody's body is read before their key is known.

        A body may be long on its way, so the key is looked at again when it is here.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        await self._caller(headers, scope["state"])
        if scope["query_string"]:
            raise InvalidInput("this path takes no query parameters", fix="leave them out")
        media_type = _media_type(headers)
        message_id = _message_id(headers)
        content = await self._read(headers, receive)
        caller = await self._caller(headers, scope["state"])
        return await self._coalescer.post(Body(content, media_type, _gateway(caller), message_id))

    async def _caller(self, headers: dict[bytes, bytes], state: MutableMapping[str, Any]) -> Principal:
        key = credential(_credentials(headers))
        caller = state["principal"] = self._verifier.cached(key) or await self._verifier.verify(key)
        if not caller.may(PERMISSION):
            raise Forbidden(f"this needs the permission {PERMISSION}", fix="ask an administrator for it")
        return caller

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if int(headers.get(b"content-length", b"0")) > self._max_body_bytes:
            raise self._too_large()
        message = await receive()
        content: bytes = message.get("body", b"")
        if message.get("more_body"):
            content = await self._read_on(content, receive)
        elif message["type"] == "http.disconnect":
            raise ClientDisconnect
        if len(content) > self._max_body_bytes:
            raise self._too_large()
        return content

    async def _read_on(self, first: bytes, receive: Receive) -> bytes:
        """Return the rest too, or as much as shows that it is too large."""
        content = bytearray(first)
        more = True
        while more and len(content) <= self._max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            content += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(content)

    def _too_large(self) -> TooLarge:
        limit = f"{self._max_body_bytes} bytes"
        return TooLarge(f"the body is larger than {limit}", fix="send the readings in several posts")


class FastLane:
    """Takes posts of readings past the application's middleware; everything else goes through it."""

    def __init__(self, application: ASGIApp, endpoint: TelemetryEndpoint) -> None:
        self._application = application
        self.endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        fast = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"
        await (self.endpoint if fast else self._application)(scope, receive, send)


def _media_type(headers: dict[bytes, bytes]) -> str:
    declared = headers.get(b"content-type", b"")
    media_type = declared.partition(b";")[0].strip().lower().decode("latin-1")
    if media_type not in (JSON_TYPE, ARROW_TYPE):
        raise UnsupportedMediaType(
            f"readings cannot be read from {media_type or 'no content type'!r}",
            fix=f"send {JSON_TYPE} or {ARROW_TYPE}",
        )
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise UnsupportedMediaType("the body is compressed", fix="send it as it is")
    return media_type


def _message_id(headers: dict[bytes, bytes]) -> str | None:
    key = headers.get(b"idempotency-key")
    if key is None:
        return None
    text = key.decode("latin-1").strip()
    if not 0 < len(text) <= MAX_KEY_LENGTH or not (text.isascii() and text.isprintable()):
        raise InvalidInput(f"Idempotency-Key is not 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    return text


def _gateway(caller: Principal) -> str:
    return API_GATEWAY if caller.gateway_id is None else caller.gateway_id


def _credentials(headers: dict[bytes, bytes]) -> dict[str, str]:
    return {name: headers[key].decode("latin-1") for key, name in _CREDENTIALS if key in headers}


def _response(outcome: Receipt | Exception) -> Response:
    """Return what the caller is told, and count it."""
    if isinstance(outcome, Receipt):
        if outcome.accepted == 1 and not outcome.rejected:
            _ACCEPTED.inc()
            return _ONE_ACCEPTED
        if outcome.accepted:
            _ACCEPTED.inc()
            return _accepted(orjson.dumps(_members(outcome)))
        outcome = NothingAccepted(outcome)
    if not isinstance(outcome, EspError):
        failure = EspError("the readings could not be taken; the log knows why by the error id")
        log.error("telemetry.failed", error_id=failure.error_id, exc_info=outcome)
        outcome = failure
    POSTS.labels(outcome.status).inc()
    response = problem_response(outcome, PATH)
    response.raw_headers.extend(SECURITY_HEADERS)
    return response


def _accepted(content: bytes) -> Response:
    response = Response(content, 202, media_type=JSON_TYPE)
    response.raw_headers.extend(SECURITY_HEADERS)
    return response


_ONE_ACCEPTED: Final = _accepted(b'{"accepted":1,"rejected":[]}')


def _members(receipt: Receipt) -> dict[str, Any]:
    members: dict[str, Any] = {
        "accepted": receipt.accepted,
        "rejected": [
            {
                "index": refusal.index,
                "channel": refusal.row.channel,
                "error_id": str(refusal.row.id),
                "reason": refusal.row.reason,
                "detail": refusal.row.detail,
            }
            for refusal in receipt.rejected
        ],
    }
    if receipt.summary is not None:
        members["rejected_total"] = receipt.rejected_total
        members["rest_error_id"] = str(receipt.summary.id)
    return members
