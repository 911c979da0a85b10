"""The broker's authentication backend: RabbitMQ asks here whether a gateway may connect and publish.

Forms as in rabbitmq-auth-backend-http; the answer is the text `allow` or `deny`. The broker shows who it is
by a secret in the path, which is taken out of it before anything could log or count it.
"""

import hmac
from typing import Annotated, Final
from urllib.parse import parse_qsl

from esp_common.auth import PUBLIC
from esp_common.errors import NotFound
from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from esp_auth.gateways import Gateways

PREFIX: Final = "/broker/"
_ADMITTED: Final = "esp_auth.broker"


class BrokerDoor:
    """ASGI middleware: `/broker/<secret>/user` goes on as `/broker/user`, marked if the secret is right."""

    def __init__(self, app: ASGIApp, secret: str | None) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; one to the broker's routes without its secret."""
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            given, _, question = scope["path"].removeprefix(PREFIX).partition("/")
            path = PREFIX + question
            admitted = self._secret is not None and hmac.compare_digest(given.encode(), self._secret.encode())
            scope = {**scope, "path": path, "raw_path": path.encode(), _ADMITTED: admitted}
        await self._app(scope, receive, send)


async def admitted(request: Request) -> None:
    """FastAPI dependency: the broker asks; to anybody else there is nothing here."""
    if not request.scope.get(_ADMITTED):
        raise NotFound("nothing is here")


async def form(request: Request) -> dict[str, str]:
    """FastAPI dependency: the fields of a form."""
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))


Form = Annotated[dict[str, str], Depends(form)]


def broker_router(gateways: Gateways) -> APIRouter:
    """Return the four questions of the broker."""
    router = APIRouter(
        prefix=PREFIX.rstrip("/"),
        include_in_schema=False,
        dependencies=[Depends(PUBLIC), Depends(admitted)],
    )

    @router.post("/user")
    async def user(asked: Form) -> PlainTextResponse:
        return _answer(await gateways.may_connect(asked.get("username", ""), asked.get("password", "")))

    @router.post("/vhost")
    async def vhost(asked: Form) -> PlainTextResponse:
        return _answer(await gateways.may_enter(asked.get("username", ""), asked.get("vhost", "")))

    @router.post("/resource")
    async def resource(asked: Form) -> PlainTextResponse:
        names = ("username", "vhost", "resource", "name", "permission")
        return _answer(await gateways.may_use(*(asked.get(name, "") for name in names)))

    @router.post("/topic")
    async def topic(asked: Form) -> PlainTextResponse:
        names = ("username", "vhost", "name", "permission", "routing_key")
        return _answer(await gateways.may_publish(*(asked.get(name, "") for name in names)))

    return router


def _answer(allowed: bool) -> PlainTextResponse:
    return PlainTextResponse("allow" if allowed else "deny")
