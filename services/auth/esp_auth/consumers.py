"""What the worker listens to for the audit log, and the notes it leaves of where the log ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from esp_common import topology
from esp_common.database import Pool
from esp_common.messaging import LeanConsumer, Publisher
from esp_common.roles import until_first_ends

from esp_auth.audit import note_head
from esp_auth.audit_intake import FIRST_PREFETCH, AuditIntake
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

    intake: AuditIntake
    consumer: LeanConsumer
    pool: Pool

    @property
    def alive(self) -> bool:
        """Whether it takes messages, or has paused on purpose."""
        return self.consumer.alive or self.consumer.paused

    @property
    def stalled(self) -> bool:
        """Whether records wait for the database."""
        return self.intake.stalled

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what is held, acknowledge it and return.

        What cannot be finished in time goes back to the queue. Raises what a part of it died of.
        """
        await until_first_ends(
            self.intake.run(), self.consumer.run(), self._note_heads(), stop.wait(), finish=self._finish
        )

    async def _finish(self) -> None:
        await self.intake.drain(DRAIN_S)
        await self.consumer.stop()

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
async def open_audit_writer(settings: AuthSettings, pool: Pool) -> AsyncIterator[AuditWriter]:
    """Put a writer of the audit log together over `pool`, of which it uses up to three connections."""
    async with Publisher(settings.amqp_url, name="esp-auth audit") as publisher:
        intake = AuditIntake(AuditStore(pool, chain_key(settings)), publisher)
        consumer = LeanConsumer(
            settings.amqp_url,
            topology.AUTH_AUDIT,
            prefetch=FIRST_PREFETCH,
            on_message=intake.offer,
            service="auth",
        )
        intake.queue = consumer
        yield AuditWriter(intake, consumer, pool)
