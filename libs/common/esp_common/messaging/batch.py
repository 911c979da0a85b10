"""What a batch consumer and the service that handles its batches agree on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from prometheus_client import Counter, Gauge, Histogram

from esp_common.messaging.delivery import Delivery
from esp_common.messaging.outages import Action, T


class BatchRequeued(Exception):
    """The database was away for so long that the messages went back to the queue."""


class Refused(NamedTuple):
    """A part of a message, or all of it, that can never be processed."""

    delivery: Delivery
    body: bytes
    reason: str


class Retry(Protocol):
    """Runs an action again for as long as the database is away."""

    async def __call__(self, action: Action[T]) -> T:
        """Return what `action` returns; raise BatchRequeued when the outage is long."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliveries to process together.

    `repeated`: some may have been processed before, and their effect may be durable.
    """

    deliveries: Sequence[Delivery]
    repeated: bool
    retry: Retry


class BatchHandler(Protocol):
    """What a service does with a batch."""

    def weigh(self, delivery: Delivery) -> int:
        """Return about how many items a message holds, from its size: called for each delivery."""

    def source_of(self, delivery: Delivery) -> str:
        """Return the source of a message; while more waits than a batch holds, sources take turns."""

    async def handle(self, batch: Batch) -> Sequence[Refused]:
        """Make the batch durable; return what can never be.

        Let BatchRequeued through. On any other error the batch is halved until the failing messages are
        alone; those are requeued, and dead-lettered on their last delivery.
        """


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is due, and how much is held.

    `max_items`, `max_age_ms`: a batch is due at the first of both. `max_bytes`: consuming pauses above this
    size of held bodies, and resumes below half of it. `in_flight`: batches handled at the same time.
    `outage_pause_s`: outage of the database after which messages are requeued.
    """

    max_items: int
    max_age_ms: float
    max_bytes: int
    max_prefetch: int
    in_flight: int
    outage_pause_s: float


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """The service's metrics that the consumer keeps."""

    seconds: Histogram
    database_up: Gauge
    poison: Counter
    held_bytes: Gauge | None = None
