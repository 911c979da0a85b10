"""Ends a process whose event loop is blocked, so that its supervisor starts it again.

The loop touches a heartbeat, and two threads judge it, because what blocks the loop may hold the interpreter
lock or not:

- `faulthandler`'s timer is C code that needs no interpreter lock. It writes the stack of every thread to
  stderr and exits with code 1 when the loop has not touched the heartbeat for `limit_s`.
- A Python thread logs `event-loop.blocked` at half of that time. The liveness listener, if there is a port
  for it, answers 503 from then on.

`limit_s` holds once the role has started. Start-up (imports, routes, a password hash, models) may use the
processor on the loop for as long as a busy machine makes it take, so it has `START_FACTOR` times as long.
"""

import asyncio
import faulthandler
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread, get_ident
from time import monotonic
from typing import Final

import orjson
import structlog

log = structlog.get_logger()

LIVENESS_PATH: Final = "/health/live"
_STDERR: Final = 2
_TOUCHES: Final = 10
"""Heartbeats within the time that the loop may be blocked."""
_REQUEST_TIMEOUT_S: Final = 5.0
START_FACTOR: Final = 10
"""Factor by which the loop may be blocked longer while the role starts."""


class Heartbeat:
    """Time at which an event loop last ran its tasks; written by the loop, read by any thread."""

    def __init__(self, limit_s: float) -> None:
        self._started_limit_s = limit_s
        self.limit_s = limit_s * START_FACTOR
        self._touched = monotonic()

    def start(self) -> None:
        """Apply the shorter limit from now on."""
        self.limit_s = self._started_limit_s
        self.touch()

    def touch(self) -> None:
        """Record that the loop runs, and restart the timer that ends the process."""
        self._touched = monotonic()
        faulthandler.dump_traceback_later(self.limit_s, exit=True, file=_STDERR)

    @property
    def pause_s(self) -> float:
        """Seconds between two heartbeats, or two checks; the same during start-up and afterwards."""
        return self._started_limit_s / _TOUCHES

    @property
    def age_s(self) -> float:
        """Seconds since the last heartbeat."""
        return monotonic() - self._touched

    @property
    def is_late(self) -> bool:
        """Whether the loop has been blocked for half of the limit."""
        return self.age_s > self.limit_s / 2


_heartbeat: ContextVar[Heartbeat | None] = ContextVar("heartbeat", default=None)
"""Heartbeat of the role this code runs in; None: not monitored."""


def note_started() -> None:
    """Tell the watchdog of this role, if any, that the role has started."""
    heartbeat = _heartbeat.get()
    if heartbeat is not None:
        heartbeat.start()


@asynccontextmanager
async def watch_loop(limit_s: float, host: str, liveness_port: int | None) -> AsyncIterator[None]:
    """End this process once the running event loop is blocked for `limit_s`, while in the context.

    Until `note_started()` the limit is `START_FACTOR` times as long. `liveness_port`: where a thread answers
    `/health/live` on `host`; None: nowhere.
    """
    heartbeat = Heartbeat(limit_s)
    heartbeat.touch()
    _heartbeat.set(heartbeat)
    ended = Event()
    # In this context, so that log lines carry the service and role.
    judge = partial(copy_context().run, _judge, heartbeat, get_ident(), ended)
    Thread(target=judge, name="watchdog", daemon=True).start()
    listener = None if liveness_port is None else _listen(heartbeat, host, liveness_port)
    beating = asyncio.create_task(_beat(heartbeat), name="heartbeat")
    try:
        yield
    finally:
        beating.cancel()
        ended.set()
        faulthandler.cancel_dump_traceback_later()
        if listener is not None:
            await asyncio.to_thread(listener.shutdown)
            listener.server_close()


async def _beat(heartbeat: Heartbeat) -> None:
    while True:
        heartbeat.touch()
        await asyncio.sleep(heartbeat.pause_s)


def _judge(heartbeat: Heartbeat, loop_thread: int, ended: Event) -> None:
    """Log each time the loop is late, with its current stack."""
    was_late = False
    while not ended.wait(heartbeat.pause_s):
        is_late = heartbeat.is_late
        if is_late and not was_late:
            log.critical(
                "event-loop.blocked",
                blocked_s=round(heartbeat.age_s, 1),
                ends_after_s=heartbeat.limit_s,
                stack=_stack(loop_thread),
            )
        was_late = is_late


def _stack(thread: int) -> list[str]:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return []
    return [f"{each.filename}:{each.lineno} {each.name}" for each in traceback.extract_stack(frame)[-20:]]


class _LivenessHandler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S

    def __init__(self, heartbeat: Heartbeat, *arguments: object) -> None:
        self._heartbeat = heartbeat
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer `/health/live`."""
        if self.path != LIVENESS_PATH:
            self._answer(HTTPStatus.NOT_FOUND, {"status": "not found"})
        elif self._heartbeat.is_late:
            blocked = f"blocked for {self._heartbeat.age_s:.0f} s"
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "unavailable", "event_loop": blocked})
        else:
            self._answer(HTTPStatus.OK, {"status": "ok"})

    def _answer(self, status: HTTPStatus, document: dict[str, str]) -> None:
        body = orjson.dumps(document)
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Write no access log."""


def _listen(heartbeat: Heartbeat, host: str, port: int) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer((host, port), partial(_LivenessHandler, heartbeat))
    server.daemon_threads = True
    Thread(target=server.serve_forever, name="liveness", daemon=True).start()
    return server
