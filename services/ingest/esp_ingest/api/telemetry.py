"""`POST /api/v1/telemetry`: readings in, an answer once the broker has them.

Plain ASGI, because a framework's work for each request would be more than the request itself: a FastAPI
route takes 7,000 single readings a second where this takes 20,000. It says what FastAPI would say.
"""

from typing import Any, Final

import orjson
import structlog
from esp_common.auth import KeyVerifier, Principal, credential
from esp_common.contracts.readings import API_GATEWAY
from esp_common.errors import EspError, Forbidden, InvalidInput, TooLarge, UnsupportedMediaType
from esp_common.http import problem_response
from prometheus_client import Counter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from esp_ingest.coalescer import Coalescer, Receipt
from esp_ingest.domain.decode import ARROW_TYPE, JSON_TYPE, Body

log = structlog.get_logger()

PATH: Final = "/api/v1/telemetry"
PERMISSION: Final = "telemetry:write"
MAX_KEY_LENGTH: Final = 128
"""Longest `Idempotency-Key`: it travels as an AMQP message_id, which has room for 255 bytes."""

POSTS: Final = Counter("esp_ingest_posts", "Posts of readings answered, by status.", ["status"])
_CREDENTIALS: Final = (b"authorization", b"x-api-key")
_ACCEPTED: Final = POSTS.labels(202)
_ONE_ACCEPTED: Final = b'{"accepted":1,"rejected":[]}'


class NothingAccepted(InvalidInput):
    """Every reading of a post was refused; they are in quarantine."""

    def __init__(self, receipt: Receipt) -> None:
        detail = "every reading was rejected" if receipt.rejected else "the body holds no reading"
        super().__init__(detail, fix="see the reasons; rejected readings are kept in quarantine")
        self._receipt = receipt

    def extensions(self) -> dict[str, Any]:
        """Return the members that a 202 has too."""
        return _members(self._receipt)


class TelemetryEndpoint:
    """The ASGI application of the path; it needs nothing of the application around it."""

    def __init__(self, verifier: KeyVerifier, coalescer: Coalescer, max_body_bytes: int) -> None:
        self._verifier = verifier
        self._coalescer = coalescer
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            content = await self._take(scope, receive)
        except ClientDisconnect:
            return
        except EspError as error:
            await self._refuse(error, scope, receive, send)
        except Exception:
            failure = EspError("the readings could not be taken; the log knows why by the error id")
            log.exception("telemetry.failed", error_id=failure.error_id)
            await self._refuse(failure, scope, receive, send)
        else:
            _ACCEPTED.inc()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
            ]
            await send({"type": "http.response.start", "status": 202, "headers": headers})
            await send({"type": "http.response.body", "body": content})

    async def _take(self, scope: Scope, receive: Receive) -> bytes:
        """Authorise, then read, then hand over: nobody's body is read before their key is known."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        caller = await self._caller(headers)
        if scope["query_string"]:
            raise InvalidInput("this path takes no query parameters", fix="leave them out")
        media_type = _media_type(headers)
        message_id = _message_id(headers)
        content = await self._read(headers, receive)
        body = Body(
            content, media_type, API_GATEWAY if caller.gateway_id is None else caller.gateway_id, message_id
        )
        return _answer(await self._coalescer.post(body))

    async def _caller(self, headers: dict[bytes, bytes]) -> Principal:
        key = credential(
            {name.decode(): headers[name].decode("latin-1") for name in _CREDENTIALS if name in headers}
        )
        caller = self._verifier.cached(key) or await self._verifier.verify(key)
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

    async def _refuse(self, error: EspError, scope: Scope, receive: Receive, send: Send) -> None:
        POSTS.labels(error.status).inc()
        await problem_response(error, PATH)(scope, receive, send)


class FastLane:
    """Takes posts of readings past the application's middleware; everything else goes through it."""

    def __init__(self, application: ASGIApp, endpoint: ASGIApp) -> None:
        self._application = application
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        fast = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"
        await (self._endpoint if fast else self._application)(scope, receive, send)


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


def _answer(receipt: Receipt) -> bytes:
    if receipt.accepted == 1 and not receipt.rejected:
        return _ONE_ACCEPTED
    if not receipt.accepted:
        raise NothingAccepted(receipt)
    return orjson.dumps(_members(receipt))


def _members(receipt: Receipt) -> dict[str, Any]:
    return {
        "accepted": receipt.accepted,
        "rejected": [
            {"index": refusal.index, "error_id": str(refusal.row.id), "reason": refusal.row.reason}
            for refusal in receipt.rejected
        ],
    }
