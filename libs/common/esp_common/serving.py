"""The HTTP server of a role: uvicorn, stopped by the role."""

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import nullcontext
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from esp_common.roles import until_first_ends
from esp_common.settings import ServiceSettings

SHUTDOWN_S: Final = 20
"""Time for requests in progress to complete."""


class Server(uvicorn.Server):
    """A server that ends when `should_exit` is set and leaves signals to the role."""

    def capture_signals(self) -> Any:
        """Capture none."""
        return nullcontext()


def make_server(application: ASGIApp, settings: ServiceSettings, **options: Any) -> Server:
    """Return the public server of `application`; `options` are further uvicorn options.

    WebSocket is off unless the option `ws` enables it; an upgrade request is then a plain request.
    """
    return _make_server(application, settings.http_host, settings.http_port, options)


def make_metrics_server(application: ASGIApp, settings: ServiceSettings) -> Server:
    """Return the server of the role's second listener."""
    return _make_server(application, settings.metrics_host, settings.metrics_port, {})


def _make_server(application: ASGIApp, host: str, port: int, options: dict[str, Any]) -> Server:
    return Server(
        uvicorn.Config(
            application,
            host,
            port,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
            **{"ws": "none", **options},
        )
    )


async def serve(
    server: Server,
    stop: asyncio.Event,
    background: Iterable[Coroutine[Any, Any, None]],
    shutdown_delay_s: float = 0.0,
) -> None:
    """Serve until `stop` is set, with `background` beside; requests in progress are completed.

    New requests are served for another `shutdown_delay_s`, until load balancers have noticed that the role is
    not ready. Raises the error of a background part that fails.
    """

    async def stop_serving() -> None:
        await stop.wait()
        await asyncio.sleep(shutdown_delay_s)
        server.should_exit = True

    await until_first_ends(server.serve(), *background, beside=[stop_serving()])
