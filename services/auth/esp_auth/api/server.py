"""The HTTP server as the API runs it: uvicorn, stopped by the role."""

from contextlib import nullcontext
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from esp_auth.settings import AuthSettings

SHUTDOWN_S: Final = 20
"""How long requests under way have to end."""


class Server(uvicorn.Server):
    """A server that ends when `should_exit` is set, and leaves signals to the role."""

    def capture_signals(self) -> Any:
        """Capture none."""
        return nullcontext()


def make_server(application: ASGIApp, settings: AuthSettings) -> Server:
    """Return the server of `application`."""
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
        )
    )
