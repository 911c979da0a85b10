"""The roles, each wired here once: what it opens, what runs side by side in it, and how it stops."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from esp_common import tokens
from esp_common.answers import answer_outages
from esp_common.audit import AuditTrail
from esp_common.client_address import TrustedProxies
from esp_common.database import create_pool
from esp_common.health import Health, serve_health
from esp_common.http import create_app
from esp_common.messaging import EventListener, Publisher, Requester
from esp_common.rate_limit import RateLimiter
from esp_common.roles import await_pool
from esp_common.serving import make_server, serve
from esp_common.tokens import Verifier
from starlette.types import ASGIApp

from esp_archiver.api.archive import archive_router
from esp_archiver.questions import ReadQuestions
from esp_archiver.reading import Reader
from esp_archiver.settings import SERVICE, ArchiverSettings
from esp_archiver.storage import open_store
from esp_archiver.worker import Worker

MAX_BODY_BYTES: Final = 64 * 1024
"""No request here needs more."""

Part = Coroutine[Any, Any, None]


async def run_api(settings: ArchiverSettings, stop: asyncio.Event) -> None:
    """Serve the API until `stop` is set; requests under way are answered first."""
    async with open_api(settings, stop) as (application, background):
        await serve(make_server(application, settings), stop, background, settings.shutdown_delay_s)


@asynccontextmanager
async def open_api(
    settings: ArchiverSettings, stop: asyncio.Event
) -> AsyncIterator[tuple[ASGIApp, list[Part]]]:
    """Put the API together; yield the application and what must run beside it."""
    health = Health(stop)
    async with AsyncExitStack() as stack:
        # No connection is opened yet: the API starts, and says that it is not ready, without a database.
        pool = await create_pool(
            settings, role="esp-archiver api", min_size=0, max_size=settings.database_pool_size
        )
        stack.push_async_callback(pool.close)
        blobs = await stack.enter_async_context(open_store(settings))
        requester = await stack.enter_async_context(Requester(settings.amqp_url, name="esp-archiver api"))
        verifier = Verifier(requester, redis_url=settings.redis_url)
        trail = AuditTrail(requester, SERVICE, settings.audit_folder, spool_mib=settings.audit_spool_mib)
        stack.push_async_callback(trail.close)
        limiter = RateLimiter(settings.rate_limit_per_minute, settings.redis_url)
        listener = EventListener(
            settings.amqp_url, [*tokens.EVENTS], on_event=verifier.on_event, on_connected=verifier.forget
        )
        reader = Reader(pool, blobs)
        questions = ReadQuestions(settings.amqp_url, reader, requester)
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add("blob storage", blobs.check)
        health.add_flag("questions", lambda: questions.alive, "the broker does not have this consumer")
        health.add_obstacle("broker", lambda: requester.obstacle)
        health.add_flag("events", lambda: listener.alive, "the broker does not have this listener")
        application = create_app(
            "ESP archiver",
            health=health,
            verifier=verifier,
            routers=[archive_router(pool, reader, settings)],
            max_body_bytes=MAX_BODY_BYTES,
            trail=trail,
            limiter=limiter,
            request_timeout_s=settings.request_timeout_s,
            cors_origins=settings.cors_origins,
            proxies=TrustedProxies(settings.trusted_proxies),
        )
        answer_outages(application)
        await stack.enter_async_context(serve_health(health, settings))
        yield (
            application,
            [
                listener.run(),
                questions.run(),
                verifier.run(),
                trail.run(),
                limiter.run(),
            ],
        )


async def run_worker(settings: ArchiverSettings, stop: asyncio.Event) -> None:
    """Archive by schedule and on request, and bring readings back, until `stop` is set."""
    health = Health(stop)
    health.add_flag("started", lambda: False, "waiting for the database and the blob storage")
    # A day of readings takes longer to read than any statement of other roles may.
    unhurried = settings.model_copy(update={"statement_timeout_s": 0})
    async with serve_health(health, settings), AsyncExitStack() as stack:
        pool = await await_pool(
            unhurried, stop, role="esp-archiver worker", max_size=settings.database_pool_size
        )
        stack.push_async_callback(pool.close)
        blobs = await stack.enter_async_context(open_store(settings))
        publisher = await stack.enter_async_context(Publisher(settings.amqp_url, name="esp-archiver worker"))
        worker = Worker(pool, publisher, blobs, settings)
        health.add_flag("started", lambda: True, "")
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add("blob storage", blobs.check)
        health.add_obstacle("publisher", lambda: publisher.obstacle)
        health.add_flag("retention", lambda: worker.listening, "the broker does not have this consumer")
        await worker.run(stop)
