"""Health checks: a role is ready when every component it depends on responds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from esp_common import vault
from esp_common.serving import make_metrics_server
from esp_common.settings import ServiceSettings
from esp_common.telemetry import mask

log = structlog.get_logger()

CHECK_TIMEOUT_S: Final = 2.0

_READY: Final = Gauge(
    "esp_ready", "Whether a check of readiness passed the last time (1) or not (0).", ["check"]
)

Check = Callable[[], Awaitable[object]]


class Health:
    """Checks of one role.

    `info`: further details for operators; functions are evaluated for each response. `stop`: once set, the
    role is not ready.
    """

    def __init__(self, stop: asyncio.Event | None = None) -> None:
        self.info: dict[str, Any] = {}
        self._stop = stop
        self._checks: dict[str, Check] = {}
        self._was_ready = False
        self._failed: set[str] = set()

    def add(self, name: str, check: Check) -> None:
        """Make readiness depend on `check`: it passes unless it raises, returns False or takes over 2 s."""
        self._checks[name] = check

    def add_flag(self, name: str, holds: Callable[[], bool], otherwise: str) -> None:
        """Make readiness depend on `holds()`; `otherwise` is the message if it returns False."""

        async def check() -> None:
            if not holds():
                raise RuntimeError(otherwise)

        self.add(name, check)

    def add_obstacle(self, name: str, obstacle: Callable[[], str | None]) -> None:
        """Make readiness depend on `obstacle()`: it passes on None, else fails with that message."""

        async def check() -> None:
            if found := obstacle():
                raise RuntimeError(found)

        self.add(name, check)

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """Return whether all checks pass, and for each check "ok" or its failure."""
        if self._stop is not None and self._stop.is_set():
            return False, {"running": "the role is stopping"}
        names = list(self._checks)
        outcomes = dict(zip(names, await asyncio.gather(*map(self._outcome, names)), strict=True))
        failed = {name for name, outcome in outcomes.items() if outcome != "ok"}
        for name in failed ^ self._failed:
            log.warning("health.changed", check=name, outcome=outcomes[name])
        self._failed = failed
        self._was_ready = self._was_ready or not failed
        return not failed, outcomes

    async def _outcome(self, name: str) -> str:
        try:
            answer = await asyncio.wait_for(self._checks[name](), CHECK_TIMEOUT_S)
            outcome = "failed" if answer is False else "ok"
        except TimeoutError:
            outcome = f"no answer in {CHECK_TIMEOUT_S} s"
        except Exception as error:
            outcome = mask(f"{type(error).__name__}: {error}")
        _READY.labels(name).set(outcome == "ok")
        return outcome

    async def on_live(self, _: Request) -> Response:
        """Answer `/health/live`: the event loop runs."""
        return JSONResponse({"status": "ok"})

    async def on_ready(self, _: Request) -> Response:
        """Answer `/health/ready`: 200 or 503 with every check."""
        return self._response(*await self.ready())

    async def on_startup(self, _: Request) -> Response:
        """Answer `/health/startup`: 200 once the role has been ready, whatever happens afterwards."""
        if self._was_ready:
            return self._response(True, {})
        return self._response(*await self.ready())

    def _response(self, ready: bool, checks: dict[str, str]) -> Response:
        status = "ok" if ready else "unavailable"
        info = {name: value() if callable(value) else value for name, value in self.info.items()}
        return JSONResponse(
            {"status": status, "checks": checks, **vault.state(), **info}, 200 if ready else 503
        )

    def routes(self) -> list[Route]:
        """Return the three routes; they need no credential."""
        answers = {"live": self.on_live, "ready": self.on_ready, "startup": self.on_startup}
        return [Route(f"/health/{name}", answer, methods=["GET"]) for name, answer in answers.items()]


async def _on_metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@asynccontextmanager
async def serve_health(health: Health, settings: ServiceSettings) -> AsyncIterator[None]:
    """Serve `/health/*` and `/metrics` on the role's second listener while in the context.

    It needs no credential, so it must not be reachable from outside.
    """
    app = Starlette(routes=[*health.routes(), Route("/metrics", _on_metrics, methods=["GET"])])
    server = make_metrics_server(app, settings)
    serving = asyncio.create_task(server.serve(), name="health")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
