"""Blob storage that fails when it is told to: a proxy before Azurite, through which the real client goes."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from aiohttp import web
from esp_stack.programs import free_port
from esp_stack.servers.azurite import Azurite

Before = Callable[[int, web.Request], Awaitable[web.Response | None]]
After = Callable[[int], Awaitable[None]]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length", "host"}


@dataclass
class BlobProxy:
    """Passes requests on to Azurite, over https with its certificate where it has one.

    `before` is asked what becomes of the n-th (from 0) instead, `after` is told when the store has done it
    and nobody has heard of that yet.
    """

    azurite: Azurite
    port: int = field(default_factory=free_port)
    requests: list[str] = field(default_factory=list)
    before: Before | None = None
    after: After | None = None

    @property
    def connection_string(self) -> str:
        """What Azure's client takes to come through here."""
        return self.azurite.connection_string.replace(f":{self.azurite.port}/", f":{self.port}/")

    def clear(self) -> None:
        """Pass everything on, and count from 0."""
        self.requests, self.before, self.after = [], None, None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["BlobProxy"]:
        """Serve while inside."""
        tls = self.azurite.tls
        async with httpx.AsyncClient(timeout=30, verify=tls.client_context() if tls else True) as client:
            application = web.Application(client_max_size=64 * 1024 * 1024)

            async def serve(request: web.Request) -> web.StreamResponse:
                return await self._serve(client, request)

            application.router.add_route("*", "/{path:.*}", serve)
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._server_context()).start()
            try:
                yield self
            finally:
                await runner.cleanup()

    def _server_context(self) -> ssl.SSLContext | None:
        if self.azurite.tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.azurite.tls.server)
        return context

    async def _serve(self, client: httpx.AsyncClient, request: web.Request) -> web.StreamResponse:
        number = len(self.requests)
        self.requests.append(f"{request.method} {request.path_qs}")
        body = await request.read()
        if self.before and (refused := await self.before(number, request)) is not None:
            return refused
        scheme, _, host = self.azurite.url.split("/")[:3]
        url = f"{scheme}//{host}{request.raw_path}"
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in {"host", "connection"}]
        answer = await client.request(request.method, url, content=body, headers=headers)
        if self.after:
            await self.after(number)
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
        if request.method == "HEAD":
            kept["Content-Length"] = answer.headers.get("content-length", "0")
        return web.Response(status=answer.status_code, headers=kept, body=answer.content)


def refusal(code: int, error: str) -> web.Response:
    """Return an answer of the store's that says no."""
    body = f'<?xml version="1.0"?><Error><Code>{error}</Code><Message>{error}</Message></Error>'
    return web.Response(
        status=code, text=body, content_type="application/xml", headers={"x-ms-error-code": error}
    )


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()
