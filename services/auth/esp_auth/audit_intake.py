"""Turn batches of audit messages into chained, stored records.

A batch is stored in one transaction, and its messages are acknowledged only then. If the worker dies before
that, the broker delivers them again, and the store finds the records it has.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson
import structlog
from esp_common.errors import InvalidInput
from esp_common.messaging import Delivery
from esp_common.messaging.batch import Batch, BatchLimits, BatchMetrics, BatchRequeued, Refused
from prometheus_client import Counter, Gauge, Histogram

from esp_auth.changes import SERVICE
from esp_auth.domain.chain import EMPTY, Record
from esp_auth.domain.records import Unfit, bodies_of, record_of
from esp_auth.store.audit import AuditStore

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

BATCH_METRICS: Final = BatchMetrics(BATCH_S, DATABASE_UP, RECORDS.labels("failed"))

BATCH_RECORDS: Final = 2000
LIMITS: Final = BatchLimits(
    max_items=BATCH_RECORDS,
    max_age_ms=100,
    max_bytes=32 * 2**20,
    max_prefetch=4000,
    in_flight=2,  # while one batch is with the database, the next is read
    outage_pause_s=60,
)
_BYTES_A_RECORD: Final = 350


class _Item(NamedTuple):
    """A record, with what it was read from and the message it came in."""

    record: Record
    source: Any
    delivery: Delivery


class AuditIntake:
    """Handles batches of messages: stores their records in one transaction, chained."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._furthest = EMPTY

    def weigh(self, delivery: Delivery) -> int:
        """Return about how many records a message holds."""
        return 1 + len(delivery.body) // _BYTES_A_RECORD

    def source_of(self, delivery: Delivery) -> str:
        """Return the service that published the records."""
        return delivery.routing_key

    async def handle(self, batch: Batch) -> Sequence[Refused]:
        """Store the records of a batch; return those that are malformed or that the database refuses."""
        items, refused = await asyncio.to_thread(_read, batch.deliveries)
        refused += await self._store_all(items, batch)
        RECORDS.labels("refused").inc(len(refused))
        return refused

    async def _store_all(self, items: Sequence[_Item], batch: Batch) -> list[Refused]:
        """Store records; return those the database refuses, found by halving."""
        if not items:
            return []
        try:
            await self._write([item.record for item in items], batch)
        except BatchRequeued:
            raise
        except Exception as error:
            if len(items) == 1:
                return [_refuse(items[0].delivery, items[0].source, error)]
            log.warning("audit.batch-split", records=len(items), error=repr(error)[:300])
            middle = len(items) // 2
            return [
                *await self._store_all(items[:middle], batch),
                *await self._store_all(items[middle:], batch),
            ]
        return []

    async def _write(self, records: Sequence[Record], batch: Batch) -> None:
        repeated = batch.repeated

        async def append() -> None:
            nonlocal repeated
            # An attempt that failed may have been committed.
            known, repeated = repeated, True
            await self._append(records, known)

        await batch.retry(append)

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


def _read(deliveries: Sequence[Delivery]) -> tuple[list[_Item], list[Refused]]:
    items: list[_Item] = []
    refused: list[Refused] = []
    for delivery in deliveries:
        try:
            sources = bodies_of(delivery.headers, delivery.body)
        except Exception as error:
            refused.append(Refused(delivery, delivery.body, _reason(error)))
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


def _refuse(delivery: Delivery, source: Any, error: Exception) -> Refused:
    """Refuse one record, as a message that can be sent again once its cause is mended."""
    try:
        body = orjson.dumps({"records": [source]})
    except orjson.JSONEncodeError:  # nested too deeply to be written, though not to be read
        body = delivery.body
    return Refused(delivery, body, _reason(error))


def _reason(error: Exception) -> str:
    return (str(error) if isinstance(error, Unfit | InvalidInput) else repr(error))[:300]
