"""Keep copies of ingest's nameplates current: at start, on `asset.*` events, and periodically."""

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
    """Copy nameplates after a change, and at least every `period_s` seconds.

    Several processes may do so at a time: unchanged rows are not written.
    """

    def __init__(self, pool: Pool, period_s: float) -> None:
        self._pool = pool
        self._period_s = period_s
        self._changed = asyncio.Event()
        self._intervals_s: dict[str, float | None] = {}
        self.loaded = False

    def note_change(self) -> None:
        """Request a copy soon."""
        self._changed.set()

    async def copy(self) -> list[str]:
        """Copy nameplates now; return the ids of changed pumps."""
        async with self._pool.acquire() as connection:
            changed = await store.copy_nameplates(connection)
        self.loaded = True
        self._intervals_s.clear()
        if changed:
            log.info("nameplates.changed", pumps=len(changed))
        return changed

    async def interval_s(self, pump_id: str) -> float | None:
        """Return the seconds between a pump's readings; None if it reports by exception.

        Raise NotFound for an unknown pump. Values are cached until the next copy.
        """
        if pump_id not in self._intervals_s:
            pump = await self.pump(pump_id)
            if len(self._intervals_s) >= MAX_REMEMBERED:
                self._intervals_s.clear()
            self._intervals_s[pump_id] = pump.spec.expected_interval_s
        return self._intervals_s[pump_id]

    async def pump(self, pump_id: str) -> KnownPump:
        """Return the pump as stored now; raise NotFound if it is not registered."""
        async with self._pool.acquire() as connection:
            found = await store.load(connection, [pump_id])
        if not found:
            raise NotFound(f"no pump {pump_id!r}", fix="see GET /api/v1/pumps")
        return found[0]

    async def run(self) -> None:
        """Keep the copies current until cancelled; retry soon while the database is unavailable."""
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
