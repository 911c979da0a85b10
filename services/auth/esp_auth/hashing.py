"""Hash passwords in threads, a bounded number at once, without blocking the event loop."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import Gauge

from esp_auth.domain.passwords import Passwords
from esp_auth.turns import FairTurns

_WAITING = Gauge("esp_auth_hashes_waiting", "Requests that wait for their turn to hash a password.")
SHARES: Final = 4
"""Fraction of the queue that one address may fill: a quarter."""


class Hashing:
    """Give `slots` turns to hash a password, fairly by address; each uses the memory of the cost setting.

    At most `max_waiting` requests wait: after a minute a client has given up.
    """

    def __init__(self, passwords: Passwords, *, slots: int, max_waiting: int) -> None:
        self._passwords = passwords
        self._turns = FairTurns(slots, max_waiting=max_waiting, max_per_source=max(1, max_waiting // SHARES))
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="hash")
        _WAITING.set_function(lambda: self._turns.waiting)

    @asynccontextmanager
    async def turn(self, source: str | None, after_s: float = 0.0) -> AsyncIterator["Turn"]:
        """Wait for a turn of `source`, an address, at least `after_s` seconds.

        Raises RateLimited if too many requests of this source wait, Unavailable if the queue is full.
        """
        async with self._turns.turn(source or "", after_s):
            yield Turn(self._passwords, self._threads)

    async def hash(self, password: str, source: str | None) -> str:
        """Return the hash of a new password."""
        async with self.turn(source) as turn:
            return await turn.hash(password)


class Turn:
    """The right to hash one password after another."""

    def __init__(self, passwords: Passwords, threads: ThreadPoolExecutor) -> None:
        self._passwords = passwords
        self._threads = threads

    async def hash(self, password: str) -> str:
        """Return the hash of a password."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._passwords.hash, password)

    async def matches(self, stored: str | None, password: str) -> bool:
        """Return whether this is the password; without a stored hash, take as long and return False."""
        compared = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._passwords.matches, stored or self._passwords.nobodys, password
        )
        return compared and stored is not None

    def outdated(self, stored: str) -> bool:
        """Return whether a hash was made at another cost."""
        return self._passwords.outdated(stored)
