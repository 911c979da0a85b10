"""Audit records: who did what to what, with which outcome; kept by the auth service.

`AuditTrail` records HTTP requests without delaying them. `record` records an administrative action in the
transaction that makes the change. Both use the format of `make_record`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

import orjson
import structlog
from prometheus_client import Counter, Gauge

from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection
from esp_common.errors import EspError
from esp_common.messaging import Publisher
from esp_common.spool import SpoolFolder

log = structlog.get_logger()

RECORDED: Final = "audit.recorded"
BATCH_RECORDS: Final = 200
BATCH_S: Final = 0.1
TALLY_S: Final = 1.0
SEND_TIMEOUT_S: Final = 5.0
RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 30.0
CLOSE_S: Final = 3.0
MEMORY_BATCHES: Final = 50
"""Batches held in memory for the broker; the rest go to the spool folder, or are dropped if there is none."""

_BUFFERED: Final = Gauge("esp_audit_buffered", "Audit records that the broker does not have yet.")
_SENT: Final = Counter("esp_audit_sent_total", "Audit records that the broker confirmed.")
_SPOOLED: Final = Counter("esp_audit_spilled_total", "Audit records written to the spool folder.")
_LOST: Final = Counter("esp_audit_lost_total", "Audit records lost because nothing had room for them.")

ActorKind = Literal["user", "key", "service", "cli", "anonymous"]
Outcome = Literal["success", "denied", "failed"]
Record = dict[str, Any]
_DENIED: Final = (401, 403, 429)


def outcome_of(status: int) -> Outcome:
    """Return the audit outcome for an HTTP status."""
    if status in _DENIED:
        return "denied"
    return "success" if 100 <= status < 400 else "failed"


def make_record(
    service: str,
    action: str,
    object_: str,
    *,
    actor_id: str | None,
    actor_kind: ActorKind,
    outcome: Outcome = "success",
    status: int | None = None,
    source_address: str | None = None,
    trace_id: str | None = None,
    count: int = 1,
    detail: Mapping[str, Any] | None = None,
) -> Record:
    """Return a record of the current time in wire format; `detail` must hold no secret."""
    return {
        "id": str(uuid4()),
        "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        "service": service,
        "actor_id": actor_id,
        "actor_kind": actor_kind,
        "action": action,
        "object": object_,
        "outcome": outcome,
        "status": status,
        "source_address": source_address,
        "trace_id": trace_id,
        "count": count,
        "detail": dict(detail or {}),
    }


@dataclass(slots=True)
class Origin:
    """Origin of the current request; `state` is the request's, with its `principal` once authenticated."""

    source_address: str | None
    trace_id: str | None
    state: MutableMapping[str, Any] = field(default_factory=dict)


ORIGIN: Final[ContextVar[Origin | None]] = ContextVar("audit_origin", default=None)
"""Set by the HTTP edge, so that records of actions carry the request's origin without passing it along."""


async def record(
    connection: Connection,
    *,
    source: str,
    actor: str | None,
    action: str,
    subject: str,
    data: Any = None,
    kind: ActorKind | None = None,
    outcome: Outcome = "success",
) -> None:
    """Record in the caller's transaction that `actor` did `action` to `subject` in service `source`.

    `actor`: a principal's id, `cli:<user>`, or None if unknown. `action`: for example `quarantine.replayed`.
    `data`: the changed values, without secrets. Address and trace id are those of the current request.
    """
    origin = ORIGIN.get() or Origin(None, None)
    details = make_record(
        source,
        action,
        subject,
        actor_id=actor,
        actor_kind=kind or _kind_of(actor, origin),
        outcome=outcome,
        source_address=origin.source_address,
        trace_id=origin.trace_id,
        detail=data if isinstance(data, Mapping) else {"data": data} if data is not None else {},
    )
    event = Event(type=RECORDED, source=source, subject=subject, data=details)
    await outbox.enqueue(connection, event, topology.AUDIT, routing_key=f"{source}.{action}")


def _kind_of(actor: str | None, origin: Origin) -> ActorKind:
    if actor is None:
        return "anonymous"
    if actor.startswith("cli:"):
        return "cli"
    principal = origin.state.get("principal")
    if principal is not None and principal.id == actor:
        kind: ActorKind = principal.kind
        return kind
    return "service"


class _Tally(NamedTuple):
    """Key of identical requests; those of the same second share one record."""

    action: str
    object_: str
    actor_id: str | None
    actor_kind: ActorKind
    status: int
    source_address: str | None


class _Batch(NamedTuple):
    """Records sent as one message; names sort in creation order."""

    name: str
    body: bytes
    records: int


class AuditTrail:
    """Record requests and deliver the records to the auth service at least once.

    `note` and `tally` never block and never raise. Batches of `BATCH_RECORDS` records or `BATCH_S` seconds
    are published with confirms. While the broker is unavailable they are spooled to `folder` (None: a few are
    kept in memory) and sent in order when it returns, by this process or the next. Run `run()` beside the
    application and call `close()` before closing the publisher.
    """

    def __init__(
        self, publisher: Publisher, service: str, folder: Path | None = None, *, spool_mib: float = 64
    ) -> None:
        self._publisher = publisher
        self._service = service
        self._spool = SpoolFolder(folder, int(spool_mib * 1024 * 1024)) if folder else None
        self._records: list[Record] = []
        self._tallies: dict[_Tally, int] = {}
        self._tallied_at = time.monotonic()
        self._batches: deque[_Batch] = deque()
        self._made = 0
        self._full = asyncio.Event()
        self._work = asyncio.Event()
        self._losing = False

    @property
    def buffered(self) -> int:
        """Number of records that the broker has not confirmed."""
        waiting = len(self._records) + sum(batch.records for batch in self._batches)
        return waiting + len(self._tallies) + (self._spool.records if self._spool else 0)

    def note(
        self,
        action: str,
        object_: str,
        *,
        actor_id: str | None,
        actor_kind: ActorKind,
        status: int,
        source_address: str | None = None,
        trace_id: str | None = None,
        count: int = 1,
        detail: Mapping[str, Any] | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        """Record one request, or `count` identical ones, and its outcome.

        `action`: `METHOD /template`. `object_`: the path. `outcome` None: derived from `status`.
        """
        self._records.append(
            make_record(
                self._service,
                action,
                object_,
                actor_id=actor_id,
                actor_kind=actor_kind,
                outcome=outcome or outcome_of(status),
                status=status,
                source_address=source_address,
                trace_id=trace_id,
                count=count,
                detail=detail,
            )
        )
        if len(self._records) >= BATCH_RECORDS:
            self._full.set()

    def tally(
        self,
        action: str,
        object_: str,
        *,
        actor_id: str | None,
        actor_kind: ActorKind,
        status: int,
        source_address: str | None = None,
    ) -> None:
        """Count a request; identical requests of the same second share one record."""
        key = _Tally(action, object_, actor_id, actor_kind, status, source_address)
        self._tallies[key] = self._tallies.get(key, 0) + 1

    async def run(self) -> None:
        """Send records until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._collect())
            group.create_task(self._send_all())

    async def close(self) -> None:
        """Send the remaining records; spool them if the broker does not accept them within a few seconds."""
        self._make_batches(everything=True)
        with suppress(EspError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._batches:
                    await self._send(self._batches[0])
                    self._batches.popleft()
        await self._spool_from(0)
        _BUFFERED.set(self.buffered)

    async def _collect(self) -> None:
        """Build batches from records; spool those that the broker does not accept fast enough."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BATCH_S):
                    await self._full.wait()
            self._full.clear()
            self._make_batches()
            if len(self._batches) > MEMORY_BATCHES:
                await self._spool_from(1)  # the first batch is being sent
            if self._batches:
                self._work.set()
            _BUFFERED.set(self.buffered)

    def _make_batches(self, *, everything: bool = False) -> None:
        if everything or time.monotonic() - self._tallied_at >= TALLY_S:
            self._take_tallies()
        records, self._records = self._records, []
        for start in range(0, len(records), BATCH_RECORDS):
            part = records[start : start + BATCH_RECORDS]
            self._made += 1
            name = f"{time.time_ns():020d}-{self._made % 10**6:06d}"
            self._batches.append(_Batch(name, orjson.dumps({"records": part}), len(part)))

    def _take_tallies(self) -> None:
        tallies, self._tallies = self._tallies, {}
        self._tallied_at = time.monotonic()
        self._records += [
            make_record(
                self._service,
                key.action,
                key.object_,
                actor_id=key.actor_id,
                actor_kind=key.actor_kind,
                outcome=outcome_of(key.status),
                status=key.status,
                source_address=key.source_address,
                count=count,
            )
            for key, count in tallies.items()
        ]

    async def _send_all(self) -> None:
        """Send spooled batches, then those in memory; on failure spool the latter and retry after a pause."""
        pause_s = RETRY_S
        while True:
            try:
                await self._send_next()
                pause_s = RETRY_S
            except (EspError, TimeoutError) as error:
                log.warning("audit.delayed", reason=str(error) or "no confirm", buffered=self.buffered)
                await self._spool_from(0)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _send_next(self) -> None:
        """Send the oldest batch; wait if there is none."""
        message = await self._spool.oldest() if self._spool else None
        if message is not None and self._spool is not None:
            await self._send(_Batch(*message))
            await self._spool.remove(message)
        elif self._batches:
            batch = self._batches[0]
            await self._send(batch)
            if self._batches and self._batches[0] is batch:
                self._batches.popleft()
        else:
            self._work.clear()
            await self._work.wait()

    async def _send(self, batch: _Batch) -> None:
        event = Event(RECORDED, self._service, "requests", None, id=batch.name)
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self._publisher.publish(
                topology.AUDIT,
                f"{self._service}.requests",
                batch.body,
                headers=event.headers(),
                message_id=batch.name,
            )
        _SENT.inc(batch.records)

    async def _spool_from(self, first: int) -> None:
        """Move batches in memory from position `first` on to the spool; without room for them they are lost.

        Without a folder the newest are kept in memory.
        """
        keep = [self._batches.popleft() for _ in range(min(first, len(self._batches)))]
        unsent, self._batches = list(self._batches), deque(keep)
        for position, batch in enumerate(unsent):
            if self._spool is not None and await self._spool.write(batch.name, batch.body, batch.records):
                _SPOOLED.inc(batch.records)
                self._losing = False
            elif self._spool is None and len(unsent) - position <= MEMORY_BATCHES:
                self._batches.append(batch)
            else:
                self._lose(batch)

    def _lose(self, batch: _Batch) -> None:
        _LOST.inc(batch.records)
        if not self._losing:
            self._losing = True
            log.critical("audit.lost", records=batch.records, fix="mend the broker, or raise AUDIT_SPOOL_MIB")
