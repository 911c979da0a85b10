"""The HTTP server as the API runs it: uvicorn, stopped by the role, answers written in one piece."""

import asyncio
from contextlib import nullcontext
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from esp_ingest.settings import IngestSettings

SHUTDOWN_S: Final = 20
"""How long requests under way have to end."""


class _JoinedWrites:
    """A transport that writes at once what one turn of the loop gave it.

    uvicorn writes an answer's head and its body apart, which is two packets and two calls to the kernel:
    for a short answer more than all else that it costs.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write `data` with whatever follows in this turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Write what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _JoinedWrites(transport)))


class Server(uvicorn.Server):
    """A server that ends when `should_exit` is set, and leaves signals to the role."""

    def capture_signals(self) -> Any:
        """Capture none."""
        return nullcontext()


def make_server(application: ASGIApp, settings: IngestSettings) -> Server:
    """Return the server of `application`."""
    return Server(
        uvicorn.Config(
            application,
            settings.http_host,
            settings.http_port,
            http=_Protocol,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
    )
