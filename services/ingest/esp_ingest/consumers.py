"""The worker's consumers: readings for the intake, and asset events that renew the registry."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import stamina
import structlog
from esp_common import topology
from esp_common.database import Pool, is_outage
from esp_common.messaging import EventListener, LeanConsumer, Publisher
from esp_common.messaging.batching import BatchConsumer
from esp_common.roles import until_first_ends

from esp_ingest import seen
from esp_ingest.domain.registry import Registry
from esp_ingest.intake import BATCH_METRICS, Intake, batch_limits
from esp_ingest.settings import IngestSettings
from esp_ingest.store.assets import load_registry
from esp_ingest.store.telemetry import TelemetryStore, installed_engine

log = structlog.get_logger()

REFRESH_PAUSE_S: Final = 1.0
"""Least time between two loads of the registry: a flood of unknown pumps must not flood the database."""

DRAIN_S: Final = 20.0
"""How long a worker that was told to stop goes on with what it holds."""


class LiveRegistry:
    """The registry as the database had it a moment ago.

    Loaded at `run`'s start, every `reload_s`, when an asset event comes, and by `refresh`. While the
    database is away the last one known stays.
    """

    def __init__(self, load: Callable[[], Awaitable[Registry]], reload_s: float) -> None:
        self._load = load
        self._reload_s = reload_s
        self._registry: Registry | None = None
        self._loaded_at = float("-inf")
        self._loading = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def current(self) -> Registry:
        """The registry as last loaded; empty before."""
        return self._registry or Registry({}, {})

    @property
    def loaded(self) -> bool:
        """Whether it was loaded at all."""
        return self._registry is not None

    async def refresh(self) -> None:
        """Load it again, unless that was done a moment ago; keeps the old one while the database is away."""
        async with self._loading:
            if time.monotonic() - self._loaded_at >= REFRESH_PAUSE_S:
                await self._reload()

    async def _reload(self) -> None:
        self._loaded_at = time.monotonic()
        try:
            loaded = await self._load()
        except Exception as error:
            if not is_outage(error):
                raise
            return
        if loaded != self._registry:
            self._registry = loaded

    async def load(self) -> None:
        """Load it, however long the database takes to answer."""
        async for attempt in stamina.retry_context(on=is_outage, attempts=None, timeout=None, wait_max=5.0):
            with attempt:
                self._registry = await self._load()

    def note_change(self) -> None:
        """Have it loaded again soon: assets changed."""
        self._changed.set()

    async def run(self) -> None:
        """Keep it fresh until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._reload_s)
                # Several changes often come together, and a load right before one may have missed it.
                await asyncio.sleep(REFRESH_PAUSE_S)
            self._changed.clear()
            async with self._loading:
                await self._reload()


@dataclass(frozen=True, slots=True)
class Worker:
    """The parts of a running worker."""

    intake: BatchConsumer
    listener: EventListener
    registry: LiveRegistry
    publisher: Publisher
    pool: Pool
    engine: str

    @property
    def consumer(self) -> LeanConsumer:
        """The consumer of readings."""
        return self.intake.consumer

    @property
    def alive(self) -> bool:
        """Whether the broker has its consumer, or it has paused on purpose."""
        return self.intake.alive

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what is held, acknowledge it and return.

        What cannot be finished in time is requeued. Raises the error that ended a part of it.
        """
        await until_first_ends(
            self._consume(),
            self.registry.run(),
            self.listener.run(),
            stop.wait(),
            finish=self._finish,
        )

    async def _finish(self) -> None:
        await self.intake.stop(DRAIN_S)

    async def _consume(self) -> None:
        """Consume once the registry that messages are screened against is loaded."""
        await self.registry.load()
        await self.intake.run()


@asynccontextmanager
async def open_worker(settings: IngestSettings, pool: Pool) -> AsyncIterator[Worker]:
    """Put a worker together over `pool`, whose connections must have been made with `store.prepare`."""
    async with pool.acquire() as connection:
        engine = await installed_engine(connection)

    async def load() -> Registry:
        async with pool.acquire() as connection:
            return await load_registry(connection)

    registry = LiveRegistry(load, settings.registry_reload_s)
    remembered = seen.connect(settings.redis_url, settings.seen_ttl_s)
    async with Publisher(settings.amqp_url, name="ingest worker") as publisher:
        handler = Intake(
            TelemetryStore(pool, engine, settings.quarantine_rows_per_day),
            publisher,
            registry,
            remembered,
            settings,
            worker=f"{socket.gethostname()}-{os.getpid()}",
        )
        intake = BatchConsumer(
            settings.amqp_url,
            topology.INGEST_TELEMETRY,
            handler,
            publisher,
            batch_limits(settings),
            BATCH_METRICS,
        )
        listener = EventListener(
            settings.amqp_url,
            ["asset.*"],
            on_event=lambda _: registry.note_change(),
            # Events may have passed while it was not listening.
            on_connected=registry.note_change,
        )
        try:
            yield Worker(intake, listener, registry, publisher, pool, engine)
        finally:
            await remembered.close()
