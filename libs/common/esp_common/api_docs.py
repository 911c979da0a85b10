"""Serve an API's OpenAPI document and a Swagger UI that loads nothing from other hosts."""

from functools import cache
from html import escape
from importlib.resources import files
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from esp_common.auth import Principal, authenticated
from esp_common.errors import NotFound

POLICY: Final = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSETS: Final = "fastapi_offline"
"""Package with the Swagger UI files; nothing else of it is used."""
_TYPES: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_START: Final = "start.js"
_SCRIPT: Final = (
    'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
)
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

Caller = Annotated[Principal, Depends(authenticated)]


def docs_router() -> APIRouter:
    """Return the documentation routes, open to every authenticated caller."""
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi(request: Request, _: Caller) -> dict[str, Any]:
        document: dict[str, Any] = request.app.openapi()
        return document

    @router.get("/docs")
    async def docs(request: Request, _: Caller) -> Response:
        page = _PAGE.format(title=escape(request.app.title))
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": POLICY})

    @router.get("/docs/{name}")
    async def asset(name: str, _: Caller) -> Response:
        if name == _START:
            return Response(_SCRIPT, media_type="text/javascript")
        if name not in _TYPES:
            raise NotFound(f"the documentation has no file {name[:100]!r}", fix="begin at /docs")
        return Response(_read_asset(name), media_type=_TYPES[name])

    return router


@cache
def _read_asset(name: str) -> bytes:
    return files(_ASSETS).joinpath("static", name).read_bytes()
