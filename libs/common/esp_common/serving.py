"""The HTTP server inside a role: uvicorn, stopped by the role."""

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import nullcontext
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from esp_common.roles import until_first_ends
from esp_common.settings import ServiceSettings

SHUTDOWN_S: Final = 20
"""How long requests under way have to end."""


class Server(uvicorn.Server):
    """A server that ends when `should_exit` is set, and leaves signals to the role."""

    def capture_signals(self) -> Any:
        """Capture none."""
        return nullcontext()


def make_server(application: ASGIApp, settings: ServiceSettings, **options: Any) -> Server:
    """Return the server of `application`; `options` are further ones of uvicorn's.

    It does not speak WebSocket unless an option `ws` says so: an upgrade asked for is then just a request.
    """
    return Server(
        uvicorn.Config(
            application,
            settings.http_host,
            settings.http_port,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
            **{"ws": "none", **options},
        )
    )


async def serve(server: Server, stop: asyncio.Event, background: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Serve until `stop` is set, with `background` beside; requests under way are answered first.

    Raises what a part of the background died of.
    """

    async def stop_serving() -> None:
        await stop.wait()
        server.should_exit = True

    await until_first_ends(server.serve(), *background, beside=[stop_serving()])
