"""Connect to one node of a broker cluster whose addresses `amqp_url` lists."""

import re
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")


def nodes_of(url: str) -> list[str]:
    """Return the URL of each node in `amqp://user:password@host:5672,host:5672/vhost`.

    Comma-separated whole URLs are accepted as well.
    """
    nodes = []
    for part in re.split(r",(?=amqps?://)", url):
        parts = urlsplit(part)
        login, at, hosts = parts.netloc.rpartition("@")
        nodes += [
            urlunsplit(parts._replace(netloc=f"{login}{at}{host.strip()}")) for host in hosts.split(",")
        ]
    return nodes


def shuffled_nodes(url: str) -> list[str]:
    """Return the nodes in random order, so that processes spread over the cluster."""
    nodes = nodes_of(url)
    SystemRandom().shuffle(nodes)
    return nodes


async def connect_to_any(url: str, connect: Callable[[str], Awaitable[T]]) -> T:
    """Return the first connection that `connect(node)` opens; raise the last error if none succeeds."""
    *others, last = shuffled_nodes(url)
    for node in others:
        try:
            return await connect(node)
        except (OSError, RuntimeError, TimeoutError):  # includes aiormq's connection errors
            continue
    return await connect(last)
