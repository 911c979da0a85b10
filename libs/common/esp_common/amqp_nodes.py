"""The nodes of a broker cluster: `amqp_url` lists them, and a connection is made to one that answers."""

import re
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")


def nodes_of(url: str) -> list[str]:
    """Return the URL of each node of `amqp://user:password@host:5672,host:5672/vhost`.

    Whole URLs with commas between are taken as well.
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
    """Return the nodes in an order of chance, so that not every process connects to the first."""
    nodes = nodes_of(url)
    SystemRandom().shuffle(nodes)
    return nodes


async def connect_to_any(url: str, connect: Callable[[str], Awaitable[T]]) -> T:
    """Return the first connection that `connect(node)` makes; raise what the last node's attempt raised."""
    *others, last = shuffled_nodes(url)
    for node in others:
        try:
            return await connect(node)
        except (OSError, RuntimeError, TimeoutError):  # aiormq's errors of connections are among them
            continue
    return await connect(last)
