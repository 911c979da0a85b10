"""Limits on the sockets of this process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from esp_common.audit import AuditTrail
from esp_common.errors import RateLimited, Unavailable
from prometheus_client import Gauge

from esp_diagnostics.live.broadcast import LiveHub
from esp_diagnostics.live.tickets import Tickets
from esp_diagnostics.settings import DiagnosticsSettings

MAX_UNAUTHENTICATED: Final = 100
"""Maximum sockets of one process without a credential; the oldest one is closed beyond it."""

_SOCKETS: Final = Gauge("esp_diagnostics_live_sockets", "Open WebSockets of the live stream.")

FindUnknown = Callable[[Collection[str], Collection[str]], Awaitable[tuple[list[str], list[str]]]]
"""Given ids of pumps and fields, return those that do not exist."""


class LiveSockets:
    """Sockets of this process and their limits."""

    def __init__(
        self,
        hub: LiveHub,
        tickets: Tickets,
        trail: AuditTrail,
        settings: DiagnosticsSettings,
        unknown: FindUnknown,
    ) -> None:
        self.hub = hub
        self.tickets = tickets
        self.trail = trail
        self.settings = settings
        self.unknown = unknown
        self._open = 0
        self._unauthenticated: dict[asyncio.Timeout, str] = {}
        self._by_address: Counter[str] = Counter()
        self._by_caller: Counter[str] = Counter()

    @asynccontextmanager
    async def unauthenticated(self, address: str) -> AsyncIterator[None]:
        """Limit time and number of unauthenticated sockets.

        Beyond the maximum the oldest unauthenticated socket is closed, so clients that authenticate at once
        get in however many sockets stay silent. Raise RateLimited for an address with too many, or
        TimeoutError.
        """
        max_sockets = self.settings.live_logins_per_address
        if sum(other == address for other in self._unauthenticated.values()) >= max_sockets:
            raise RateLimited(
                f"{max_sockets} live streams from {address} are not authenticated yet",
                retry_after_s=10,
                fix="send the credential as soon as the socket is open",
            )
        if len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
            oldest = next(iter(self._unauthenticated))
            del self._unauthenticated[oldest]
            oldest.reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(self.settings.live_login_s) as timeout:
            self._unauthenticated[timeout] = address
            try:
                yield
            finally:
                self._unauthenticated.pop(timeout, None)

    @contextmanager
    def slot(self, address: str) -> Iterator[None]:
        """Reserve an authenticated socket; raise Unavailable if the process has none left.

        Raise RateLimited if the address has too many.
        """
        max_sockets = self.settings.live_sockets_per_address
        if self._by_address[address] >= max_sockets:
            raise RateLimited(
                f"{max_sockets} live streams from {address} are open already",
                retry_after_s=10,
                fix="close some of them",
            )
        if self._open >= self.settings.live_sockets:
            raise Unavailable(
                "the maximum number of live streams is open", retry_after_s=10, fix="try again later"
            )
        self._open += 1
        _SOCKETS.set(self._open)
        try:
            with _counted(self._by_address, address):
                yield
        finally:
            self._open -= 1
            _SOCKETS.set(self._open)

    @contextmanager
    def caller_slot(self, caller_id: str) -> Iterator[None]:
        """Reserve one of the caller's sockets; raise RateLimited if none is left."""
        max_sockets = self.settings.live_sockets_per_caller
        if self._by_caller[caller_id] >= max_sockets:
            raise RateLimited(
                f"{max_sockets} live streams are open already", retry_after_s=10, fix="close one, or share it"
            )
        with _counted(self._by_caller, caller_id):
            yield


@contextmanager
def _counted(counter: Counter[str], key: str) -> Iterator[None]:
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
