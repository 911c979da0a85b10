"""Refusals by the reverse proxy: counted in metrics, and sampled into the audit trail.

The proxy sends one syslog datagram per refusal to a Unix socket; each ends with a JSON object with the fields
of an audit record. It never waits for the receiver: undelivered ones are only in its access log.
"""

import asyncio
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import structlog
from esp_common.audit import AuditTrail
from prometheus_client import Counter

log = structlog.get_logger()

ACTION: Final = "edge.refused"
WINDOW_S: Final = 60.0
"""Seconds during which further refusals of one address with one status are only counted."""
MAX_SOURCES: Final = 500
"""Addresses and statuses remembered in a window; further ones share one record per status."""
MAX_DATAGRAM_BYTES: Final = 65_536
MAX_AT_ONCE: Final = 200
"""Datagrams read in one turn of the event loop."""
MAX_OBJECT_LENGTH: Final = 300

_REFUSED: Final = Counter(
    "esp_edge_refused_total", "Requests the reverse proxy refused by itself.", ["status"]
)
_UNREADABLE: Final = Counter("esp_edge_unreadable_total", "Lines of the reverse proxy that cannot be read.")
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_TRACE_ID: Final = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request that the proxy refused itself."""

    method: str
    path: str
    status: int
    source_address: str | None
    trace_id: str | None


def parse(datagram: bytes) -> Refusal | None:
    """Return the refusal in a syslog datagram; None if it cannot be read."""
    text = datagram.decode(errors="replace")
    try:
        fields = json.loads(text[text.index("{") :])
        status = int(fields["status"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not 400 <= status <= 599:
        return None
    method = str(fields.get("action", ""))
    return Refusal(
        method=method if _METHOD.fullmatch(method) else "other",
        path=_printable(str(fields.get("object", "")))[:MAX_OBJECT_LENGTH],
        status=status,
        source_address=_address(fields.get("source_address")),
        trace_id=_matching(_TRACE_ID, fields.get("trace_id")),
    )


def _address(given: Any) -> str | None:
    try:
        return str(ip_address(str(given)))
    except ValueError:
        return None


def _matching(form: re.Pattern[str], given: Any) -> str | None:
    return given if isinstance(given, str) and form.fullmatch(given) else None


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


@dataclass(slots=True)
class Sampler:
    """Select the refusals to record: the first of a source in a window, then the number that followed.

    A source is an address with a status. `record` is called with a refusal and its count.
    """

    record: Callable[[Refusal, int], None]
    _more: dict[tuple[str | None, int], int] = field(default_factory=dict)
    _last: dict[tuple[str | None, int], Refusal] = field(default_factory=dict)

    def add(self, refusal: Refusal) -> None:
        """Record `refusal`, or count it."""
        source = (refusal.source_address, refusal.status)
        if source not in self._more and len(self._more) >= MAX_SOURCES:
            source = (None, refusal.status)
        if source not in self._more:
            self._more[source] = 0
            self.record(refusal, 1)
            return
        self._more[source] += 1
        self._last[source] = refusal

    def end_window(self) -> None:
        """Record the number of refusals of each source since its first, and start a new window."""
        for source, refusal in self._last.items():
            self.record(refusal, self._more[source])
        self._more.clear()
        self._last.clear()


class EdgeLog:
    """Receive the proxy's refusals on a Unix socket."""

    def __init__(self, listener: socket.socket, trail: AuditTrail) -> None:
        self._listener = listener
        self._trail = trail
        self._sampler = Sampler(self._note)

    async def run(self) -> None:
        """Receive until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener, self._receive)
        try:
            while True:
                await asyncio.sleep(WINDOW_S)
                self._sampler.end_window()
        finally:
            loop.remove_reader(self._listener)
            self._receive()
            self._sampler.end_window()

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(MAX_AT_ONCE):
                self._take(self._listener.recv(MAX_DATAGRAM_BYTES))

    def _take(self, datagram: bytes) -> None:
        refusal = parse(datagram)
        if refusal is None:
            _UNREADABLE.inc()
            return
        _REFUSED.labels(str(refusal.status)).inc()
        self._sampler.add(refusal)

    def _note(self, refusal: Refusal, count: int) -> None:
        self._trail.note(
            ACTION,
            refusal.path,
            actor_id=None,
            actor_kind="anonymous",
            status=refusal.status,
            source_address=refusal.source_address,
            trace_id=refusal.trace_id,
            count=count,
            detail={"method": refusal.method},
        )


@contextmanager
def open_edge_log(path: Path, trail: AuditTrail) -> Iterator[EdgeLog]:
    """Listen on a socket at `path`, which the folder's group may write to."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o660)
        log.info("edge-log.listening", path=str(path))
        yield EdgeLog(listener, trail)
    path.unlink(missing_ok=True)
