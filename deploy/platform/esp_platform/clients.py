"""HTTP clients of RabbitMQ's management API and of Vault."""

import ssl
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx

TIMEOUT = httpx.Timeout(120, connect=10)


def _client(base_url: str, ca_file: Path | None) -> httpx.Client:
    # Without TLS there is nothing to verify, and reading every authority of the system takes long.
    plain = urlsplit(base_url).scheme == "http"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else ssl.create_default_context(cafile=ca_file)
    return httpx.Client(base_url=base_url, timeout=TIMEOUT, verify=context)


class ManagementApi:
    """RabbitMQ's management API at a URL with the login of an administrator."""

    def __init__(self, url: str, ca_file: Path | None) -> None:
        parts = urlsplit(url)
        self._login = (unquote(parts.username or ""), unquote(parts.password or ""))
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._client = _client(f"{address.rstrip('/')}/", ca_file)

    def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return the answer to a request; raise `httpx.HTTPStatusError` on an error status."""
        return self._client.request(method, path, json=body, auth=self._login).raise_for_status()


class VaultClient:
    """Vault's HTTP API with a token."""

    def __init__(self, url: str, token: str, ca_file: Path | None) -> None:
        self._client = _client(f"{url.rstrip('/')}/v1/", ca_file)
        self._client.headers["X-Vault-Token"] = token

    def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Return the answer to a request, whatever its status."""
        return self._client.request(method, path, json=body)
