"""The audit log's pipeline: messages in, records chained and stored, messages acknowledged.

A batch takes the records of what has come in, stores them in one transaction and only then acknowledges its
messages. Whatever dies in between, the broker delivers them again, and the store knows its records.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from uuid import uuid4

import orjson
import stamina
import structlog
from esp_common import topology
from esp_common.errors import EspError, InvalidInput
from esp_common.messaging import Delivery, LeanConsumer, Publisher
from prometheus_client import Counter, Gauge, Histogram

from esp_auth.changes import SERVICE
from esp_auth.domain.chain import EMPTY, Record
from esp_auth.domain.records import Unfit, bodies_of, record_of
from esp_auth.store.audit import AuditStore, is_outage

log = structlog.get_logger()

RECORDS: Final = Counter("esp_auth_audit_records_total", "Audit records by what became of them.", ["outcome"])
BATCH_S: Final = Histogram(
    "esp_auth_audit_batch_seconds",
    "From taking a batch up to its acknowledgement.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
HEAD_SEQ: Final = Gauge("esp_auth_audit_head_seq", "Number of the last record that this process stored.")
DATABASE_UP: Final = Gauge("esp_auth_audit_database_up", "0 while records wait for the database.")
REWOUND: Final = Counter(
    "esp_auth_audit_head_rewound_total", "Times the chain's head was behind what this process had stored."
)

BATCH_RECORDS: Final = 2000
BATCH_MS: Final = 100
PREFETCH: Final = 4000
HELD_BYTES: Final = 16 * 2**20
"""Messages sent ahead: so many, and no more than fit into this by the largest that is held."""

FIRST_PREFETCH: Final = 1
"""To a worker that has yet to see a message through: one that kills workers takes no others along."""

IN_FLIGHT: Final = 2
"""While one batch is with the database, the next is read."""

SUSPICIOUS: Final = 2
"""Deliveries after which a message is taken by itself: it may be what killed the worker."""

OUTAGE_PAUSE_S: Final = 60.0
"""How long messages are held for the database; the broker takes them back after half an hour."""

REFUSAL_PAUSE_S: Final = 1.0
_BYTES_A_RECORD: Final = 350


class GivenBack(Exception):
    """The database has been away for so long that the messages went back to the queue."""


class _Item(NamedTuple):
    """A record, with what it was read from and the message it came in."""

    record: Record
    source: Any
    delivery: Delivery


class _Refused(NamedTuple):
    """Part of a message, or all of it, that cannot be stored, and why."""

    delivery: Delivery
    body: bytes
    reason: str


class AuditIntake:
    """Batches records over messages, by count or time, whichever comes first.

    `offer` takes deliveries from the consumer; `run` works until cancelled; `drain` ends in good order.
    """

    def __init__(
        self,
        store: AuditStore,
        publisher: Publisher,
        *,
        batch_ms: float = BATCH_MS,
        outage_pause_s: float = OUTAGE_PAUSE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._batch_ms = batch_ms
        self._outage_pause_s = outage_pause_s
        self._now = now
        self._waiting: list[Delivery] = []
        self._suspects: list[Delivery] = []
        self._records = 0
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._flushing: set[asyncio.Task[None]] = set()
        self._prefetch = FIRST_PREFETCH
        self._furthest = EMPTY
        self._outage_since: float | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._draining = False
        self._failure: BaseException | None = None
        self.queue: LeanConsumer

    def offer(self, delivery: Delivery) -> None:
        """Take a delivery; called for each message, so it does next to nothing."""
        suspect = delivery.redelivered and delivery.delivery_count >= SUSPICIOUS
        (self._suspects if suspect else self._waiting).append(delivery)
        self._records += 1 + len(delivery.body) // _BYTES_A_RECORD
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._batch_ms / 1000, self._due.set)
        if self._records >= BATCH_RECORDS or len(self._waiting) * 3 >= self._prefetch:
            self._due.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not (self._waiting or self._suspects or self._flushing)

    @property
    def stalled(self) -> bool:
        """Whether what is held, or was given back, waits for the database."""
        return self._outage_since is not None or self._recovering is not None

    async def run(self) -> None:
        """Store whenever due, until cancelled; raise what nobody foresaw: then all held comes again."""
        try:
            while True:
                await self._due.wait()
                if self._failure is not None:
                    raise self._failure
                await self._suit_prefetch()
                await self._flush_waiting()
                await self._flush_suspects()
        finally:
            for task in self._flushing:
                task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Take no more, and give what is held until `timeout_s` to be stored and acknowledged."""
        self._draining = True
        await self.queue.pause()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while not self.idle and clock() < deadline:
            self._due.set()
            await asyncio.sleep(0.01)

    async def _suit_prefetch(self) -> None:
        """Have as much sent ahead as fits, and one message while any is suspect."""
        held = [*self._waiting, *self._suspects]
        if not held:
            return
        room = HELD_BYTES // max(1, *(len(delivery.body) for delivery in held))
        fitting = FIRST_PREFETCH if self._suspects else max(2, min(room, PREFETCH))
        if not self._prefetch / 2 <= fitting <= self._prefetch * 1.5:
            self._prefetch = fitting
            await self.queue.limit(fitting)

    def _take(self) -> list[Delivery]:
        deliveries, self._waiting = self._waiting, []
        self._records = 0
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return deliveries

    async def _flush_waiting(self) -> None:
        for part in _parts(self._take()):
            await self._start(part)

    async def _flush_suspects(self) -> None:
        """Take what may be killing workers when nothing else is at risk, and one at a time."""
        suspects, self._suspects = self._suspects, []
        for delivery in suspects:
            if self._flushing:
                await asyncio.wait(self._flushing)
            await self._start([delivery])

    async def _start(self, deliveries: Sequence[Delivery]) -> None:
        await self._slots.acquire()
        task = asyncio.create_task(self._flush(deliveries))
        self._flushing.add(task)
        task.add_done_callback(self._flushed)

    def _flushed(self, task: "asyncio.Task[None]") -> None:
        self._flushing.discard(task)
        self._slots.release()
        if not task.cancelled() and (failure := task.exception()):
            self._failure = failure
            self._due.set()

    async def _flush(self, deliveries: Sequence[Delivery]) -> None:
        """Carry a batch through: store what can be, bury what cannot, acknowledge."""
        with BATCH_S.time():
            items, refused = await asyncio.to_thread(_read, deliveries)
            repeated = any(delivery.redelivered for delivery in deliveries)
            try:
                refused += await self._store_all(items, repeated)
            except GivenBack:
                return
            given_back = await self._bury_all(refused)
            self.queue.done([delivery for delivery in deliveries if delivery not in given_back])

    async def _store_all(self, items: Sequence[_Item], repeated: bool) -> list[_Refused]:
        """Store records; return those the database will not have, found by halving."""
        if not items:
            return []
        try:
            await self._write([item.record for item in items], repeated)
        except GivenBack:
            raise
        except Exception as error:
            if len(items) == 1:
                return [_refuse(items[0].delivery, items[0].source, error)]
            log.warning("audit.batch-split", records=len(items), error=repr(error)[:300])
            middle = len(items) // 2
            return [
                *await self._store_all(items[:middle], repeated),
                *await self._store_all(items[middle:], repeated),
            ]
        return []

    async def _write(self, records: Sequence[Record], repeated: bool) -> None:
        """Store records, for as long as the database is away; raise GivenBack when that takes too long."""
        async for attempt in stamina.retry_context(
            on=is_outage, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0
        ):
            with attempt, self._noting_outage(records):
                # The attempt that failed may have been committed all the same.
                await self._append(records, repeated or attempt.num > 1)
        self._note_recovery()

    async def _append(self, records: Sequence[Record], repeated: bool) -> None:
        known = self._furthest
        stored, head = await self._store.append(records, repeated=repeated)
        RECORDS.labels("stored").inc(stored)
        RECORDS.labels("repeated").inc(len(records) - stored)
        if head.seq - stored < known.seq:
            REWOUND.inc()
            log.critical("audit.head-rewound", stored_before=known.seq, found=head.seq - stored)
            self._furthest = head
        self._furthest = max(self._furthest, head)
        HEAD_SEQ.set(self._furthest.seq)

    @contextmanager
    def _noting_outage(self, records: Sequence[Record]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_outage(error):
                self._note_outage(error, records)
            raise

    def _note_outage(self, error: Exception, records: Sequence[Record]) -> None:
        if self._outage_since is None:
            self._outage_since = self._now()
            DATABASE_UP.set(0)
            log.warning(
                "database.lost", error=repr(error)[:300], effect="audit records wait, the queue grows"
            )
        elif self._now() - self._outage_since > self._outage_pause_s:
            if self._recovering is None:
                self._recovering = asyncio.create_task(self._sit_out(records))
            raise GivenBack from error

    def _note_recovery(self) -> None:
        DATABASE_UP.set(1)
        if self._outage_since is not None:
            log.info("database.back", away_s=round(self._now() - self._outage_since, 1))
            self._outage_since = None

    async def _sit_out(self, records: Sequence[Record]) -> None:
        """Give the messages back, and take them again once the database takes the records that it did not.

        That it answers is not enough, since it may be read-only or out of room, and each giving back counts
        towards a message's delivery limit.
        """
        log.warning("audit.paused", reason="database", effect="messages went back to the queue")
        await self.queue.pause(give_back=True)
        self._take()
        self._suspects.clear()
        try:
            async for attempt in stamina.retry_context(
                on=is_outage, attempts=None, timeout=None, wait_initial=1.0, wait_max=5.0
            ):
                with attempt:
                    await self._append(records, repeated=True)
        except Exception as error:  # the records' own trouble: they meet it again when they come
            log.warning("audit.batch-failed", error=repr(error)[:300])
        self._note_recovery()
        self._recovering = None
        log.info("audit.resumed")
        if not self._draining:
            await self.queue.resume()

    async def _bury_all(self, refused: Sequence[_Refused]) -> set[Delivery]:
        """Put what cannot be stored among the dead letters; return the messages given back instead."""
        given_back: set[Delivery] = set()
        for part in refused:
            RECORDS.labels("refused").inc()
            if part.delivery not in given_back and not await self._bury(part):
                given_back.add(part.delivery)
        return given_back

    async def _bury(self, refused: _Refused) -> bool:
        """Publish a part of a message as a dead letter; give the message back where the broker will not."""
        delivery, error_id = refused.delivery, uuid4().hex
        log.error("audit.refused", error_id=error_id, key=delivery.routing_key, reason=refused.reason)
        headers = {
            "esp-reason": refused.reason,
            "esp-error-id": error_id,
            "esp-routing-key": delivery.routing_key,
        }
        try:
            await self._publisher.publish(
                topology.DLX,
                topology.AUTH_AUDIT,
                refused.body,
                headers=headers,
                content_type=delivery.content_type or "",
                message_id=delivery.message_id,
            )
        except EspError as trouble:
            log.warning("audit.not-buried", error_id=error_id, reason=trouble.detail)
            await asyncio.sleep(REFUSAL_PAUSE_S)
            self.queue.reject(delivery, requeue=True)
            return False
        return True


def _read(deliveries: Sequence[Delivery]) -> tuple[list[_Item], list[_Refused]]:
    items: list[_Item] = []
    refused: list[_Refused] = []
    for delivery in deliveries:
        try:
            sources = bodies_of(delivery.headers, delivery.body)
        except Exception as error:
            refused.append(_Refused(delivery, delivery.body, _reason(error)))
            continue
        for source in sources:
            try:
                items.append(_Item(_sent_by(delivery, record_of(source)), source, delivery))
            except Exception as error:
                refused.append(_refuse(delivery, source, error))
    return items, refused


def _sent_by(delivery: Delivery, record: Record) -> Record:
    """Return `record` if its service sent it, or auth itself; raise Unfit for one in another's name.

    What the broker vouches for is the sender: by a queue or an exchange of its own a service gets messages
    here under any routing key.
    """
    if delivery.user_id not in (record.service, SERVICE):
        raise Unfit(f"service is {record.service}, and {delivery.user_id or 'nobody known'} sent it")
    return record


def _refuse(delivery: Delivery, source: Any, error: Exception) -> _Refused:
    """Refuse one record, as a message that can be sent again once its cause is mended."""
    try:
        body = orjson.dumps({"records": [source]})
    except orjson.JSONEncodeError:  # nested too deeply to be written, though not to be read
        body = delivery.body
    return _Refused(delivery, body, _reason(error))


def _reason(error: Exception) -> str:
    return (str(error) if isinstance(error, Unfit | InvalidInput) else repr(error))[:300]


def _parts(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    """Split what waited while all slots were taken into batches."""
    part: list[Delivery] = []
    records = 0
    for delivery in deliveries:
        part.append(delivery)
        records += 1 + len(delivery.body) // _BYTES_A_RECORD
        if records >= BATCH_RECORDS:
            yield part
            part, records = [], 0
    if part:
        yield part
