"""Gateway accounts on the broker. Keys are read from files, never from a command line."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esp_common.errors import InvalidInput, NotFound
from esp_common.secrets import is_private, read_secret
from yarl import URL

from esp_gateway.link import with_credentials


@dataclass(frozen=True, slots=True)
class Account:
    """A gateway's id, and the broker's URL with its credentials."""

    gateway_id: str
    url: str = field(repr=False)


def from_endpoints(path: Path) -> Account:
    """Return the gateway account of a running stack, from its endpoints.json."""
    document = _private_json(path, "start the stack (make up), or give --url and --key-file")
    try:
        gateway = document["gateway"]
        address = trusting(document["amqp"], document.get("ca_file"))
        return Account(gateway["id"], with_credentials(address, gateway["id"], gateway["key"]))
    except (KeyError, TypeError) as error:
        raise InvalidInput(f"{path} has no amqp address or no gateway", fix="is the stack up?") from error


def from_key_file(url: str, gateway_id: str, key_file: Path, ca_file: Path | None = None) -> Account:
    """Return the account of `gateway_id` at the broker `url`, its key being the text of `key_file`."""
    address = trusting(bare_url(url), ca_file)
    return Account(gateway_id, with_credentials(address, gateway_id, read_secret(key_file)))


def from_gateways_file(url: str, path: Path, ca_file: Path | None = None) -> list[Account]:
    """Return an account for each gateway of the JSON file {gateway id: key} at `path`."""
    keys = _private_json(path, "the stack writes it; give its path with --gateways-file")
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        raise InvalidInput(f"{path} is not of the form {{gateway id: key}}")
    address = trusting(bare_url(url), ca_file)
    return [
        Account(gateway_id, with_credentials(address, gateway_id, key)) for gateway_id, key in keys.items()
    ]


def trusting(url: str, ca_file: Path | str | None) -> str:
    """Return the broker's `url`; for TLS, with the PEM file of a trusted certificate authority.

    Without a file, the system's authorities are trusted.
    """
    parsed = URL(url)
    if ca_file is None or parsed.scheme != "amqps":
        return url
    if not Path(ca_file).is_file():
        raise InvalidInput(f"no file {ca_file}", fix="give the broker's authority with --ca-file")
    return str(parsed.update_query(cafile=str(ca_file)))


def bare_url(url: str) -> str:
    """Return `url` if it is an AMQP URL without a password: command lines are visible to other users."""
    try:
        parsed = URL(url)
    except ValueError as error:
        raise InvalidInput(f"--url: {error}", fix="write amqp://host:port/vhost") from error
    if parsed.scheme not in ("amqp", "amqps") or not parsed.host:
        raise InvalidInput("--url is no AMQP address", fix="write amqp://host:port/vhost")
    if parsed.password is not None:
        raise InvalidInput("--url holds a password", fix="put the key in a file and give it with --key-file")
    return url


def _private_json(path: Path, fix: str) -> Any:
    if not path.is_file():
        raise NotFound(f"no file {path}", fix=fix)
    if not is_private(path.stat().st_mode):
        raise InvalidInput(f"{path} holds keys and is open to others", fix=f"chmod 600 {path}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
