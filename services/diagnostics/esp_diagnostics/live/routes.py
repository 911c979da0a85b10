"""`WS /api/v1/live`: live messages, and the tickets that authenticate it.

The first client message authenticates: `{"token": …}` (access token or API key) or `{"ticket": …}`. Later
messages manage subscriptions: `{"subscribe": {"pumps": […], "fields": […]}}` adds, `unsubscribe` removes; the
field `*` stands for all fields. A further `{"token": …}` of the same caller renews the credential. Server
messages are those of `live.broadcast`, plus `welcome`, `subscribed`, `stream` (`live` false: Redis is
unavailable and no messages arrive until it is true again), `heartbeat` and `error`.

A page of another origin is rejected before the socket is accepted (`allowed_origin`). Close codes: 4400
invalid message, 4401 missing or expired credential, 4403 not permitted, 4408 no credential in time, 4429 too
many, 1013 try again later.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from esp_common.answers import problems
from esp_common.auth import PUBLIC, Principal, authenticated, credential
from fastapi import APIRouter, Depends, Request, WebSocket

from esp_diagnostics.live.messages import Ticket
from esp_diagnostics.live.session import LiveSession
from esp_diagnostics.live.slots import LiveSockets
from esp_diagnostics.live.tickets import TICKET_S

MAX_MESSAGE_BYTES: Final = 256 * 1024
SERVER_OPTIONS: Final[Mapping[str, Any]] = {
    "ws": "websockets-sansio",
    "ws_max_size": MAX_MESSAGE_BYTES,
    "ws_per_message_deflate": False,  # a compressor costs 64 KiB per client, and CPU time
}
"""Server options required by these routes."""


def live_router(sockets: LiveSockets) -> APIRouter:
    """Return the routes of the live stream."""
    router = APIRouter(tags=["live"])

    @router.post("/live/tickets", status_code=201, response_model=Ticket, responses=problems())
    async def issue_ticket(request: Request, _: Annotated[Principal, Depends(authenticated)]) -> Any:
        """Return a single-use ticket for the credential of this request, valid for 30 seconds.

        For clients that must not hold their token where the socket is opened.
        """
        ticket = await sockets.tickets.issue(credential(request.headers))
        return Ticket(ticket=ticket, expires_in=TICKET_S)

    @router.websocket("/live", dependencies=[Depends(PUBLIC)])
    async def live(socket: WebSocket) -> None:
        await LiveSession(socket, sockets).serve()

    return router
