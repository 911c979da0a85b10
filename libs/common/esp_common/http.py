"""The HTTP edge of every API: problems (RFC 9457), request ids, audit, metrics, limits, documentation.

Only `/health/*` answers without a credential. Metrics are on the role's second listener:
`esp_common.health.serve_health`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from uuid import uuid4

import orjson
import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, APIWebSocketRoute
from prometheus_client import Counter, Histogram
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esp_common import __version__
from esp_common.api_docs import docs_router
from esp_common.audit import ORIGIN, AuditTrail, Origin, Outcome
from esp_common.auth import Authenticated, CredentialVerifier, Principal
from esp_common.client_address import TrustedProxies
from esp_common.deprecation import deprecation_headers
from esp_common.errors import EspError, InvalidInput, RateLimited, TooLarge, Unauthenticated, Unavailable
from esp_common.health import Health
from esp_common.rate_limit import RateLimiter
from esp_common.telemetry import mask

log = structlog.get_logger()

PROBLEM_TYPE: Final = "application/problem+json"
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
REQUEST_TIMEOUT_S: Final = 60.0
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Added to every response that does not set its own."""

_CORS_HEADERS: Final = ("Authorization", "Content-Type", "Idempotency-Key", "X-API-Key", "X-Request-ID")
_UNAUDITED: Final = "/health/"
_VERDICT: Final = "audit_verdict"
_SECRET_PARAMETER: Final = "secret"  # noqa: S105 - a name
MAX_OBJECT_LENGTH: Final = 300
_NORMAL_CLOSURE, _POLICY_VIOLATION, _SERVER_ERROR = 1000, 1008, 1011

_REQUESTS: Final = Counter("esp_http_requests_total", "Requests answered.", ["method", "route", "status"])
_SECONDS: Final = Histogram(
    "esp_http_request_seconds", "Seconds from request to answer.", ["method", "route"]
)


class Problem(BaseModel):
    """An RFC 9457 problem, with the error id used in the log."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error_id: str
    code: str
    fix: str | None = None
    errors: list[dict[str, Any]] | None = None


def problem_response(error: EspError, instance: str) -> Response:
    """Return `error` as a problem document for the path `instance`."""
    problem = {
        "type": f"urn:esp:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "error_id": error.error_id,
        "code": error.code,
        **({"fix": error.fix} if error.fix else {}),
        **error.extensions(),
    }
    headers = {}
    if isinstance(error, Unavailable | RateLimited):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(problem), error.status, headers, PROBLEM_TYPE)


class _FrameworkError(EspError):
    """Errors of the framework: unknown route (404), method not allowed (405), malformed body (400)."""

    def __init__(self, error: HTTPException) -> None:
        super().__init__(str(error.detail))
        self.status = error.status_code  # type: ignore[misc]
        self.code = re.sub(r"\W+", "-", str(error.detail).lower()).strip("-")  # type: ignore[misc]
        self.title = str(error.detail)  # type: ignore[misc]


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EspError)  # noqa: S101 - registered for it
    return problem_response(error, request.url.path)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    response = problem_response(_FrameworkError(error), request.url.path)
    response.headers.update(error.headers or {})
    return response


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
    try:
        await _ask_guards(request)  # the body is parsed before the route's guards run
    except EspError as refusal:
        return problem_response(refusal, request.url.path)
    # Without the input itself: it may be large or a secret.
    fields = [{"where": list(map(str, e["loc"])), "what": e["msg"]} for e in error.errors()]
    what = "; ".join(f"{'.'.join(field['where'])}: {field['what']}" for field in fields[:3])
    return problem_response(InvalidInput(what, fields=fields), request.url.path)


def _query_names(dependant: Dependant) -> set[str]:
    names: set[str] = set().union(*map(_query_names, dependant.dependencies))
    for parameter in dependant.query_params:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= {field.alias or name for name, field in kind.model_fields.items()}
        else:
            names.add(parameter.alias)
    return names


async def _ask_guards(request: HTTPConnection) -> None:
    """Run the route's own guards first: only an authorized caller gets details of an invalid request."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    for guard in _guards(dependant) if dependant else []:
        await guard(request)


def _guards(dependant: Dependant) -> list[Authenticated]:
    own = [dependant.call] if isinstance(dependant.call, Authenticated) else []
    return own + [guard for inner in dependant.dependencies for guard in _guards(inner)]


async def refuse_unknown_query(request: HTTPConnection) -> None:
    """Reject unknown query parameters; a dependency of every route."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute | APIWebSocketRoute):
        return
    await _ask_guards(request)
    known = _query_names(route.dependant)
    if unknown := [name for name in request.query_params if name not in known]:
        fields = [{"where": ["query", name], "what": "unknown parameter"} for name in unknown]
        fix = f"known here: {', '.join(sorted(known)) or 'none'}"
        raise InvalidInput(f"unknown query parameters: {', '.join(unknown)}", fields=fields, fix=fix)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Audit outcome and subject of a request whose status does not determine them."""

    actor_id: str | None
    outcome: Outcome


def set_verdict(request: HTTPConnection, verdict: Verdict) -> None:
    """Set the audit outcome of this request."""
    setattr(request.state, _VERDICT, verdict)


class Edge:
    """ASGI middleware of every API: request id, audit, body limit, timeout, metrics, error handling.

    `trail`: records every request except health checks; None: no audit. `proxies`: trusted proxies.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        timeout_s: float,
        trail: AuditTrail | None,
        proxies: TrustedProxies,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._trail = trail
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        address = self._proxies.client_address(scope)
        state = scope.setdefault("state", {})
        state["source_address"] = address
        origin = Origin(address, request_id, state)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            token = ORIGIN.set(origin)
            try:
                if scope["type"] == "http":
                    status: int | None = await self._serve(
                        _Exchange(scope, receive, send, self._max_body_bytes, request_id)
                    )
                else:
                    status = await self._serve_socket(
                        _Socket(scope, receive, send, self._note_accepted(origin))
                    )
            finally:
                ORIGIN.reset(token)
        if status is not None:
            self._note(scope, origin, status)

    async def _serve(self, exchange: "_Exchange") -> int:
        """Run the application, answer its errors, and return the status."""
        try:
            exchange.check_length()
            async with asyncio.timeout(self._timeout_s) as exchange.timeout:
                await self._app(exchange.scope, exchange.receive, exchange.send)
        except EspError as error:
            await exchange.fail(error)
        except Exception as error:
            if exchange.timeout is not None and exchange.timeout.expired():
                late = Unavailable(
                    f"no answer within {self._timeout_s:g} s", fix="ask for less, or again later"
                )
                await exchange.fail(late)
            else:
                await exchange.fail(_log_failure(exchange.scope, error))
        else:
            if exchange.too_large:
                await exchange.fail(exchange.too_large)
        exchange.observe()
        return exchange.status

    async def _serve_socket(self, socket: "_Socket") -> int | None:
        """Run the application for a WebSocket; return the status of a refusal, None if it was accepted.

        If the application fails, the connection is refused (before it is accepted: HTTP 403) or closed.
        """
        code = None
        try:
            await self._app(socket.scope, socket.receive, socket.send)
        except EspError as error:
            socket.log_refusal(error)
        except Exception as error:
            _log_failure(socket.scope, error)
            code = _SERVER_ERROR
        await socket.end(code)
        return None if socket.accepted else socket.status

    def _note_accepted(self, origin: Origin) -> Callable[[Scope], None]:
        return lambda scope: self._note(scope, origin, HTTPStatus.SWITCHING_PROTOCOLS)

    def _note(self, scope: Scope, origin: Origin, status: int) -> None:
        path = scope["path"]
        if self._trail is None or path.startswith(_UNAUDITED):
            return
        caller: Principal | None = origin.state.get("principal")
        verdict: Verdict | None = origin.state.get(_VERDICT)
        actor_id = caller.id if caller else verdict.actor_id if verdict else None
        method = scope.get("method", "WS")
        self._trail.note(
            f"{method if method in _METHODS or method == 'WS' else 'other'} {_template(scope)}",
            _audited_object(scope),
            actor_id=actor_id,
            actor_kind=caller.kind if caller else "anonymous",
            status=int(status),
            source_address=origin.source_address,
            trace_id=origin.trace_id,
            outcome=verdict.outcome if verdict else None,
        )


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode(
        "latin-1"
    )
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def _template(scope: Scope) -> str:
    """Return the full path template of the route; an included router knows only its own part."""
    route = scope.get("route")
    path: str | None = getattr(route, "path", None)
    if path is None:
        return "unmatched"
    try:
        own = getattr(route, "path_format", path).format(**scope.get("path_params", {}))
    except (KeyError, IndexError, ValueError):
        own = path
    whole: str = scope["path"]
    return whole.removesuffix(own) + path if whole.endswith(own) else path


def _audited_object(scope: Scope) -> str:
    """Return the path with known secrets and values that look like secrets masked."""
    path: str = scope["path"]
    if secret := scope.get("path_params", {}).get(_SECRET_PARAMETER):
        path = path.replace(str(secret), "***")
    return mask(path)[:MAX_OBJECT_LENGTH]


def _log_failure(scope: Scope, error: Exception) -> EspError:
    # A response that has begun can only be cut short; the log has the reason.
    failure = EspError("the request could not be served; the log knows it by its error id")
    log.exception("request.failed", error_id=failure.error_id, path=_audited_object(scope), error=repr(error))
    return failure


class _Exchange:
    """One request and its response."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int, request_id: str
    ) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._request_id = request_id
        self._headers = dict(scope["headers"])
        self._received = 0
        self._started = time.perf_counter()
        self.status = 0
        self.timeout: asyncio.Timeout | None = None
        self.too_large: TooLarge | None = None

    def check_length(self) -> None:
        """Raise TooLarge if the announced body exceeds the limit."""
        announced = self._headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            raise self._limit()

    def _limit(self) -> TooLarge:
        return TooLarge(f"bodies may have {self._max_body_bytes} bytes here", fix="send smaller batches")

    async def receive(self) -> Message:
        """Receive the client's body, up to the limit."""
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._max_body_bytes:
            self.too_large = self._limit()
            raise self.too_large
        return message

    async def send(self, message: Message) -> None:
        """Send the response with the request id added."""
        if self.too_large and not self.status:
            return  # the framework would answer TooLarge as a malformed body (400); `fail` answers instead
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.timeout is not None and not self.timeout.expired():
                self.timeout.reschedule(None)  # a long response is not a late one
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [header for header in SECURITY_HEADERS if header[0] not in present]
            headers += deprecation_headers(self.scope)
            message = {**message, "headers": [*headers, (b"x-request-id", self._request_id.encode())]}
        await self._send(message)

    async def fail(self, error: EspError) -> None:
        """Send a problem, unless the response has begun."""
        self.timeout = None
        if not self.status:
            self.too_large = None
            await problem_response(error, self.scope["path"])(self.scope, self._receive, self.send)

    def observe(self) -> None:
        """Count the request under its route's template: paths would create a series for each pump."""
        route = getattr(self.scope.get("route"), "path", "unmatched")
        method = self.scope["method"] if self.scope["method"] in _METHODS else "other"
        _REQUESTS.labels(method, route, self.status).inc()
        _SECONDS.labels(method, route).observe(time.perf_counter() - self._started)


class _Socket:
    """One WebSocket; `on_accepted` is called with its scope once it is accepted."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, on_accepted: Callable[[Scope], None]
    ) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self._on_accepted = on_accepted
        self.accepted = False
        self.status: int = HTTPStatus.FORBIDDEN
        self._ended = False

    async def send(self, message: Message) -> None:
        """Forward the application's messages."""
        if message["type"] == "websocket.accept":
            self.accepted = True
            self._on_accepted(self.scope)
        elif message["type"] == "websocket.http.response.start":
            self._ended, self.status = True, message["status"]
        elif message["type"] == "websocket.close":
            self._ended = True
        await self._send(message)

    def log_refusal(self, error: EspError) -> None:
        """Log why a WebSocket was refused, since it has no problem document."""
        log.info("socket.refused", path=_audited_object(self.scope), code=error.code, error_id=error.error_id)

    async def end(self, code: int | None) -> None:
        """Close the connection unless the application or the other side already did."""
        if not self._ended:
            code = code or (_NORMAL_CLOSURE if self.accepted else _POLICY_VIOLATION)
            with suppress(RuntimeError, OSError):
                await self._send({"type": "websocket.close", "code": code})


def create_app(
    title: str,
    *,
    health: Health,
    verifier: CredentialVerifier,
    routers: Sequence[APIRouter] = (),
    lifespan: Callable[[FastAPI], Any] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    trail: AuditTrail | None = None,
    limiter: RateLimiter | None = None,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    cors_origins: Sequence[str] = (),
    proxies: TrustedProxies | None = None,
) -> FastAPI:
    """Return an application with `routers` under `/api/v1` behind the shared edge.

    Routes of `routers` guard themselves with `esp_common.auth.require`, `authenticated` or `PUBLIC`. `trail`
    records every request, `limiter` limits requests per caller, a response begins within `request_timeout_s`,
    and pages of `cors_origins` (empty: none) may use the API. `proxies`: trusted proxies (None: this machine
    only).
    """
    app = FastAPI(
        title=title,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={"default": {"model": Problem, "content": {PROBLEM_TYPE: {}}}},
        redirect_slashes=False,
    )
    app.state.verifier = verifier
    app.state.limiter = limiter
    for kind, handler in (
        (EspError, _on_error),
        (HTTPException, _on_http_exception),
        (RequestValidationError, _on_invalid),
    ):
        app.add_exception_handler(kind, handler)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=sorted(_METHODS),
            allow_headers=_CORS_HEADERS,
            expose_headers=["Deprecation", "Link", "Retry-After", "Sunset", "X-Request-ID"],
        )
    app.add_middleware(
        Edge,
        max_body_bytes=max_body_bytes,
        timeout_s=request_timeout_s,
        trail=trail,
        proxies=proxies or TrustedProxies(),
    )
    guard = [Depends(refuse_unknown_query)]
    for router in routers:
        app.include_router(router, prefix="/api/v1", dependencies=guard)
    app.include_router(docs_router(), dependencies=guard)
    app.router.routes.extend(health.routes())
    return app
