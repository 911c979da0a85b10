"""Copies of ingest's nameplates, kept current: at the start, at each `asset.*` event, and now and then."""

import asyncio
from typing import Final

import asyncpg
import structlog
from esp_common.database import OUTAGES, Pool
from esp_common.errors import NotFound

from esp_diagnostics.pumps import store
from esp_diagnostics.pumps.store import KnownPump

log = structlog.get_logger()

RETRY_S: Final = 2.0
MAX_REMEMBERED: Final = 100_000


class Nameplates:
    """Copies nameplates when something says that they changed, and every `period_s` seconds in any case.

    Any number of processes may do it: what is current already is not written again.
    """

    def __init__(self, pool: Pool, period_s: float) -> None:
        self._pool = pool
        self._period_s = period_s
        self._changed = asyncio.Event()
        self._intervals_s: dict[str, float | None] = {}
        self.loaded = False

    def note_change(self) -> None:
        """Have them copied soon."""
        self._changed.set()

    async def copy(self) -> list[str]:
        """Copy them now; return the ids of pumps that changed."""
        async with self._pool.acquire() as connection:
            changed = await store.copy_nameplates(connection)
        self.loaded = True
        self._intervals_s.clear()
        if changed:
            log.info("nameplates.changed", pumps=len(changed))
        return changed

    async def interval_s(self, pump_id: str) -> float | None:
        """Return the seconds between a pump's readings, None where it reports by exception.

        Raises NotFound for a pump that is not there. What is known is asked for again after the next copy.
        """
        if pump_id not in self._intervals_s:
            pump = await self.pump(pump_id)
            if len(self._intervals_s) >= MAX_REMEMBERED:
                self._intervals_s.clear()
            self._intervals_s[pump_id] = pump.spec.expected_interval_s
        return self._intervals_s[pump_id]

    async def pump(self, pump_id: str) -> KnownPump:
        """Return all that is known of a pump at this moment; raise NotFound when it is not there."""
        async with self._pool.acquire() as connection:
            found = await store.load(connection, [pump_id])
        if not found:
            raise NotFound(f"no pump {pump_id!r}", fix="see GET /api/v1/pumps")
        return found[0]

    async def run(self) -> None:
        """Keep them current until cancelled; without the database they are tried again soon."""
        while True:
            self._changed.clear()
            pause_s = self._period_s
            try:
                await self.copy()
            except (*OUTAGES, asyncpg.PostgresError) as error:
                log.warning("nameplates.delayed", reason=str(error) or type(error).__name__)
                pause_s = RETRY_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
