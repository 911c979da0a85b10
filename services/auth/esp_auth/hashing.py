"""Password hashing in threads: a bounded number at once, with the event loop free meanwhile."""

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
"""Part of all waiting requests that one address may have: a quarter."""


class Hashing:
    """Gives `slots` turns to hash a password, fairly by address; each holds as much memory as the cost says.

    At most `max_waiting` requests wait: one that waits longer than a minute has given up.
    """

    def __init__(self, passwords: Passwords, *, slots: int, max_waiting: int) -> None:
        self._passwords = passwords
        self._turns = FairTurns(slots, max_waiting=max_waiting, max_per_source=max(1, max_waiting // SHARES))
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="hash")
        _WAITING.set_function(lambda: self._turns.waiting)

    @asynccontextmanager
    async def turn(self, source: str | None, after_s: float = 0.0) -> AsyncIterator["Turn"]:
        """Wait for a turn of `source`, an address, at least `after_s` seconds.

        Raises RateLimited when too many of this source wait, Unavailable when too many of all do.
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
        """Return whether this is the password; with nothing stored the answer takes as long, and is no."""
        compared = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._passwords.matches, stored or self._passwords.nobodys, password
        )
        return compared and stored is not None

    def outdated(self, stored: str) -> bool:
        """Return whether a hash was made at another cost."""
        return self._passwords.outdated(stored)
