"""The worker's consumer of audit records, and the periodic notes of the log's head."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from esp_common import topology
from esp_common.database import Pool
from esp_common.messaging import LeanConsumer, Publisher
from esp_common.messaging.batch import BatchLimits
from esp_common.messaging.batching import BatchConsumer
from esp_common.roles import until_first_ends

from esp_auth.audit import note_head
from esp_auth.audit_intake import BATCH_METRICS, LIMITS, AuditIntake
from esp_auth.domain.secrets import AUDIT_CHAIN, derive
from esp_auth.settings import AuthSettings
from esp_auth.store.audit import AuditStore, is_outage

log = structlog.get_logger()

DRAIN_S: Final = 20.0
"""How long a worker that was told to stop goes on with what it holds."""

NOTE_EVERY_S: Final = 3600.0
NOTE_AGAIN_S: Final = 5.0
"""Pause after which a head is noted that could not be."""


@dataclass(frozen=True, slots=True)
class AuditWriter:
    """The parts of a running writer of the audit log."""

    intake: BatchConsumer
    pool: Pool

    @property
    def consumer(self) -> LeanConsumer:
        """The consumer of audit messages."""
        return self.intake.consumer

    @property
    def alive(self) -> bool:
        """Whether the broker has its consumer, or it has paused on purpose."""
        return self.intake.alive

    @property
    def stalled(self) -> bool:
        """Whether records wait for the database."""
        return self.intake.stalled

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what is held, acknowledge it and return.

        What cannot be finished in time is requeued. Raises the error that ended a part of it.
        """
        await until_first_ends(self.intake.run(), self._note_heads(), stop.wait(), finish=self._finish)

    async def _finish(self) -> None:
        await self.intake.stop(DRAIN_S)

    async def _note_heads(self) -> None:
        while True:
            try:
                async with self.pool.acquire() as connection, connection.transaction():
                    await note_head(connection)
                pause_s = NOTE_EVERY_S
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("audit.head-not-noted", error=repr(error)[:300])
                pause_s = NOTE_AGAIN_S
            await asyncio.sleep(pause_s)


def chain_key(settings: AuthSettings) -> bytes:
    """Return the key of the audit log's chain."""
    return derive(settings.master, AUDIT_CHAIN)


@asynccontextmanager
async def open_audit_writer(
    settings: AuthSettings, pool: Pool, limits: BatchLimits = LIMITS
) -> AsyncIterator[AuditWriter]:
    """Put a writer of the audit log together over `pool`, of which it uses up to three connections."""
    async with Publisher(settings.amqp_url, name="esp-auth audit") as publisher:
        handler = AuditIntake(AuditStore(pool, chain_key(settings)))
        intake = BatchConsumer(
            settings.amqp_url,
            topology.AUTH_AUDIT,
            handler,
            publisher,
            limits,
            BATCH_METRICS,
            is_outage=is_outage,
        )
        yield AuditWriter(intake, pool)
