"""Retry an action while the database is away."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina
import structlog
from prometheus_client import Gauge

from esp_common import database

log = structlog.get_logger()

FIRST_WAIT_S: Final = 0.1
MAX_WAIT_S: Final = 5.0

T = TypeVar("T")
Action = Callable[[], Awaitable[T]]


class OutageRetry:
    """Retries actions during an outage of the database, and tells when the outage is long.

    `database_up`: set to 0 during an outage, to 1 after it. `on_long_outage(action)` is awaited after each
    attempt that fails more than `pause_s` into the outage; what it raises ends the retries. The broker takes
    unacknowledged messages back after half an hour, so requeue them there. `on_recovery()` is awaited
    after the first action that succeeds again.
    """

    def __init__(
        self,
        database_up: Gauge,
        *,
        pause_s: float,
        on_long_outage: Callable[[Action[object]], Awaitable[None]],
        on_recovery: Callable[[], Awaitable[None]] | None = None,
        is_outage: Callable[[Exception], bool] = database.is_outage,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._database_up = database_up
        self._pause_s = pause_s
        self._on_long_outage = on_long_outage
        self._on_recovery = on_recovery
        self._is_outage = is_outage
        self._max_wait_s = max_wait_s
        self._since_s: float | None = None

    @property
    def active(self) -> bool:
        """Whether the last attempt failed because the database is away."""
        return self._since_s is not None

    async def run(self, action: Action[T]) -> T:
        """Return what `action` returns; retry it for as long as the database is away."""
        async for attempt in stamina.retry_context(
            on=self._is_outage,
            attempts=None,
            timeout=None,
            wait_initial=FIRST_WAIT_S,
            wait_max=self._max_wait_s,
        ):
            with attempt:
                try:
                    result = await action()
                except Exception as error:
                    if self._is_outage(error):
                        await self._note_failure(error, action)
                    raise
        await self.note_recovery()
        return result

    async def probe(self, action: Action[object]) -> None:
        """Retry `action` without reporting a long outage again; return once the database answers it.

        An error of the action's own ends the retries and is only logged: its messages meet it again.
        """
        try:
            async for attempt in stamina.retry_context(
                on=self._is_outage,
                attempts=None,
                timeout=None,
                wait_initial=1.0,
                wait_max=self._max_wait_s,
            ):
                with attempt:
                    await action()
        except Exception as error:
            log.warning("database.probe-failed", error=repr(error)[:300])

    async def note_recovery(self) -> None:
        """End the outage, if there is one."""
        if self._since_s is None:
            return
        log.info("database.back", away_s=round(time.monotonic() - self._since_s, 1))
        self._since_s = None
        self._database_up.set(1)
        if self._on_recovery is not None:
            await self._on_recovery()

    async def _note_failure(self, error: Exception, action: Action[T]) -> None:
        if self._since_s is None:
            self._since_s = time.monotonic()
            self._database_up.set(0)
            log.warning("database.lost", error=repr(error)[:300], effect="messages wait, the queue grows")
        elif time.monotonic() - self._since_s > self._pause_s:
            await self._on_long_outage(action)
