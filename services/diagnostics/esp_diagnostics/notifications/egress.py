"""Refuse connections to addresses that are not public, at the time of the connection.

The connecting library resolves the name again and may get another address (DNS rebinding). Therefore an audit
hook on `socket.connect` checks the address itself, only in the context that requests it.
"""

import ipaddress
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_ALLOWED: Final[ContextVar[frozenset[str] | None]] = ContextVar("allowed_addresses", default=None)


class AddressRefused(PermissionError):
    """Connection to an address that is not allowed."""


def is_public(address: str) -> bool:
    """Return whether an address is public, also in its IPv6 forms."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.sixtofour is not None or found.teredo is not None or found.is_site_local:
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


@contextmanager
def only_public(but: Collection[str] = ()) -> Iterator[None]:
    """Refuse connections of this context except to public addresses and those of `but`.

    Applies to threads that run in a copy of the context.
    """
    _install()
    token = _ALLOWED.set(frozenset(but))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


@cache
def _install() -> None:
    sys.addaudithook(_check)


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    allowed, address = _ALLOWED.get(), arguments[1]
    if allowed is None or not isinstance(address, tuple):
        return
    host = str(address[0])
    if host not in allowed and not is_public(host):
        raise AddressRefused(f"{host} is not a public address")
