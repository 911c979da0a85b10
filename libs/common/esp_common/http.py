"""The HTTP edge every API shares: problems (RFC 9457), request ids, metrics, limits, health, documentation.

Nothing but `/health/*` answers without a credential. `/metrics` answers this machine itself (a scraper
beside the role, not through a proxy) and otherwise wants the permission `metrics:read`.
"""

import base64
import re
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final
from uuid import uuid4

import orjson
import structlog
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from prometheus_client import Counter, Histogram
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esp_common.auth import KeyVerifier, Principal, authenticated, require
from esp_common.errors import EspError, InvalidInput, RateLimited, TooLarge, Unauthenticated, Unavailable
from esp_common.health import Health, is_local, metrics_response

log = structlog.get_logger()

PROBLEM_TYPE: Final = "application/problem+json"
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS: Final = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]

_REQUESTS: Final = Counter("esp_http_requests_total", "Requests answered.", ["method", "route", "status"])
_SECONDS: Final = Histogram(
    "esp_http_request_seconds", "Seconds from request to answer.", ["method", "route"]
)


# --- problems ---------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """An error as RFC 9457 has it, with the id under which the log knows it."""

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
    """Return `error` as a problem document about the path `instance`."""
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
    """What the framework itself refuses: no such route (404), no such method (405), a broken body (400)."""

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
    # Not the input itself: it may be large, or a secret.
    fields = [{"where": list(map(str, e["loc"])), "what": e["msg"]} for e in error.errors()]
    what = "; ".join(f"{'.'.join(field['where'])}: {field['what']}" for field in fields[:3])
    return problem_response(InvalidInput(what, fields=fields), request.url.path)


# --- every route ------------------------------------------------------------------------------------------


def _query_names(dependant: Dependant) -> set[str]:
    names: set[str] = set().union(*map(_query_names, dependant.dependencies))
    for parameter in dependant.query_params:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= {field.alias or name for name, field in kind.model_fields.items()}
        else:
            names.add(parameter.alias)
    return names


async def refuse_unknown_query(request: Request) -> None:
    """Dependency of every route: a query parameter that the route does not know is an error, not a wish."""
    route = request.scope.get("route")
    if not request.query_params or not isinstance(route, APIRoute):
        return
    known = _query_names(route.dependant)
    if unknown := [name for name in request.query_params if name not in known]:
        fields = [{"where": ["query", name], "what": "unknown parameter"} for name in unknown]
        fix = f"known here: {', '.join(sorted(known)) or 'none'}"
        raise InvalidInput(f"unknown query parameters: {', '.join(unknown)}", fields=fields, fix=fix)


class Edge:
    """ASGI middleware around everything: request id, body limit, metrics, and a last catch."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body_bytes)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                exchange.check_length()
                await self._app(scope, exchange.receive, exchange.send)
            except EspError as error:
                await exchange.fail(error)
            except Exception as error:
                # Where an answer has begun it can only be cut short; the log has the reason.
                failure = EspError("the request could not be served; the log knows it by its error id")
                log.exception(
                    "request.failed", error_id=failure.error_id, path=scope["path"], error=repr(error)
                )
                await exchange.fail(failure)
            else:
                if exchange.too_large:
                    await exchange.fail(exchange.too_large)
        exchange.observe()


class _Exchange:
    """One request and its answer, as they pass the edge."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._headers = dict(scope["headers"])
        self._received = 0
        self._status = 0
        self._started = time.perf_counter()
        self.too_large: TooLarge | None = None
        given = self._headers.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex

    def check_length(self) -> None:
        """Raise TooLarge when the announced body is."""
        announced = self._headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            raise self._limit()

    def _limit(self) -> TooLarge:
        return TooLarge(f"bodies may have {self._max_body_bytes} bytes here", fix="send smaller batches")

    async def receive(self) -> Message:
        """Pass on what the client sends, up to the limit."""
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self._max_body_bytes:
            self.too_large = self._limit()
            raise self.too_large
        return message

    async def send(self, message: Message) -> None:
        """Pass on the answer, with the request's id on it."""
        if self.too_large and not self._status:
            return  # the framework takes our TooLarge for a broken body and says 400: `fail` answers instead
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = [(b"x-request-id", self.request_id.encode()), *_SECURITY_HEADERS]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await self._send(message)

    async def fail(self, error: EspError) -> None:
        """Answer with a problem, unless an answer has begun."""
        if not self._status:
            self.too_large = None
            await problem_response(error, self._scope["path"])(self._scope, self._receive, self.send)

    def observe(self) -> None:
        """Count the request under its route's template: a path would make a series of each pump."""
        route = getattr(self._scope.get("route"), "path", "unmatched")
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        _REQUESTS.labels(method, route, self._status).inc()
        _SECONDS.labels(method, route).observe(time.perf_counter() - self._started)


# --- the application --------------------------------------------------------------------------------------


def create_app(
    title: str,
    *,
    health: Health,
    verifier: KeyVerifier,
    routers: Sequence[APIRouter] = (),
    lifespan: Callable[[FastAPI], Any] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """Return an application with `routers` under `/api/v1` and everything of this page around them.

    Routes of `routers` guard themselves with `esp_common.auth.require`.
    """
    app = FastAPI(
        title=title,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={"default": {"model": Problem, "content": {PROBLEM_TYPE: {}}}},
        redirect_slashes=False,
    )
    app.state.verifier = verifier
    for kind, handler in (
        (EspError, _on_error),
        (HTTPException, _on_http_exception),
        (RequestValidationError, _on_invalid),
    ):
        app.add_exception_handler(kind, handler)
    app.add_middleware(Edge, max_body_bytes=max_body_bytes)
    guard = [Depends(refuse_unknown_query)]
    for router in routers:
        app.include_router(router, prefix="/api/v1", dependencies=guard)
    app.include_router(_service_router(), dependencies=guard)
    app.router.routes.extend(health.routes())
    return app


def _service_router() -> APIRouter:
    """Return the routes beside the API: metrics and documentation, each for callers with a credential."""
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        if not is_local(request):
            await require("metrics:read")(request)
        return metrics_response()

    @router.get("/openapi.json")
    async def openapi(request: Request, _: Annotated[Principal, Depends(authenticated)]) -> dict[str, Any]:
        document: dict[str, Any] = request.app.openapi()
        return document

    @router.get("/docs")
    async def docs(request: Request, _: Annotated[Principal, Depends(authenticated)]) -> Response:
        return get_swagger_ui_html(openapi_url="/openapi.json", title=request.app.title)

    return router


# --- pages ------------------------------------------------------------------------------------------------


def encode_cursor(*position: str | int | None) -> str:
    """Return an opaque cursor that says where a page ended."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).rstrip(b"=").decode()


def decode_cursor(cursor: str, size: int) -> list[Any]:
    """Return the `size` values a cursor was made of; raise InvalidInput when it is not one of ours."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except ValueError:
        position = None
    if not isinstance(position, list) or len(position) != size:
        raise InvalidInput("this cursor was not given out here", fix="start from the first page")
    return position
