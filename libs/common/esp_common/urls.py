"""Check and complete server addresses in settings."""

from typing import Final
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from esp_common.amqp_nodes import nodes_of

_VERIFYING: Final = ("verify-ca", "verify-full")
_POSTGRES: Final = ("postgresql", "postgres")
WRITABLE: Final = "target_session_attrs"
SENTINEL_PORT: Final = 26379
SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")


def check_amqp_url(url: str) -> None:
    """Raise ValueError with the fault of the broker's address, without parts that may be secret."""
    for node in map(urlsplit, nodes_of(url)):
        if node.scheme not in ("amqp", "amqps"):
            raise ValueError("not an address like amqp://user:password@host:5672/vhost")
        if not node.hostname:
            raise ValueError("a node without a host: give host:port,host:port")


def check_database_url(url: str) -> None:
    """Raise ValueError with the fault of the database's address, without parts that may be secret."""
    if urlsplit(url).scheme not in _POSTGRES:
        raise ValueError("not an address like postgresql://role:password@host:5432/database")


def with_writable_server(url: str) -> str:
    """Return `url` with `target_session_attrs=read-write` if it names several servers without that option.

    Only the primary accepts writes.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    several = "," in parts.netloc.rpartition("@")[2] or "," in query.get("host", [""])[0]
    if parts.scheme not in _POSTGRES or not several or WRITABLE in query:
        return url
    return _with(url, WRITABLE, "read-write")


def with_authority(url: str, ca_file: str) -> str:
    """Return `url` with the certificate authority in its client's format, if it uses TLS.

    `amqps` (aiormq: `cafile`, for each node), `rediss` (redis-py: `ssl_ca_certs`) and PostgreSQL with
    `sslmode=verify-…` (libpq and asyncpg: `sslrootcert`); any other URL, or one that already names an
    authority, is unchanged.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "amqps":
            nodes = nodes_of(url)
            if len(nodes) > 1:
                return ",".join(with_authority(node, ca_file) for node in nodes)
            name = "cafile"
        case "rediss" | "rediss+sentinel":
            name = "ssl_ca_certs"
        case "postgresql" | "postgres" if parse_qs(parts.query).get("sslmode", [""])[0] in _VERIFYING:
            name = "sslrootcert"
        case _:
            return url
    return url if name in parse_qs(parts.query) else _with(url, name, quote(ca_file, safe="/"))


def _with(url: str, name: str, value: str) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{name}={value}"


def check_redis_url(url: str) -> None:
    """Raise ValueError with the fault of the address, without parts that may be secret."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"not one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if parts.scheme.endswith("+sentinel"):
        sentinels(parts)
        sentinel_service(parts)
    elif "," in parts.netloc.rpartition("@")[2]:
        raise ValueError("several hosts, but a cluster is not supported: give one host, or Sentinels")


def sentinels(parts: SplitResult) -> list[tuple[str, int]]:
    """Return host and port of every Sentinel."""
    hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError("a Sentinel without a host: give host:port,host:port")
    return [(host.hostname or "", host.port or SENTINEL_PORT) for host in hosts]


def sentinel_service(parts: SplitResult) -> tuple[str, int]:
    """Return the Sentinels' name for the servers, and the database number."""
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not (database or "0").isdigit():
        raise ValueError("no service: give redis+sentinel://host:port/service/database")
    return service, int(database or 0)
