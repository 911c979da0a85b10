"""The HTTP server as the API runs it: uvicorn, stopped by the role, with a short way for small posts."""

import time
from functools import partial
from typing import Any, Final

from esp_common import serving
from esp_common.auth import Principal
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from esp_ingest.api.telemetry import PATH, FastLane, TelemetryEndpoint
from esp_ingest.settings import IngestSettings

MOST_BUFFERED: Final = 32 * 1024
"""Posts above this are served as any request is, byte by byte."""

SOON_S: Final = 1.0
"""A body that is not here by then comes too late for the short way: its key may be revoked meanwhile."""

_PATH: Final = PATH.encode()


class _Post:
    """A small post on its way: what the protocol asks of a request that it serves."""

    def __init__(self, caller: Principal) -> None:
        self.caller = caller
        self.began_s = time.monotonic()
        self.body = bytearray()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.message_event = self

    def set(self) -> None:
        """Nobody waits for the body: it is taken when it is complete."""


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 in which a small post goes from the parser to the endpoint and back without ASGI between.

    Whatever the endpoint does not take that way is served as any other request.
    """

    def __init__(self, *arguments: Any, endpoint: TelemetryEndpoint, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._endpoint = endpoint

    def on_headers_complete(self) -> None:
        """Begin a request."""
        caller = self._known_caller()
        if caller is None:
            super().on_headers_complete()
        else:
            self.cycle = _Post(caller)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """Hand the request over, now that all of it is here."""
        post = self.cycle
        if not isinstance(post, _Post):
            super().on_message_complete()
            return
        if time.monotonic() - post.began_s > SOON_S or not self._endpoint.take(
            post.caller,
            self._endpoint.source_address(self.scope),
            bytes(post.body),
            partial(self._answer, post),
        ):
            post.response_complete = True
            super().on_headers_complete()
            self.cycle.body += post.body
            super().on_message_complete()

    def _known_caller(self) -> Principal | None:
        """Return the caller of a request that may go the short way: nobody's body is read before that."""
        if self.url != _PATH or self.parser.get_method() != b"POST" or not self.parser.should_keep_alive():
            return None
        idle = self.cycle is None or self.cycle.response_complete
        headers = dict(self.headers)
        if not idle or not 0 < int(headers.get(b"content-length", b"0")) <= MOST_BUFFERED:
            return None
        return self._endpoint.known(headers)

    def _answer(self, post: _Post, response: Response) -> None:
        post.response_complete = True
        if self.transport.is_closing():
            return
        lines = [STATUS_LINE[response.status_code]]
        for name, value in (*self.server_state.default_headers, *response.raw_headers):
            lines += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*lines, b"\r\n", bytes(response.body))))
        if post.keep_alive:
            self.on_response_complete()
        else:
            self.transport.close()


def make_server(application: FastLane, settings: IngestSettings) -> serving.Server:
    """Return the server of `application`."""
    protocol = partial(_Protocol, endpoint=application.endpoint)
    return serving.make_server(application, settings, http=protocol)
