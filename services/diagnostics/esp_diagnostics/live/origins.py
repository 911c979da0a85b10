"""Origin check of WebSockets opened by browsers."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers


def allowed_origin(headers: Headers, allowed: Collection[str]) -> bool:
    """Return whether the page that opens a socket has this host or an `allowed` origin.

    Browsers send the origin of the page and let every page open sockets; other programs send none. The scheme
    is not compared, because the proxy terminates TLS.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed:
        return True
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(host) and host.lower() == headers.get("host", "").lower()
