"""Authentication backend of the broker: RabbitMQ asks whether a gateway may connect and publish.

Forms as in rabbitmq-auth-backend-http; the response is the text `allow` or `deny`. The broker authenticates
with a secret in the path, which is removed before logging and metrics.
"""

import hmac
from collections.abc import Awaitable
from typing import Annotated, Final
from urllib.parse import parse_qsl

from esp_common.auth import PUBLIC
from esp_common.errors import NotFound
from esp_common.http import Verdict, set_verdict
from esp_common.topology import GATEWAY_ID
from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from esp_auth.gateways import Gateways

PREFIX: Final = "/broker/"
_ADMITTED: Final = "esp_auth.broker"


class BrokerDoor:
    """ASGI middleware: forward `/broker/<secret>/user` as `/broker/user`, marked if the secret is correct."""

    def __init__(self, app: ASGIApp, secret: str | None) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request; requests to the broker's routes without their secret."""
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            given, _, question = scope["path"].removeprefix(PREFIX).partition("/")
            path = PREFIX + question
            admitted = self._secret is not None and hmac.compare_digest(given.encode(), self._secret.encode())
            scope = {**scope, "path": path, "raw_path": path.encode(), _ADMITTED: admitted}
        await self._app(scope, receive, send)


async def admitted(request: Request) -> None:
    """FastAPI dependency that admits the broker only; for others the route does not exist."""
    if not request.scope.get(_ADMITTED):
        raise NotFound("nothing is here")


async def form(request: Request) -> dict[str, str]:
    """FastAPI dependency that returns the fields of a form."""
    return dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))


Form = Annotated[dict[str, str], Depends(form)]


def broker_router(gateways: Gateways) -> APIRouter:
    """Return the four routes that the broker calls."""
    router = APIRouter(
        prefix=PREFIX.rstrip("/"),
        include_in_schema=False,
        dependencies=[Depends(PUBLIC), Depends(admitted)],
    )

    async def answer(request: Request, gateway_id: str, allowed: Awaitable[bool]) -> PlainTextResponse:
        is_allowed = await allowed
        # Only valid gateway names: other text may be a secret entered in the wrong field.
        actor_id = gateway_id if GATEWAY_ID.fullmatch(gateway_id) else None
        set_verdict(request, Verdict(actor_id, "success" if is_allowed else "denied"))
        return PlainTextResponse("allow" if is_allowed else "deny")

    @router.post("/user")
    async def user(request: Request, asked: Form) -> PlainTextResponse:
        gateway_id, key = asked.get("username", ""), asked.get("password", "")
        allowed = gateways.may_connect(gateway_id, key, asked.get("client_id"))
        return await answer(request, gateway_id, allowed)

    @router.post("/vhost")
    async def vhost(request: Request, asked: Form) -> PlainTextResponse:
        gateway_id = asked.get("username", "")
        return await answer(request, gateway_id, gateways.may_enter(gateway_id, asked.get("vhost", "")))

    @router.post("/resource")
    async def resource(request: Request, asked: Form) -> PlainTextResponse:
        names = ("vhost", "resource", "name", "permission")
        gateway_id = asked.get("username", "")
        allowed = gateways.may_use(gateway_id, *(asked.get(name, "") for name in names))
        return await answer(request, gateway_id, allowed)

    @router.post("/topic")
    async def topic(request: Request, asked: Form) -> PlainTextResponse:
        names = ("vhost", "name", "permission", "routing_key")
        gateway_id = asked.get("username", "")
        allowed = gateways.may_publish(gateway_id, *(asked.get(name, "") for name in names))
        return await answer(request, gateway_id, allowed)

    return router
