"""The roles, each wired here once: what it opens, what runs side by side in it, and how it stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from esp_common.api_shell import Part, open_pool, open_shell
from esp_common.health import Health, serve_health
from esp_common.messaging import Publisher
from esp_common.outbox import Relay
from esp_common.roles import await_pool, until_first_ends
from esp_common.serving import make_server, serve
from starlette.types import ASGIApp

from esp_backup.api.backups import backups_router
from esp_backup.jobs import SERVICE
from esp_backup.settings import BackupSettings
from esp_backup.store.cluster import Cluster
from esp_backup.store.jobs import KINDS
from esp_backup.work import Work
from esp_backup.worker import Worker

MAX_BODY_BYTES: Final = 16 * 1024
WORKER_CONNECTIONS: Final = 2 * len(KINDS) + 3
"""Each kind of work holds its turn on one connection while it uses another."""


async def run_api(settings: BackupSettings, stop: asyncio.Event) -> None:
    """Serve the API until `stop` is set; requests under way are answered first."""
    async with open_api(settings, stop) as (application, background):
        await serve(make_server(application, settings), stop, background, settings.shutdown_delay_s)


@asynccontextmanager
async def open_api(
    settings: BackupSettings, stop: asyncio.Event
) -> AsyncIterator[tuple[ASGIApp, list[Part]]]:
    """Put the API together; yield the application and what must run beside it."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings, "api", stack, settings.database_pool_size)
        shell = await stack.enter_async_context(open_shell(settings, stop, pool))
        application = shell.create_app([backups_router(pool, settings.mode)], max_body_bytes=MAX_BODY_BYTES)
        await stack.enter_async_context(serve_health(shell.health, settings))
        yield application, shell.background()


async def run_worker(settings: BackupSettings, stop: asyncio.Event) -> None:
    """Take, check and restore backups and relay events until `stop` is set."""
    health = Health(stop)
    health.add_flag("started", lambda: False, "waiting for the database")
    async with serve_health(health, settings), AsyncExitStack() as stack:
        pool = await await_pool(settings, stop, role="esp-backup worker", max_size=WORKER_CONNECTIONS)
        stack.push_async_callback(pool.close)
        publisher = await stack.enter_async_context(Publisher(settings.amqp_url, name="esp-backup worker"))
        work = Work.of(settings, pool)
        cluster = Cluster(settings.cluster_url)
        health.add_flag("started", lambda: True, "")
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add("cluster", cluster.ready)
        health.add_obstacle("publisher", lambda: publisher.obstacle)
        await until_first_ends(
            Worker(settings, pool, work).run(), Relay(pool, publisher, SERVICE).run(), stop.wait()
        )
