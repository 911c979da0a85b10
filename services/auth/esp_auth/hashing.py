"""Password hashing in threads: so many at once, so many waiting, and the event loop turns meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from esp_common.errors import Unavailable
from prometheus_client import Gauge

from esp_auth.domain.passwords import Passwords

_WAITING = Gauge("esp_auth_hashes_waiting", "Requests that wait for their turn to hash a password.")


class Hashing:
    """Lends one of `slots` turns to hash a password; each holds as much memory as the cost says.

    More than `max_waiting` requests are refused: who waits longer than a minute has given up.
    """

    def __init__(self, passwords: Passwords, *, slots: int, max_waiting: int) -> None:
        self._passwords = passwords
        self._turns = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="hash")
        self._max_waiting = max_waiting
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Turn"]:
        """Wait for a turn; raise Unavailable when too many do."""
        if self._waiting >= self._max_waiting:
            raise Unavailable("too many logins at once", retry_after_s=2)
        self._waiting += 1
        _WAITING.set(self._waiting)
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
            _WAITING.set(self._waiting)
        try:
            yield Turn(self._passwords, self._threads)
        finally:
            self._turns.release()

    async def hash(self, password: str) -> str:
        """Return the hash of a new password, when its turn has come."""
        async with self.turn() as turn:
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
