"""The roles, each wired here once: what it opens, what runs side by side in it, and how it stops."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import structlog
from esp_common.api_shell import Part, open_pool, open_shell
from esp_common.database import Pool
from esp_common.health import Health, serve_health
from esp_common.messaging import Publisher
from esp_common.roles import await_pool
from esp_common.serving import serve

from esp_ingest.api.assets import assets_router
from esp_ingest.api.quality import quality_router
from esp_ingest.api.refusals import dead_letters_router, quarantine_router
from esp_ingest.api.server import make_server
from esp_ingest.api.telemetry import FastLane, TelemetryEndpoint
from esp_ingest.api.telemetry_docs import telemetry_router
from esp_ingest.assets import Assets
from esp_ingest.coalescer import Coalescer
from esp_ingest.consumers import LiveRegistry, open_worker
from esp_ingest.dead_letters import DeadLetters
from esp_ingest.domain.registry import Registry
from esp_ingest.gateway_questions import GatewayQuestions
from esp_ingest.maintenance import Maintenance
from esp_ingest.quarantine import Quarantine
from esp_ingest.settings import IngestSettings
from esp_ingest.store.assets import load_registry
from esp_ingest.store.lists import Lists
from esp_ingest.store.telemetry import installed_engine, prepare

log = structlog.get_logger()

ENGINE_LACKS: Final = {
    "timescale": [],
    "postgres": ["columnstore compression", "real-time aggregates: rollups follow within their period"],
}
"""What an operator should know of each storage engine."""


async def run_api(settings: IngestSettings, stop: asyncio.Event) -> None:
    """Serve the API until `stop` is set; requests under way are answered first."""
    async with open_api(settings, stop) as (application, background):
        # What is loaded stays: looking through it for garbage again and again is time taken from requests.
        gc.freeze()
        await serve(make_server(application, settings), stop, background, settings.shutdown_delay_s)


@asynccontextmanager
async def open_api(
    settings: IngestSettings, stop: asyncio.Event
) -> AsyncIterator[tuple[FastLane, list[Part]]]:
    """Put the API together; yield the application and what must run beside it."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings, "api", stack, settings.database_pool_size)
        registry = LiveRegistry(lambda: _load_registry(pool, shell.health), settings.registry_reload_s)
        opened = open_shell(
            settings,
            stop,
            pool,
            on_asset_change=registry.note_change,
            timeout_s=settings.confirm_timeout_s,
        )
        shell = await stack.enter_async_context(opened)
        coalescer = Coalescer(shell.requester, registry, settings)
        stack.push_async_callback(coalescer.close)
        shell.health.add_flag("registry", lambda: registry.loaded, "assets are not loaded yet")
        assets, lists = Assets(pool), Lists(pool)
        endpoint = TelemetryEndpoint(
            shell.verifier, coalescer, shell.trail, settings.max_body_bytes, shell.proxies
        )
        application = shell.create_app(
            [
                telemetry_router(endpoint),
                assets_router(assets),
                quality_router(lists, assets),
                quarantine_router(lists, Quarantine(pool, shell.requester)),
                dead_letters_router(DeadLetters(settings.amqp_url), shell.requester, pool),
            ],
            max_body_bytes=settings.max_body_bytes,
        )
        questions = GatewayQuestions(settings.amqp_url, registry, shell.requester)
        await stack.enter_async_context(serve_health(shell.health, settings))
        yield FastLane(application, endpoint), [*shell.background(), _keep(registry), questions.run()]


async def run_worker(settings: IngestSettings, stop: asyncio.Event) -> None:
    """Store readings until `stop` is set; what is held is finished first."""
    health = Health(stop)
    health.add_flag("started", lambda: False, "waiting for the database")
    async with serve_health(health, settings), AsyncExitStack() as stack:
        pool = await _open_pool(settings, "worker", stop, init=prepare)
        stack.push_async_callback(pool.close)
        worker = await stack.enter_async_context(open_worker(settings, pool))
        _tell_engine(health, worker.engine)
        health.add_flag("started", lambda: True, "")
        health.add_flag("consumer", lambda: worker.alive, "the broker does not have this consumer")
        health.add_flag("registry", lambda: worker.registry.loaded, "assets are not loaded yet")
        health.add_obstacle("publisher", lambda: worker.publisher.obstacle)
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add_flag("store", lambda: not worker.intake.stalled, "flushes wait for the database")
        await worker.run(stop)


async def run_maintenance(settings: IngestSettings, stop: asyncio.Event) -> None:
    """Keep partitions, aggregates and quality current and relay the outbox until `stop` is set."""
    health = Health(stop)
    health.add_flag("started", lambda: False, "waiting for the database")
    # Rolling up years of late data takes longer than any statement of the other roles may.
    unhurried = settings.model_copy(update={"statement_timeout_s": 0})
    async with serve_health(health, settings), AsyncExitStack() as stack:
        pool = await _open_pool(unhurried, "maintenance", stop)
        stack.push_async_callback(pool.close)
        async with pool.acquire() as connection:
            engine = await installed_engine(connection)
        publisher = await stack.enter_async_context(
            Publisher(settings.amqp_url, name="esp-ingest maintenance")
        )
        _tell_engine(health, engine)
        health.add_flag("started", lambda: True, "")
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add_obstacle("publisher", lambda: publisher.obstacle)
        maintenance = Maintenance(pool, engine, publisher, settings)
        health.info["aggregates"] = maintenance.watch.details
        health.add_flag("archived", lambda: maintenance.listening, "the broker does not have this consumer")
        await maintenance.run(stop)


async def _open_pool(settings: IngestSettings, role: str, stop: asyncio.Event, **options: Any) -> Pool:
    size = settings.database_pool_size
    return await await_pool(settings, stop, role=f"esp-ingest {role}", max_size=size, **options)


async def _load_registry(pool: Pool, health: Health) -> Registry:
    async with pool.acquire() as connection:
        if "engine" not in health.info:
            _tell_engine(health, await installed_engine(connection))
        return await load_registry(connection)


def _tell_engine(health: Health, engine: str) -> None:
    health.info.update(engine=engine, engine_lacks=ENGINE_LACKS[engine])
    log.info("storage.engine", engine=engine, lacks=ENGINE_LACKS[engine])


async def _keep(registry: LiveRegistry) -> None:
    await registry.load()
    await registry.run()
