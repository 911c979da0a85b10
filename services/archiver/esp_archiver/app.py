"""The roles, each wired here once: what it opens, what runs side by side in it, and how it stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from esp_common.answers import answer_outages
from esp_common.api_shell import Part, open_pool, open_shell
from esp_common.health import Health, serve_health
from esp_common.messaging import Publisher
from esp_common.roles import await_pool
from esp_common.serving import make_server, serve
from starlette.types import ASGIApp

from esp_archiver.api.archive import archive_router
from esp_archiver.questions import ReadQuestions
from esp_archiver.reading import Reader
from esp_archiver.settings import ArchiverSettings
from esp_archiver.storage import open_store
from esp_archiver.worker import Worker

MAX_BODY_BYTES: Final = 64 * 1024
"""No request here needs more."""


async def run_api(settings: ArchiverSettings, stop: asyncio.Event) -> None:
    """Serve the API until `stop` is set; requests under way are answered first."""
    async with open_api(settings, stop) as (application, background):
        await serve(make_server(application, settings), stop, background, settings.shutdown_delay_s)


@asynccontextmanager
async def open_api(
    settings: ArchiverSettings, stop: asyncio.Event
) -> AsyncIterator[tuple[ASGIApp, list[Part]]]:
    """Put the API together; yield the application and what must run beside it."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings, "api", stack, settings.database_pool_size)
        blobs = await stack.enter_async_context(open_store(settings))
        shell = await stack.enter_async_context(open_shell(settings, stop, pool))
        reader = Reader(pool, blobs)
        questions = ReadQuestions(settings.amqp_url, reader, shell.requester)
        shell.health.add("blob storage", blobs.check)
        shell.health.add_flag("questions", lambda: questions.alive, "the broker does not have this consumer")
        application = shell.create_app(
            [archive_router(pool, reader, settings)], max_body_bytes=MAX_BODY_BYTES
        )
        answer_outages(application)
        await stack.enter_async_context(serve_health(shell.health, settings))
        yield application, [*shell.background(), questions.run()]


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
