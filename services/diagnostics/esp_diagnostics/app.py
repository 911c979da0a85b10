"""Wiring of the roles: what each opens, runs concurrently, and how it stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from esp_common import outbox
from esp_common.api_shell import Part, open_pool, open_shell
from esp_common.health import Health, serve_health
from esp_common.messaging import Publisher
from esp_common.redis import connect_redis
from esp_common.roles import await_pool, until_first_ends
from esp_common.serving import make_server, serve
from fastapi import APIRouter
from starlette.types import ASGIApp

from esp_diagnostics.alerts.actions import AlertActions
from esp_diagnostics.alerts.routes import alerts_router
from esp_diagnostics.alerts.rule_sets import AlertRuleSets
from esp_diagnostics.alerts.store import AlertLists
from esp_diagnostics.common.cache import AnswerCache
from esp_diagnostics.console.routes import console_router
from esp_diagnostics.fleet.fleet import Fleet
from esp_diagnostics.fleet.routes import fleet_router
from esp_diagnostics.fleet.store import FleetStore
from esp_diagnostics.kpis.kpis import Kpis
from esp_diagnostics.kpis.routes import kpis_router
from esp_diagnostics.kpis.store import KpiStore
from esp_diagnostics.live.broadcast import LiveHub, LivePublisher
from esp_diagnostics.live.routes import SERVER_OPTIONS, live_router
from esp_diagnostics.live.slots import LiveSockets
from esp_diagnostics.live.store import LiveNames
from esp_diagnostics.live.tickets import Tickets
from esp_diagnostics.monitoring.routes import diagnostics_router
from esp_diagnostics.monitoring.rule_routes import rules_router
from esp_diagnostics.monitoring.rules import RuleBook
from esp_diagnostics.monitoring.worker import open_worker
from esp_diagnostics.notifications.delivery import NotificationDelivery
from esp_diagnostics.notifications.destinations import Notifications
from esp_diagnostics.notifications.notifier import (
    consume,
    keep_time,
    notification_consumer,
    platform_consumer,
)
from esp_diagnostics.notifications.routes import notifications_router
from esp_diagnostics.notifications.store import Routing
from esp_diagnostics.operating_points.operating_points import OperatingPoints
from esp_diagnostics.operating_points.pump_settings import PumpSettings
from esp_diagnostics.operating_points.routes import pumps_router
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.settings import SERVICE, DiagnosticsSettings
from esp_diagnostics.silence.monitor import monitor_silence, policy_of
from esp_diagnostics.trends.archive import ArchiveReader
from esp_diagnostics.trends.routes import telemetry_router
from esp_diagnostics.trends.store import History
from esp_diagnostics.trends.trends import Trends

MAX_BODY_BYTES = 1024 * 1024
"""Maximum body size; the largest body is a rule set."""


async def run_api(settings: DiagnosticsSettings, stop: asyncio.Event) -> None:
    """Serve the API until `stop` is set; finish pending requests first."""
    async with open_api(settings, stop) as (application, background):
        await serve(
            make_server(application, settings, **SERVER_OPTIONS), stop, background, settings.shutdown_delay_s
        )


@asynccontextmanager
async def open_api(
    settings: DiagnosticsSettings, stop: asyncio.Event
) -> AsyncIterator[tuple[ASGIApp, list[Part]]]:
    """Build the API; yield the application and its background tasks."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings, "api", stack, settings.database_pool_size)
        redis = connect_redis(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        nameplates = Nameplates(pool, settings.nameplates_s)
        opened = open_shell(settings, stop, pool, on_asset_change=nameplates.note_change)
        shell = await stack.enter_async_context(opened)
        shell.health.add_flag(
            "nameplates", lambda: nameplates.loaded, "nameplates are not read from ingest's views yet"
        )
        hub = LiveHub(settings.redis_url)
        sockets = LiveSockets(hub, Tickets(redis), shell.trail, settings, LiveNames(pool).unknown)
        cache = AnswerCache(redis, settings.cache_max_kib * 1024)
        stack.push_async_callback(cache.close)
        history = History(pool)
        live = LivePublisher(redis)
        trends = Trends(history, ArchiveReader(shell.requester), nameplates, cache, settings)
        routers: list[APIRouter] = [
            telemetry_router(trends),
            pumps_router(
                OperatingPoints(nameplates, trends),
                PumpSettings(pool, history, nameplates.note_change),
                nameplates,
            ),
            fleet_router(Fleet(FleetStore(pool, policy_of(settings)), cache, settings.cache_open_s)),
            diagnostics_router(pool, nameplates, policy_of(settings)),
            rules_router(RuleBook(pool)),
            live_router(sockets),
            alerts_router(AlertActions(pool, live), AlertRuleSets(pool, live), AlertLists(pool), pool),
            notifications_router(Notifications(pool, settings), Routing(pool)),
            kpis_router(Kpis(KpiStore(pool), settings.co2e_kg_per_kwh)),
        ]
        application = shell.create_app(routers, max_body_bytes=MAX_BODY_BYTES)
        application.include_router(console_router(settings.login_notice))
        await stack.enter_async_context(serve_health(shell.health, settings))
        yield application, [*shell.background(), nameplates.run(), hub.run()]


async def run_worker(settings: DiagnosticsSettings, stop: asyncio.Event) -> None:
    """Evaluate readings until `stop` is set; save the state before stopping."""
    health = Health(stop)
    health.add_flag("started", lambda: False, "waiting for the database")
    async with serve_health(health, settings), AsyncExitStack() as stack:
        size = settings.database_pool_size
        pool = await await_pool(settings, stop, role="esp-diagnostics worker", max_size=size)
        stack.push_async_callback(pool.close)
        redis = connect_redis(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        opened = open_worker(settings, pool, LivePublisher(redis))
        worker, publisher, beside = await stack.enter_async_context(opened)
        health.add_flag("started", lambda: True, "")
        health.add_flag("consumers", lambda: worker.alive, "the broker does not have all of its consumers")
        health.add_obstacle("publisher", lambda: publisher.obstacle)
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add_flag("store", lambda: not worker.stalled, "findings wait for the database")
        await until_first_ends(worker.run(stop), *beside)


async def run_notifier(settings: DiagnosticsSettings, stop: asyncio.Event) -> None:
    """Deliver notifications and end delays until `stop` is set; finish pending messages first."""
    health = Health(stop)
    health.add_flag("started", lambda: False, "connecting")
    async with serve_health(health, settings), AsyncExitStack() as stack:
        pool = await open_pool(settings, "notifier", stack, settings.database_pool_size)
        redis = connect_redis(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        publisher = Publisher(settings.amqp_url, name="esp-diagnostics notifier")
        await stack.enter_async_context(publisher)
        live = LivePublisher(redis)
        notifications = notification_consumer(settings, NotificationDelivery(pool, settings))
        platform = platform_consumer(settings, pool, live)
        health.add_flag("started", lambda: True, "")
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add_obstacle("publisher", lambda: publisher.obstacle)
        health.add_flag("notifications", lambda: notifications.alive, "the consumer is not registered")
        health.add_flag("platform", lambda: platform.alive, "the consumer is not registered")
        await until_first_ends(
            consume([notifications, platform], stop),
            outbox.Relay(pool, publisher, SERVICE).run(),
            keep_time(pool, live, settings.alerts_tick_s),
            monitor_silence(pool, live, policy_of(settings), settings.no_data_check_s),
        )
