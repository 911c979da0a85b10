"""Run a role: stop on a signal, wait for the database, and end with the first of its parts."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import stamina
import structlog
import uvloop

from esp_common import telemetry, vault
from esp_common.database import OUTAGES, Pool, create_pool
from esp_common.settings import ServiceSettings, service_of
from esp_common.watchdog import note_started, watch_loop

log = structlog.get_logger()

Settings = TypeVar("Settings", bound=ServiceSettings)
Role = Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]


class Stopped(Exception):
    """The role was stopped while it waited for the database."""


def run_role(service: str, name: str, role: Role[Settings], settings: Settings) -> None:
    """Run a role's process until SIGTERM or SIGINT, or until its event loop is blocked."""
    telemetry.configure(service, name, settings)
    uvloop.run(_watched(role, settings))


async def _watched(role: Role[Settings], settings: Settings) -> None:
    async with watch_loop(settings.loop_blocked_limit_s, settings.metrics_host, settings.liveness_port):
        await _until_signalled(role, settings)


async def _until_signalled(role: Role[Settings], settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve_role(role, settings, stop)


async def serve_role(role: Role[Settings], settings: Settings, stop: asyncio.Event) -> None:
    """Run a role until `stop` is set, or until its secrets have to be reloaded."""
    _return_to_vault(settings, stop)
    with suppress(Stopped):
        await role(settings, stop)


def _return_to_vault(settings: ServiceSettings, stop: asyncio.Event) -> None:
    """Restart the role when Vault returns and its settings differ from those in use.

    The pool takes a new database login itself. Everything else is read at the start only: the role ends in
    order, and its supervisor restarts it.
    """
    keeper = vault.keeper_of(service_of(type(settings)))
    if keeper is None:
        return
    loop = asyncio.get_running_loop()

    def on_return() -> None:
        if changed := settings.changed():
            log.warning("vault.settings-changed", names=changed, doing="stopping, to start with Vault's")
            loop.call_soon_threadsafe(stop.set)

    keeper.on_return(on_return)
    keeper.start()


async def until_first_ends(
    *parts: Coroutine[Any, Any, object],
    beside: Iterable[Coroutine[Any, Any, object]] = (),
    finish: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run all; return when the first of `parts` ends, and raise its error. `beside` may end earlier.

    `finish` is awaited then, with the others still running; afterwards they are cancelled. Calling this marks
    the role as started for the watchdog.
    """
    note_started()
    tasks = [asyncio.ensure_future(part) for part in parts]
    others = [asyncio.ensure_future(part) for part in beside]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if finish is not None:
            await finish()
        for task in done:
            task.result()
    finally:
        for task in (*tasks, *others):
            task.cancel()
        await asyncio.gather(*tasks, *others, return_exceptions=True)


async def await_pool(settings: ServiceSettings, stop: asyncio.Event, **options: Any) -> Pool:
    """Return a connected pool, retrying until the database answers; raise Stopped if `stop` is set.

    `options`: those of `esp_common.database.create_pool`.
    """
    opening = asyncio.ensure_future(_connected_pool(settings, options))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            raise Stopped
        return opening.result()
    finally:
        opening.cancel()
        stopping.cancel()
        await asyncio.gather(opening, stopping, return_exceptions=True)


async def _connected_pool(settings: ServiceSettings, options: dict[str, Any]) -> Pool:
    async for attempt in stamina.retry_context(on=OUTAGES, attempts=None, timeout=None, wait_max=5.0):
        if attempt.num == 2:
            log.warning("database.awaited")
        with attempt:
            return await create_pool(settings, **options)
    raise AssertionError("retried for ever")
