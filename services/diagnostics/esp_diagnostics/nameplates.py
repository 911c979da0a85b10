"""Copies of ingest's nameplates, kept current: at the start, at each `asset.*` event, and now and then."""

import asyncio
from typing import Final

import asyncpg
import structlog
from esp_common.database import OUTAGES, Pool

from esp_diagnostics.store import pumps

log = structlog.get_logger()

RETRY_S: Final = 2.0


class Nameplates:
    """Copies nameplates when something says that they changed, and every `period_s` seconds in any case.

    Any number of processes may do it: what is current already is not written again.
    """

    def __init__(self, pool: Pool, period_s: float) -> None:
        self._pool = pool
        self._period_s = period_s
        self._changed = asyncio.Event()
        self.loaded = False

    def note_change(self) -> None:
        """Have them copied soon."""
        self._changed.set()

    async def copy(self) -> list[str]:
        """Copy them now; return the ids of pumps that changed."""
        async with self._pool.acquire() as connection:
            changed = await pumps.copy_nameplates(connection)
        self.loaded = True
        if changed:
            log.info("nameplates.changed", pumps=len(changed))
        return changed

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
