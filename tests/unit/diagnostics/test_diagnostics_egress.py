"""Destinations must have public addresses, checked at connection time."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from esp_diagnostics.notifications.egress import AddressRefused, is_public, only_public
from esp_diagnostics.notifications.routing import Message
from esp_diagnostics.notifications.sender import DestinationRefused, NotSent, Sender
from esp_diagnostics.settings import DiagnosticsSettings

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"),
    *("240.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1", "::127.0.0.1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
)
PUBLIC = ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")
MESSAGE = Message("e-1", "raised", "high", "Hot", datetime(2026, 5, 1, tzinfo=UTC))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


def accepted(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_public_in_any_form(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("address", [address for address in PRIVATE if "%" not in address])
def test_a_destination_with_a_private_address_is_rejected(address):
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(DestinationRefused):
        Sender(DiagnosticsSettings()).open(f"jsons://{host}/hook")


async def test_connections_are_refused_only_in_their_context_and_its_threads(listener):
    address = listener.getsockname()

    def connect() -> None:
        socket.create_connection(address, timeout=5).close()

    with only_public():
        with pytest.raises(AddressRefused):
            connect()
        with pytest.raises(AddressRefused):
            await asyncio.to_thread(connect)
        with only_public(["127.0.0.1"]):
            connect()
    assert accepted(listener)
    connect()
    assert accepted(listener)


async def test_a_name_rebound_to_a_private_address_is_refused(listener, monkeypatch):
    """The name is public when it is checked, and this machine's when the message is sent."""
    port, real, asked = listener.getsockname()[1], socket.getaddrinfo, []

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "rebind.example":
            return real(host, *arguments, **options)
        asked.append(host)
        address = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    sender = Sender(DiagnosticsSettings(notify_schemes=("json",)))
    with pytest.raises(NotSent):
        await sender.send(f"json://rebind.example:{port}/hook", MESSAGE)
    assert len(asked) > 1
    assert not accepted(listener)
