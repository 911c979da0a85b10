"""Operator console: static files served at `/` and `/console/…` by the API.

The files contain no secrets and are public; they read data from the API with the token of the logged-in user.
They need no build step and load nothing from other hosts, which the content security policy forbids.
"""

import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import orjson
from esp_common.auth import PUBLIC
from esp_common.contracts.channels import CHANNELS
from esp_common.errors import NotFound
from fastapi import APIRouter, Depends, Request, Response

PAGE: Final = "index.html"
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_FOR_NODE: Final = "package.json"
"""Marks the console's files as modules for Node before 20.19; not served to browsers."""
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # revalidated each time, so that a page never mixes two releases
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def console_router(notice: str) -> APIRouter:
    """Return the routes of the console's files; `notice` is shown before login."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(PUBLIC)])
    console = dict(_console(notice))

    @router.get("/")
    async def get_page(request: Request) -> Response:
        return _respond(request, console[PAGE])

    @router.get("/console/{name:path}")
    async def get_file(request: Request, name: str) -> Response:
        if name not in console:
            raise NotFound(f"the console has no file {name[:100]!r}", fix="start at /")
        return _respond(request, console[name])

    return router


def _console(notice: str) -> Iterator[tuple[str, _File]]:
    """Return every file by its path below `/console/`."""
    for name, content in _read(files(__package__).joinpath("static")):
        yield name, _file(name, content)
    yield "channels.json", _file("channels.json", orjson.dumps(_channels()))
    yield "notice.json", _file("notice.json", orjson.dumps({"text": notice}))


def _read(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _read(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in _TYPES and entry.name != _FOR_NODE:
            yield prefix + entry.name, entry.read_bytes()


def _file(name: str, content: bytes) -> _File:
    media_type = _TYPES[name.rpartition(".")[2]]
    return _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def _channels() -> list[Mapping[str, str]]:
    return [{"name": channel.name, "unit": channel.unit, "group": channel.group} for channel in CHANNELS]


def _respond(request: Request, file: _File) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
