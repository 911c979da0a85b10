"""Assignment of pumps to workers: lanes (queues), and the partitions delivered on them.

Each worker sends a heartbeat every few seconds and reads its fair share of the lanes. The broker delivers a
lane to one consumer at a time, so a lane moves when its worker releases it after saving its state. The
exchange hashes partitions to lanes: a worker claims a partition when its first readings arrive. The epoch of
the claim prevents a disconnected worker from writing.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Final

import structlog
from esp_common import topology
from esp_common.database import is_outage
from esp_common.errors import InvalidInput
from esp_common.messaging import Delivery, LeanConsumer
from prometheus_client import Gauge

from esp_diagnostics.monitoring.store.states import Ownership
from esp_diagnostics.settings import SERVICE

log = structlog.get_logger()

NO_GENERATION: Final = -1
"""Generation of a claim whose readings have not come yet: no delivery has it."""

_HELD: Final = Gauge("esp_diagnostics_lanes", "Queues of accepted readings read by this worker.")
_LIVE: Final = Gauge("esp_diagnostics_workers", "Live workers, as seen by this one.")


def fair_share(workers: Collection[str], me: str, lanes: int) -> frozenset[int]:
    """Return those of `lanes` lanes that `me` reads among `workers`.

    Every worker that sees the same workers computes the same assignment. Shares differ by at most one, and
    few lanes move when a worker joins or leaves (rendezvous hashing with a ceiling).
    """
    everyone = sorted({*workers, me})
    most, with_most = -(-lanes // len(everyone)), lanes % len(everyone) or len(everyone)
    room = dict.fromkeys(everyone, most)
    mine = set()
    for lane in range(lanes):
        full = sum(1 for left in room.values() if left == 0)
        # Once enough workers have the maximum, the others must do with one less.
        least = 1 if full >= with_most and most > 1 else 0
        able = [worker for worker in everyone if room[worker] > least]
        owner = max(able, key=partial(_weight, lane))
        room[owner] -= 1
        if owner == me:
            mine.add(lane)
    return frozenset(mine)


def _weight(lane: int, worker: str) -> bytes:
    return blake2b(f"{worker} {lane}".encode(), digest_size=8).digest()


class Lane:
    """Queue of accepted readings: its consumer, and the pending deliveries.

    `leaving`: no further deliveries are accepted.
    """

    def __init__(
        self, number: int, url: str, *, lanes: int, prefetch: int, on_delivery: Callable[[], None]
    ) -> None:
        self.number = number
        self.consumer = LeanConsumer(
            url,
            topology.lane_queue(number),
            prefetch=prefetch,
            on_message=self._take,
            service=SERVICE,
            declare=partial(topology.declare_lanes, lanes=lanes),
        )
        self.leaving = False
        self._held: list[Delivery] = []
        self._on_delivery = on_delivery
        self._running = asyncio.create_task(self.consumer.run(), name=f"lane {number}")

    @property
    def held(self) -> Sequence[Delivery]:
        """Return the pending deliveries, oldest first."""
        return self._held

    def take(self, wanted: Callable[[Delivery], bool], max_bytes: int) -> list[Delivery]:
        """Remove and return the wanted deliveries, oldest first, up to about `max_bytes`."""
        taken: list[Delivery] = []
        left: list[Delivery] = []
        size = 0
        for delivery in self._held:
            if size < max_bytes and wanted(delivery):
                taken.append(delivery)
                size += len(delivery.body)
            else:
                left.append(delivery)
        self._held = left
        return taken

    def drop(self) -> None:
        """Drop pending deliveries, which were requeued."""
        self._held.clear()

    def check(self) -> None:
        """Raise the error that ended the consumer, if any."""
        if self._running.done() and not self.leaving:
            self._running.result()

    async def close(self) -> None:
        """Release the lane: unacknowledged deliveries are requeued for the next consumer."""
        self.leaving = True
        self._held.clear()
        await self.consumer.stop()
        await asyncio.wait([self._running], timeout=5)
        self._running.cancel()

    def abandon(self) -> None:
        """Stop at once, without closing the channel."""
        self.leaving = True
        self._running.cancel()

    def _take(self, delivery: Delivery) -> None:
        if self.leaving:
            return
        if self._held and self._held[0].generation != delivery.generation:
            self._held.clear()  # deliveries of an old channel are redelivered
        self._held.append(delivery)
        self._on_delivery()


@dataclass(slots=True)
class Claim:
    """Partition claimed by this worker, delivered on `lane`.

    `epoch`: epoch of the claim; None once another worker has it. `generation`: opening of the lane's channel
    for which the claim is valid, None while states are restored. `saved_at_s`: when the pumps' states were
    last saved (monotonic clock).
    """

    partition: int
    lane: Lane
    epoch: int | None
    generation: int | None = None
    saved_at_s: float = field(default_factory=time.monotonic)

    def came_on_another(self, lane: Lane) -> bool:
        """Return whether its readings came on another lane, which may still hold some of them."""
        return self.generation not in (None, NO_GENERATION) and self.lane.number != lane.number

    def holds(self, lane: Lane, generation: int) -> bool:
        """Return whether deliveries of that opening of the lane's channel may be evaluated."""
        return self.epoch is not None and self.lane is lane and self.generation == generation


def partitions_of(delivery: Delivery) -> frozenset[int]:
    """Return the partitions of a delivery; raise InvalidInput if its header is missing or unknown.

    Several: the batch was published when there were fewer partitions.
    """
    try:
        return topology.partitions_of(int(delivery.headers[topology.PARTITION_HEADER]))
    except (KeyError, TypeError, ValueError):
        raise InvalidInput(f"an accepted batch lacks a valid header {topology.PARTITION_HEADER}") from None


class Membership:
    """Send heartbeats of a worker, and determine its share of the lanes.

    During a database outage the share stays, since no other worker can change it either.
    """

    def __init__(self, ownership: Ownership, worker_id: str, ttl_s: float, lanes: int) -> None:
        self.worker_id = worker_id
        self._ownership = ownership
        self._ttl_s = ttl_s
        self._lanes = lanes
        self._share: frozenset[int] | None = None
        self._left = False
        # A pending heartbeat must not follow the goodbye, or the others would believe the worker alive.
        self._turn = asyncio.Lock()

    async def share(self) -> frozenset[int]:
        """Send a heartbeat, unless the worker has left, and return its present share."""
        async with self._turn:
            return (self._share or frozenset()) if self._left else await self._beat()

    async def _beat(self) -> frozenset[int]:
        try:
            if await self._older_live():
                return frozenset()
            workers = await self._ownership.beat(self.worker_id, self._ttl_s)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("worker.heartbeat-missed", reason=str(error) or type(error).__name__)
            return self._share or frozenset()
        share = fair_share(workers, self.worker_id, self._lanes)
        if share != self._share:
            log.info("worker.share", lanes=sorted(share), workers=len(workers))
        self._share = share
        _LIVE.set(len(workers))
        _HELD.set(len(share))
        return share

    async def _older_live(self) -> bool:
        """Return whether workers of an earlier version live, which divide pumps into fewer partitions.

        Both would evaluate the same pumps, so this worker takes no share until they have ended. Then it moves
        what they stored to the present partitions.
        """
        if self._share is not None:
            return False
        if await self._ownership.older_live(self._ttl_s):
            log.info("worker.waiting", reason="workers of an earlier version are running")
            return True
        await self._ownership.retire_older()
        return False

    async def leave(self) -> None:
        """Unregister the worker, so that the others need not wait for its timeout."""
        async with self._turn:
            self._left = True
            try:
                await self._ownership.leave(self.worker_id)
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("worker.leave-missed", reason=str(error) or type(error).__name__)


def pumps_of(partitions: Collection[int], pump_ids: Iterable[str]) -> list[str]:
    """Return the pumps that belong to one of `partitions`."""
    return [pump_id for pump_id in pump_ids if topology.partition(pump_id) in partitions]
