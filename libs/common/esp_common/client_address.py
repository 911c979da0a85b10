"""Find the address of a client behind trusted proxies, from `X-Forwarded-For` or `Forwarded` (RFC 7239).

A proxy appends the address of its peer, so only entries written by trusted proxies are reliable. The list is
read from the right; the first address that is not a trusted proxy's is the client's. Entries to the left of
it are under the client's control.

An entry without an address (`unknown`, an obfuscated identifier, a malformed one) ends the search: the proxy
that reported it counts as the client. `Forwarded` is used only if there is no `X-Forwarded-For`. A proxy that
writes `Forwarded` has to remove its clients' `X-Forwarded-For`.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Final

from starlette.types import Scope

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LOOPBACK: Final[tuple[Network, ...]] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
MAX_HOPS: Final = 32
MAX_HEADER_LENGTH: Final = 1024
"""Only this many characters at the end of a longer header are read; proxies write at the end."""
_MAX_CACHED: Final = 4096

_PORT: Final = r"(?::(?:\d{1,5}|_[A-Za-z0-9._-]+))?"
_NODE: Final = re.compile(rf"\[(?P<ipv6>[^]]*)\]{_PORT}|(?P<ipv4>[0-9.]+){_PORT}")
# Possessive quantifiers: with backtracking, a hostile header would take exponential time.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
# Unquoted addresses with colons and brackets are common, though the grammar has none.
_PAIR: Final = rf"(?P<name>[\w!#$%&'*+.^`|~-]++)=(?P<value>{_QUOTED}|[\w!#$%&'*+.^`|~:\[\]-]++)"
_ANY_PAIR: Final = re.sub(r"\?P<\w+>", "?:", _PAIR)
_LAST_ELEMENT: Final = re.compile(
    rf"(?:^|,)[ \t]*+((?:{_ANY_PAIR})(?:[ \t]*+;[ \t]*+(?:{_ANY_PAIR})?+)*+)[ \t]*+$"
)
_PAIRS: Final = re.compile(_PAIR)


class TrustedProxies:
    """Networks whose hosts may state where a request came from."""

    def __init__(self, networks: Sequence[Network] = LOOPBACK) -> None:
        self._networks = tuple(networks)
        self._parsed = lru_cache(_MAX_CACHED)(self._judge)

    def client_address(self, scope: Scope) -> str | None:
        """Return the client's address of an ASGI scope; None for a connection without one."""
        client = scope.get("client")
        if client is None:
            return None
        peer: str = client[0]
        address, trusted = self._parsed(peer.partition("%")[0])
        nearest = address or peer
        if not trusted:
            return nearest
        for hop in islice(_hops(scope), MAX_HOPS):
            address, trusted = self._parsed(hop)
            if address is None:
                return nearest
            nearest = address
            if not trusted:
                return nearest
        return nearest

    def _judge(self, node: str) -> tuple[str | None, bool]:
        """Return the canonical address in `node`, and whether it belongs to a trusted proxy."""
        address = parse_node(node)
        if address is None:
            return None, False
        return str(address), any(address in network for network in self._networks)


def parse_node(node: str) -> Address | None:
    """Return the address in `node`, None if it has none.

    Accepted forms: `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1` and `[2001:db8::1]:80`. An IPv4-mapped IPv6 address
    is returned as IPv4.
    """
    found = _NODE.fullmatch(node)
    text = (found["ipv6"] or found["ipv4"] or "") if found else node
    if "%" in text:
        return None
    try:
        address = IPv6Address(text) if found and found["ipv4"] is None else ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _hops(scope: Scope) -> Iterator[str]:
    """Yield the headers' entry for each hop, nearest first."""
    forwarded_for = _header(scope, b"x-forwarded-for")
    if forwarded_for is not None:
        yield from filter(None, map(str.strip, reversed(forwarded_for.split(","))))
        return
    forwarded = _header(scope, b"forwarded")
    if forwarded is not None:
        yield from _forwarded_hops(forwarded)


def _header(scope: Scope, name: bytes) -> str | None:
    """Return the end of the header's lines as one list, None without any."""
    lines = [value for header, value in scope["headers"] if header == name]
    return b",".join(lines).decode("latin-1")[-MAX_HEADER_LENGTH:] if lines else None


def _forwarded_hops(header: str) -> Iterator[str]:
    """Yield the `for` of each element of a `Forwarded` header, last first; an empty text if it has none.

    Parsed from the end, so that an unclosed quote from a client cannot hide a proxy's entries.
    """
    rest = header.rstrip(" \t,")
    while rest:
        found = _LAST_ELEMENT.search(rest)
        if found is None:
            yield ""
            return
        nodes = [value for name, value in _PAIRS.findall(found[1]) if name.lower() == "for"]
        yield _unquoted(nodes[0]) if len(nodes) == 1 else ""
        rest = rest[: found.start()].rstrip(" \t,")


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
