"""Partitions of the accepted readings: who reads which, and what one worker holds of one.

Each worker says every few seconds that it lives, and takes its fair share of the partitions. The broker gives
a partition's readings to one consumer at a time, so a partition moves when the worker that had it lets go of
it, after it has saved what it knew. An epoch in the database keeps a worker that was cut off from writing.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from hashlib import blake2b
from typing import Final

import structlog
from esp_common import topology
from esp_common.database import is_outage
from esp_common.messaging import Delivery, LeanConsumer
from prometheus_client import Gauge

from esp_diagnostics.settings import SERVICE
from esp_diagnostics.store.states import Ownership

log = structlog.get_logger()

ALL: Final = range(topology.PARTITIONS)

_HELD: Final = Gauge("esp_diagnostics_partitions", "Partitions that this worker reads.")
_LIVE: Final = Gauge("esp_diagnostics_workers", "Workers that live, as this one sees it.")


def fair_share(workers: Collection[str], me: str) -> frozenset[int]:
    """Return the partitions that are `me`'s among `workers`.

    Every worker that sees the same workers comes to the same answer; nobody has more than one above another;
    few partitions move when a worker comes or goes (highest random weight, with a ceiling).
    """
    everybody = sorted({*workers, me})
    most, with_most = -(-len(ALL) // len(everybody)), len(ALL) % len(everybody) or len(everybody)
    room = dict.fromkeys(everybody, most)
    mine = set()
    for partition in ALL:
        full = sum(1 for left in room.values() if left == 0)
        # Once as many as may have the most do, the others must do with one less.
        least = 1 if full >= with_most and most > 1 else 0
        able = [worker for worker in everybody if room[worker] > least]
        owner = max(able, key=partial(_weight, partition))
        room[owner] -= 1
        if owner == me:
            mine.add(partition)
    return frozenset(mine)


def _weight(partition: int, worker: str) -> bytes:
    return blake2b(f"{worker} {partition}".encode(), digest_size=8).digest()


class Partition:
    """One partition as a worker reads it: its consumer, and what has come and is not judged yet.

    `epoch`: under which it was claimed, None before. `generation`: opening of the channel since which the
    claim is known to hold. `leaving`: no more is taken. `saved_at_s`: when its pumps' states were saved last.
    """

    def __init__(self, number: int, url: str, *, prefetch: int, on_delivery: Callable[[], None]) -> None:
        self.number = number
        self.consumer = LeanConsumer(
            url, topology.partition_queue(number), prefetch=prefetch, on_message=self._take, service=SERVICE
        )
        self.epoch: int | None = None
        self.generation: int | None = None
        self.leaving = False
        self.saved_at_s = time.monotonic()
        self._held: list[Delivery] = []
        self._on_delivery = on_delivery
        self._running = asyncio.create_task(self.consumer.run(), name=f"partition {number}")

    @property
    def waiting(self) -> bool:
        """Whether readings have come that are not judged yet."""
        return bool(self._held)

    @property
    def ready(self) -> bool:
        """Whether the claim holds for what has come."""
        return self.epoch is not None and self.generation == self.latest_generation

    @property
    def latest_generation(self) -> int | None:
        """The opening of the channel that the newest delivery came on."""
        return self._held[-1].generation if self._held else self.generation

    def take(self, most_bytes: int) -> list[Delivery]:
        """Return what has come, the oldest first, up to about `most_bytes`; what an old channel brought comes
        again and is left out."""
        taken: list[Delivery] = []
        size = 0
        while self._held and size < most_bytes:
            delivery = self._held.pop(0)
            if delivery.generation == self.generation:
                taken.append(delivery)
                size += len(delivery.body)
        return taken

    def drop(self) -> None:
        """Forget what has come: it went back to the queue."""
        self._held.clear()

    async def close(self) -> None:
        """Let go of the partition: what is not acknowledged goes back, and the next consumer has it."""
        self.leaving = True
        self._held.clear()
        await self.consumer.stop()
        await asyncio.wait([self._running], timeout=5)
        self._running.cancel()

    def _take(self, delivery: Delivery) -> None:
        if not self.leaving:
            self._held.append(delivery)
            self._on_delivery()

    def check(self) -> None:
        """Raise what the consumer died of, if it did."""
        if self._running.done() and not self.leaving:
            self._running.result()


class Membership:
    """Says that a worker lives, and hears which partitions are its share.

    Without the database the share stays as it was: nobody else can hear anything either.
    """

    def __init__(self, ownership: Ownership, worker_id: str, ttl_s: float) -> None:
        self.worker_id = worker_id
        self._ownership = ownership
        self._ttl_s = ttl_s
        self._share: frozenset[int] | None = None

    async def share(self) -> frozenset[int]:
        """Say that the worker lives, and return its share by now."""
        try:
            workers = await self._ownership.beat(self.worker_id, self._ttl_s)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("worker.heartbeat-missed", reason=str(error) or type(error).__name__)
            return self._share or frozenset()
        share = fair_share(workers, self.worker_id)
        if share != self._share:
            log.info("worker.share", partitions=sorted(share), workers=len(workers))
        self._share = share
        _LIVE.set(len(workers))
        _HELD.set(len(share))
        return share

    async def leave(self) -> None:
        """Say that the worker ends, so that the others need not wait until it is missed."""
        try:
            await self._ownership.leave(self.worker_id)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("worker.leave-missed", reason=str(error) or type(error).__name__)


def pumps_of(partitions: Collection[int], pump_ids: Iterable[str]) -> list[str]:
    """Return those of the pumps whose readings come on one of `partitions`."""
    return [pump_id for pump_id in pump_ids if topology.partition(pump_id) in partitions]
