"""Who judges which pumps: lanes, which are queues, and the partitions whose readings come on them.

Each worker says every few seconds that it lives, and reads its fair share of the lanes. The broker gives a
lane's messages to one consumer at a time, so a lane moves when the worker that had it lets go of it, after it
has saved what it knew. Which partitions come on a lane is up to the exchange, which hashes: a worker claims a
partition when its first readings come. The claim's epoch keeps a worker that was cut off from writing.
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

ALL: Final = range(topology.PARTITIONS)

_HELD: Final = Gauge("esp_diagnostics_lanes", "Queues of accepted readings that this worker reads.")
_LIVE: Final = Gauge("esp_diagnostics_workers", "Workers that live, as this one sees it.")


def fair_share(workers: Collection[str], me: str) -> frozenset[int]:
    """Return the lanes that are `me`'s among `workers`.

    Every worker that sees the same workers comes to the same answer; nobody has more than one above another;
    few lanes move when a worker comes or goes (highest random weight, with a ceiling).
    """
    everybody = sorted({*workers, me})
    most, with_most = -(-len(ALL) // len(everybody)), len(ALL) % len(everybody) or len(everybody)
    room = dict.fromkeys(everybody, most)
    mine = set()
    for lane in ALL:
        full = sum(1 for left in room.values() if left == 0)
        # Once as many as may have the most do, the others must do with one less.
        least = 1 if full >= with_most and most > 1 else 0
        able = [worker for worker in everybody if room[worker] > least]
        owner = max(able, key=partial(_weight, lane))
        room[owner] -= 1
        if owner == me:
            mine.add(lane)
    return frozenset(mine)


def _weight(lane: int, worker: str) -> bytes:
    return blake2b(f"{worker} {lane}".encode(), digest_size=8).digest()


class Lane:
    """One queue of accepted readings as a worker reads it: its consumer, and what has come and waits.

    `leaving`: no more is taken.
    """

    def __init__(self, number: int, url: str, *, prefetch: int, on_delivery: Callable[[], None]) -> None:
        self.number = number
        self.consumer = LeanConsumer(
            url, topology.partition_queue(number), prefetch=prefetch, on_message=self._take, service=SERVICE
        )
        self.leaving = False
        self._held: list[Delivery] = []
        self._on_delivery = on_delivery
        self._running = asyncio.create_task(self.consumer.run(), name=f"lane {number}")

    @property
    def held(self) -> Sequence[Delivery]:
        """What has come and is not taken yet, the oldest first."""
        return self._held

    def take(self, wanted: Callable[[Delivery], bool], most_bytes: int) -> list[Delivery]:
        """Return what has come and is wanted, the oldest first, up to about `most_bytes`."""
        taken: list[Delivery] = []
        left: list[Delivery] = []
        size = 0
        for delivery in self._held:
            if size < most_bytes and wanted(delivery):
                taken.append(delivery)
                size += len(delivery.body)
            else:
                left.append(delivery)
        self._held = left
        return taken

    def drop(self) -> None:
        """Forget what has come: it went back to the queue."""
        self._held.clear()

    def check(self) -> None:
        """Raise what the consumer died of, if it did."""
        if self._running.done() and not self.leaving:
            self._running.result()

    async def close(self) -> None:
        """Let go of the lane: what is not acknowledged goes back, and the next consumer has it."""
        self.leaving = True
        self._held.clear()
        await self.consumer.stop()
        await asyncio.wait([self._running], timeout=5)
        self._running.cancel()

    def abandon(self) -> None:
        """Stop at once; the broker sees the connection go."""
        self.leaving = True
        self._running.cancel()

    def _take(self, delivery: Delivery) -> None:
        if self.leaving:
            return
        if self._held and self._held[0].generation != delivery.generation:
            self._held.clear()  # what an old channel brought comes again
        self._held.append(delivery)
        self._on_delivery()


@dataclass(slots=True)
class Claim:
    """A partition that is this worker's, since its readings come on `lane`.

    `epoch`: under which it was claimed; None once it is known to be another's. `generation`: opening of the
    lane's channel for which the claim is known to hold, None while states are taken over. `saved_at_s`: when
    its pumps' states were saved last, by a clock that never goes back.
    """

    partition: int
    lane: Lane
    epoch: int | None
    generation: int | None = None
    saved_at_s: float = field(default_factory=time.monotonic)

    def holds(self, lane: Lane, generation: int) -> bool:
        """Whether what came on that opening of the lane's channel may be judged."""
        return self.epoch is not None and self.lane is lane and self.generation == generation


def partition_of(delivery: Delivery) -> int:
    """Return the partition whose readings a delivery has; raise InvalidInput where it does not say."""
    try:
        return int(delivery.headers[topology.PARTITION_HEADER])
    except (KeyError, TypeError, ValueError):
        raise InvalidInput(f"an accepted batch without {topology.PARTITION_HEADER}") from None


class Membership:
    """Says that a worker lives, and hears which lanes are its share.

    Without the database the share stays as it was: nobody else can hear anything either.
    """

    def __init__(self, ownership: Ownership, worker_id: str, ttl_s: float) -> None:
        self.worker_id = worker_id
        self._ownership = ownership
        self._ttl_s = ttl_s
        self._share: frozenset[int] | None = None
        self._left = False
        # A heartbeat under way when the worker leaves would say after it that the worker lives.
        self._turn = asyncio.Lock()

    async def share(self) -> frozenset[int]:
        """Say that the worker lives, unless it has left, and return its share by now."""
        async with self._turn:
            return (self._share or frozenset()) if self._left else await self._beat()

    async def _beat(self) -> frozenset[int]:
        try:
            workers = await self._ownership.beat(self.worker_id, self._ttl_s)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("worker.heartbeat-missed", reason=str(error) or type(error).__name__)
            return self._share or frozenset()
        share = fair_share(workers, self.worker_id)
        if share != self._share:
            log.info("worker.share", lanes=sorted(share), workers=len(workers))
        self._share = share
        _LIVE.set(len(workers))
        _HELD.set(len(share))
        return share

    async def leave(self) -> None:
        """Say that the worker ends, so that the others need not wait until it is missed."""
        async with self._turn:
            self._left = True
            try:
                await self._ownership.leave(self.worker_id)
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("worker.leave-missed", reason=str(error) or type(error).__name__)


def pumps_of(partitions: Collection[int], pump_ids: Iterable[str]) -> list[str]:
    """Return those of the pumps that are of one of `partitions`."""
    return [pump_id for pump_id in pump_ids if topology.partition(pump_id) in partitions]
