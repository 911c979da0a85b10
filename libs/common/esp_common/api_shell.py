"""The parts that every API shares: health, broker link, verifier, audit trail, rate limiter, listener."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI

from esp_common import tokens
from esp_common.audit import AuditTrail
from esp_common.client_address import TrustedProxies
from esp_common.contracts.events import Event
from esp_common.database import Pool, create_pool
from esp_common.health import Health
from esp_common.http import create_app
from esp_common.messaging import EventListener, Requester
from esp_common.messaging.publisher import PUBLISH_TIMEOUT_S
from esp_common.rate_limit import RateLimiter
from esp_common.settings import ServiceSettings, service_of
from esp_common.tokens import Verifier

Part = Coroutine[Any, Any, None]


async def open_pool(settings: ServiceSettings, role: str, stack: AsyncExitStack, max_size: int) -> Pool:
    """Return a pool that connects at its first use: a role starts, not ready, without a database."""
    name = f"esp-{service_of(type(settings))} {role}"
    pool = await create_pool(settings, role=name, min_size=0, max_size=max_size)
    stack.push_async_callback(pool.close)
    return pool


@dataclass(frozen=True, slots=True)
class ApiShell:
    """The shared parts of one API process, opened."""

    settings: ServiceSettings
    health: Health
    requester: Requester
    verifier: Verifier
    trail: AuditTrail
    limiter: RateLimiter
    listener: EventListener
    proxies: TrustedProxies

    def create_app(self, routers: Iterable[APIRouter], *, max_body_bytes: int) -> FastAPI:
        """Return the application with `routers` behind the shared HTTP edge."""
        return create_app(
            f"ESP {service_of(type(self.settings))}",
            health=self.health,
            verifier=self.verifier,
            routers=list(routers),
            max_body_bytes=max_body_bytes,
            trail=self.trail,
            limiter=self.limiter,
            request_timeout_s=self.settings.request_timeout_s,
            cors_origins=self.settings.cors_origins,
            proxies=self.proxies,
        )

    def background(self) -> list[Part]:
        """Return the coroutines to run beside the server."""
        return [self.listener.run(), self.verifier.run(), self.trail.run(), self.limiter.run()]


@asynccontextmanager
async def open_shell(
    settings: ServiceSettings,
    stop: asyncio.Event,
    pool: Pool,
    *,
    verifier: Verifier | None = None,
    needs_broker: bool = True,
    on_asset_change: Callable[[], None] | None = None,
    timeout_s: float = PUBLISH_TIMEOUT_S,
) -> AsyncIterator[ApiShell]:
    """Open the shared parts; the caller adds its health checks, then serves health (`serve_health`).

    `verifier`: the caller's own, else one that asks the auth service. Without `needs_broker` the API is ready
    while the broker is away. `on_asset_change` is called after an event of an asset, and after each
    reconnection, since events may have been missed. `timeout_s`: of publishing and requests.
    """
    service = service_of(type(settings))
    async with AsyncExitStack() as stack:
        requester = await stack.enter_async_context(
            Requester(settings.amqp_url, name=f"esp-{service} api", timeout_s=timeout_s)
        )
        verifier = verifier or Verifier(requester, redis_url=settings.redis_url)
        trail = AuditTrail(requester, service, settings.audit_folder, spool_mib=settings.audit_spool_mib)
        stack.push_async_callback(trail.close)
        listener = _listen(settings, verifier, on_asset_change)
        health = Health(stop)
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        if needs_broker:
            health.add_obstacle("broker", lambda: requester.obstacle)
            health.add_flag("events", lambda: listener.alive, "the broker does not have this listener")
        yield ApiShell(
            settings,
            health,
            requester,
            verifier,
            trail,
            RateLimiter(settings.rate_limit_per_minute, settings.redis_url),
            listener,
            TrustedProxies(settings.trusted_proxies),
        )


def _listen(
    settings: ServiceSettings, verifier: Verifier, on_asset_change: Callable[[], None] | None
) -> EventListener:
    def on_event(event: Event) -> None:
        if event.type in tokens.EVENTS:
            verifier.on_event(event)
        elif on_asset_change:
            on_asset_change()

    def on_connected() -> None:
        verifier.forget()
        if on_asset_change:
            on_asset_change()

    patterns = [*(["asset.*"] if on_asset_change else []), *tokens.EVENTS]
    return EventListener(settings.amqp_url, patterns, on_event=on_event, on_connected=on_connected)
