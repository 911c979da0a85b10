"""Share a scarce resource: turns, given round robin to the waiting sources."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from esp_common.errors import RateLimited, Unavailable

RETRY_AFTER_S = 2


@dataclass(eq=False, slots=True)
class _Waiter:
    """One waiting request: first until its delay is over, then in the queue of its source."""

    source: str
    granted: asyncio.Future[None]


class FairTurns:
    """Give `slots` turns at a time; waiting requests are served round robin by source.

    A source may have `max_per_source` requests waiting. If `max_waiting` wait in all, the newest request of
    the source with the most makes room for a source that has fewer.
    """

    def __init__(self, slots: int, *, max_waiting: int, max_per_source: int) -> None:
        self._free = slots
        self._max_waiting = max_waiting
        self._max_per_source = max_per_source
        self._waiters: dict[str, list[_Waiter]] = {}
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return sum(map(len, self._waiters.values()))

    @asynccontextmanager
    async def turn(self, source: str, after_s: float = 0.0) -> AsyncIterator[None]:
        """Hold a turn while in the context, `after_s` seconds from now at the earliest.

        Raises RateLimited if too many requests of the source wait, Unavailable if the queue is full.
        """
        await self._wait(source, after_s)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, source: str, after_s: float) -> None:
        if after_s <= 0 and self._free and not self._queues:
            self._free -= 1
            return
        waiter = self._admit(source)
        delay = asyncio.get_running_loop().call_later(after_s, self._enqueue, waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self._pass_on()
            raise
        finally:
            delay.cancel()
            self._forget(waiter)

    def _admit(self, source: str) -> _Waiter:
        own = len(self._waiters.get(source, ()))
        if own >= self._max_per_source:
            raise RateLimited(
                "too many logins at once from this address", retry_after_s=RETRY_AFTER_S, fix="try again"
            )
        if self.waiting >= self._max_waiting:
            self._make_room(own)
        waiter = _Waiter(source, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(source, []).append(waiter)
        return waiter

    def _make_room(self, own: int) -> None:
        error = Unavailable("too many logins at once", retry_after_s=RETRY_AFTER_S)
        most = max(self._waiters.values(), key=len)
        if len(most) <= own + 1:
            raise error
        newest = most[-1]
        self._forget(newest)
        newest.granted.set_exception(error)

    def _enqueue(self, waiter: _Waiter) -> None:
        if waiter.granted.done():
            return
        self._queues.setdefault(waiter.source, deque()).append(waiter)
        if self._free:
            self._free -= 1
            self._pass_on()

    def _pass_on(self) -> None:
        """Pass a finished turn to the next source, or keep it free."""
        if not self._queues:
            self._free += 1
            return
        source, queue = self._queues.popitem(last=False)
        waiter = queue.popleft()
        if queue:
            self._queues[source] = queue
        self._forget(waiter)
        waiter.granted.set_result(None)

    def _forget(self, waiter: _Waiter) -> None:
        """Remove a waiter; idempotent."""
        _remove(self._waiters, waiter)
        _remove(self._queues, waiter)


def _remove(places: "dict[str, list[_Waiter]] | OrderedDict[str, deque[_Waiter]]", waiter: _Waiter) -> None:
    place = places.get(waiter.source)
    if place is not None and waiter in place:
        place.remove(waiter)
        if not place:
            del places[waiter.source]
