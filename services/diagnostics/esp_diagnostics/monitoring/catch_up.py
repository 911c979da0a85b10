"""Evaluate backlogs beside live readings without delaying them.

A pump with a backlog is evaluated twice for a while: its newest readings by the live monitor, the earlier
ones by a second monitor, which starts from the pump's state at the beginning of the backlog and reads from
the store. Pumps take turns, and the live monitor has its turn after every few readings. When the backlog has
caught up, its state replaces the live one. A backlog is stored before the messages that caused it are
acknowledged.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import structlog
from esp_common import topology
from esp_common.contracts.readings import Readings
from esp_common.database import Pool, is_outage
from prometheus_client import Counter, Gauge

from esp_diagnostics.common.times import as_time, as_us
from esp_diagnostics.monitoring.backlog import (
    EARLIER_LEAST_US,
    MAX_LIVE_READINGS,
    Backlog,
    Backlogs,
    chunks,
    first_times,
)
from esp_diagnostics.monitoring.effects import Effects
from esp_diagnostics.monitoring.initial_state import read_pasts, read_pasts_at
from esp_diagnostics.monitoring.partitions import Claim
from esp_diagnostics.monitoring.pump_monitor import PumpMonitor
from esp_diagnostics.monitoring.store import backlogs as stored
from esp_diagnostics.monitoring.store import states
from esp_diagnostics.monitoring.store.backlogs import Note, Saved
from esp_diagnostics.monitoring.store.replay import Batch, Replay, Window
from esp_diagnostics.monitoring.store.states import Snapshot
from esp_diagnostics.pumps.store import KnownPump

log = structlog.get_logger()

TURN_PUMPS: Final = 60
"""Pumps whose backlogs are evaluated together: 60 take 1.5 times as long as 20 (57 and 84 ms a chunk)."""

TURN_READINGS: Final = 300
"""Maximum readings of a pump read from the store at a time."""

LOOK_S: Final = 0.5
"""Interval of checks for finished backlogs."""

_PUMPS: Final = Gauge("esp_diagnostics_backlog_pumps", "Pumps with a backlog.")
_SPAN_S: Final = Gauge(
    "esp_diagnostics_backlog_span_seconds", "Longest span of pending readings of one pump."
)
_BEGUN: Final = Counter("esp_diagnostics_backlogs_total", "Backlogs started.")


@dataclass(frozen=True, slots=True)
class Access:
    """Operations of the worker. Only the holder of `turn` may use a monitor or write effects.

    `claims`: present partitions of the worker. `write`: write effects, fenced by claims; returns the messages
    to publish. `retry`: retry during a database outage.
    """

    turn: asyncio.Lock
    in_thread: Callable[..., Awaitable[Any]]
    retry: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
    write: Callable[[Effects, Sequence[Claim]], Awaitable[Sequence[Mapping[str, Any]]]]
    publish: Callable[[Sequence[Mapping[str, Any]]], Awaitable[None]]
    pumps: Callable[[], Mapping[str, KnownPump]]
    claims: Callable[[], Mapping[int, Claim]]
    worker_id: str


class Chunk(NamedTuple):
    """A few readings of each pump, evaluated together; `ending`: pumps whose last readings they contain."""

    batch: Batch
    ending: frozenset[str]

    def without(self, pump_ids: Sequence[str]) -> "Chunk":
        """Return the chunk without the readings of these pumps."""
        if not pump_ids:
            return self
        kept = ~np.isin(self.batch.readings.pump_id, pump_ids)
        return Chunk(self.batch.take(kept), self.ending.difference(pump_ids))


class CatchUp:
    """Evaluate the backlogs of pumps, and hand their states over to the live monitor.

    Callers of public methods, except `run` and `load`, hold the worker's turn.
    """

    def __init__(
        self,
        access: Access,
        judge: PumpMonitor,
        pool: Pool,
        *,
        settle_s: float,
        longest_s: float,
        earlier_s: float,
    ) -> None:
        self.backlogs = Backlogs(settle_s)
        self._access = access
        self._judge = judge
        self._past = PumpMonitor(judge.rulebook)
        self._pool = pool
        self._replay = Replay(pool)
        self._longest = timedelta(seconds=longest_s)
        self._earlier_us = int(earlier_s * 1e6)
        self._due = asyncio.Event()
        self._unrecorded: dict[str, int] = {}
        """By pump, the time (µs) up to which it is evaluated beyond what is stored."""

    async def run(self) -> None:
        """Evaluate backlogs until cancelled."""
        while True:
            claims = self._access.claims()
            served = self.backlogs.due(claims.keys(), TURN_PUMPS)
            if served:
                await self._serve(served)
            if over := self.backlogs.settled(claims.keys(), time.monotonic())[:TURN_PUMPS]:
                await self._hand_over(over)
            self._show_size()
            if not served:
                self._due.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._due.wait()

    def earlier(self, readings: Readings, now_us: int) -> dict[str, int]:
        """Return, by pump, the first reading (µs) that precedes everything evaluated and forms a backlog.

        Earlier readings do so while the pump's history is being evaluated, and for a while after its first
        live reading.
        """
        found: dict[str, int] = {}
        for pump_id, first_us in first_times(readings).items():
            backlog = self.backlogs.get(pump_id)
            began_us = self._judge.began_us(pump_id)
            if backlog is not None and backlog.since_us is not None:
                began_us = backlog.since_us
            elif began_us is None or now_us - began_us > self._earlier_us:
                continue
            if first_us < began_us - EARLIER_LEAST_US:
                found[pump_id] = first_us
        return found

    def until_us(self, pump_id: str) -> int:
        """Return the end (µs) of a pump's backlog; 0: none."""
        backlog = self.backlogs.get(pump_id)
        return 0 if backlog is None else backlog.until_us

    async def set_aside(self, past: Mapping[str, tuple[int, int]], anew: Collection[str] = ()) -> list[Note]:
        """Add readings of pumps between two times (µs) to backlogs; return the notes to store.

        `anew`: pumps that are evaluated again from there on, without a state.
        """
        await self.forget(anew)
        new = [pump_id for pump_id in past if pump_id not in self.backlogs and pump_id not in anew]
        bodies = await self._access.in_thread(self._judge.snapshots, new) if new else {}
        for pump_id in new:
            after_us, body = past[pump_id][0], bodies[pump_id][0] if pump_id in bodies else None
            self._begin(pump_id, after_us, body)
        for pump_id in anew:
            self._begin(pump_id, past[pump_id][0], None)
        now_s = time.monotonic()
        backlogs = [self.backlogs.extend(pump_id, *span, now_s) for pump_id, span in past.items()]
        self._due.set()
        return [
            Note(
                each.pump_id,
                each.partition,
                as_time(each.judged_us),
                as_time(each.until_us),
                each.body if each.pump_id in bodies else None,
                each.pump_id in anew,
            )
            for each in backlogs
        ]

    def _begin(self, pump_id: str, after_us: int, body: bytes | None) -> None:
        log.info("backlog.began", pump_id=pump_id, since=as_time(after_us).isoformat())
        _BEGUN.inc()
        partition = topology.partition(pump_id)
        since_us = after_us if body is None else None
        self.backlogs.add(
            Backlog(pump_id, partition, after_us, after_us, body, recorded_us=after_us, since_us=since_us)
        )

    async def load(self, partition: int, now_us: int) -> None:
        """Load the stored backlogs of a partition, extended up to now."""

        async def read() -> list[stored.Pending]:
            async with self._pool.acquire() as connection:
                return await stored.of_partition(connection, partition)

        for pending in await self._access.retry(read):
            self.backlogs.add(
                Backlog(
                    pending.pump_id,
                    partition,
                    as_us(pending.body_through),
                    max(as_us(pending.until), now_us),
                    pending.body,
                    noted_at_s=time.monotonic(),
                    recorded_us=as_us(pending.judged),
                    since_us=as_us(pending.judged) if pending.body is None else None,
                )
            )
        self._due.set()

    async def forget(self, pump_ids: Collection[str]) -> None:
        """Drop pumps that moved to another worker or were removed."""
        self.backlogs.forget(pump_ids)
        for pump_id in pump_ids:
            self._unrecorded.pop(pump_id, None)
        if known := self._past.pump_ids.intersection(pump_ids):
            await self._access.in_thread(self._past.dismiss, known)

    async def update(self) -> Effects:
        """Apply changed pumps and rules, as the live monitor does; return the effects of the change."""
        pumps = self._access.pumps()
        self.backlogs.forget([pump_id for pump_id in self.backlogs.pump_ids if pump_id not in pumps])
        effects: Effects = await self._access.in_thread(self._past.update, pumps, self._judge.rulebook)
        return effects

    async def set_model(self, pump_id: str, body: bytes) -> None:
        """Evaluate the backlog of a pump with its new model."""
        if pump_id in self._past.pump_ids:
            await self._access.in_thread(self._past.set_model, pump_id, body)

    async def states(self, partition: int) -> list[Saved]:
        """Return the states of a partition's backlogs."""
        begun = [each.pump_id for each in self.backlogs.of_partition(partition) if each.begun]
        bodies = await self._access.in_thread(self._past.snapshots, begun) if begun else {}
        return [Saved(pump_id, body, as_time(through_us)) for pump_id, (body, through_us) in bodies.items()]

    async def overdue(self, now_s: float) -> Effects:
        """Return the pending statuses of backlogs that are due."""
        effects: Effects = await self._access.in_thread(self._past.overdue, now_s)
        return effects

    async def _serve(self, backlogs: Sequence[Backlog]) -> None:
        """Evaluate the next readings of some pumps, a few at a time."""
        await self._begin_judging([backlog for backlog in backlogs if not backlog.begun])
        ends = {each.pump_id: min(each.judged_us + each.span_us, each.until_us) for each in backlogs}
        windows = [
            Window(each.pump_id, as_time(each.judged_us), as_time(ends[each.pump_id])) for each in backlogs
        ]
        batch = await self._access.retry(partial(self._replay.windows, windows, TURN_READINGS))
        times = batch.readings.time_us
        for chunk in chunks_of(batch):
            async with self._access.turn:
                # The pump may have restarted or moved to another worker meanwhile.
                gone = [each.pump_id for each in backlogs if self.backlogs.get(each.pump_id) is not each]
                await self._judge_chunk(chunk.without(gone))
        async with self._access.turn:
            await self._record(Effects())
        for each in backlogs:
            mine = times[batch.readings.pump_id == each.pump_id]
            each.advance(ends[each.pump_id], int(mine[-1]) if len(mine) else None, len(mine), TURN_READINGS)
            each.served_at_s = time.monotonic()

    async def _begin_judging(self, backlogs: Sequence[Backlog]) -> None:
        """Start to monitor pumps from their records at the beginning of their backlogs."""
        if not backlogs:
            return
        async with self._access.turn:
            there = self._access.pumps()
            mine = [each for each in backlogs if each.pump_id in self.backlogs and each.pump_id in there]
            times = {each.pump_id: as_time(each.recorded_us) for each in mine}
            pasts = await self._access.retry(partial(read_pasts_at, self._pool, times))
            for each in mine:
                pasts[each.pump_id] = replace(
                    pasts[each.pump_id], snapshot=each.body, through_us=each.judged_us if each.body else 0
                )
            await self._access.in_thread(
                self._past.admit, {each.pump_id: there[each.pump_id] for each in mine}, pasts
            )
            for each in mine:
                each.begun = True

    async def _judge_chunk(self, chunk: Chunk) -> None:
        """Evaluate some readings of backlogs and write the effects; the caller holds the turn."""
        readings = chunk.batch.readings
        judged: dict[str, int] = {}
        for pump_id, time_us in zip(readings.pump_id.tolist(), readings.time_us.tolist(), strict=True):
            judged[pump_id] = max(judged.get(pump_id, 0), time_us)
        mine = {pump_id: time_us for pump_id, time_us in judged.items() if self._claim_of(pump_id)}
        try:
            effects = await self._access.in_thread(
                self._past.judge, chunk.batch, time.monotonic(), replaying=True, shown=chunk.ending
            )
            self._unrecorded |= mine
            effects = effects.of_pumps(mine.keys())
            if effects.durable:
                await self._record(effects)
        except Exception as error:
            if is_outage(error):
                raise
            # Readings that fail now would have failed when they arrived.
            log.exception("backlog.failed", readings=len(readings))

    async def _record(self, effects: Effects) -> None:
        """Write effects and the progress of backlogs; the caller holds the turn.

        Most readings have no effects, and a transaction per chunk would take longer than its evaluation.
        """
        judged, self._unrecorded = self._unrecorded, {}
        effects.caught_up += [(pump_id, as_time(time_us)) for pump_id, time_us in judged.items()]
        claims = {
            claim.partition: claim for pump_id in effects.pump_ids if (claim := self._claim_of(pump_id))
        }
        await self._access.publish(await self._access.write(effects, list(claims.values())))

    def _claim_of(self, pump_id: str) -> Claim | None:
        """Return the claim for writing a pump's backlog, if the worker has it."""
        backlog = self.backlogs.get(pump_id)
        return None if backlog is None else self._access.claims().get(backlog.partition)

    async def _hand_over(self, backlogs: Sequence[Backlog]) -> None:
        """Evaluate what the live monitor received meanwhile, and give it the resulting states."""
        async with self._access.turn:
            claims = self._access.claims()
            mine = [
                each
                for each in backlogs
                if self.backlogs.get(each.pump_id) is each and each.partition in claims
            ]
            await self._meet([each for each in mine if each.begun])
            ready = {each.pump_id: each for each in mine if not each.pending}
            effects = await self._access.in_thread(self._past.show, ready.keys(), time.monotonic())
            await self._access.write(effects, [claims[number] for number in _partitions(ready.values())])
            bodies = await self._access.in_thread(self._past.snapshots, ready.keys())
            there = self._access.pumps()
            new = {pump_id: there[pump_id] for pump_id in bodies if pump_id in there}
            since = datetime.now(UTC) - self._longest
            pasts = await self._access.retry(partial(read_pasts, self._pool, list(new), since))
            for pump_id, past in pasts.items():
                body, through_us = bodies[pump_id]
                pasts[pump_id] = replace(past, snapshot=body, through_us=through_us)
            await self._access.in_thread(self._judge.restart, new, pasts)
            await self._access.retry(partial(self._store_handed_over, ready, bodies))
            await self.forget(ready.keys())
        if ready:
            log.info("backlog.judged", pumps=len(ready), example=min(ready))

    async def _meet(self, backlogs: Sequence[Backlog]) -> None:
        """Evaluate the live readings since the end of the backlogs; backlogs with too many continue.

        This takes one turn, during which the live readings of all pumps wait.
        """
        live = {each.pump_id: self._judge.through_us(each.pump_id) or 0 for each in backlogs}
        behind = [each for each in backlogs if live[each.pump_id] > each.judged_us]
        if not behind:
            return
        windows = [
            Window(each.pump_id, as_time(each.judged_us), as_time(live[each.pump_id])) for each in behind
        ]
        batch = await self._access.retry(partial(self._replay.windows, windows, MAX_LIVE_READINGS))
        for each in behind:
            rows = batch.readings.pump_id == each.pump_id
            if not each.meet(live[each.pump_id], int(rows.sum())):
                batch = batch.take(~rows)
        for chunk in chunks_of(batch):
            await self._judge_chunk(chunk)

    async def _store_handed_over(
        self, ready: Mapping[str, Backlog], bodies: Mapping[str, tuple[bytes, int]]
    ) -> None:
        """Store the states handed to the live monitor, and delete the backlogs."""
        claims = self._access.claims()
        epochs = {
            number: claims[number].epoch or 0 for number in _partitions(ready.values()) if number in claims
        }
        async with self._pool.acquire() as connection, connection.transaction():
            kept = await states.fence(connection, self._access.worker_id, epochs)
            mine = [pump_id for pump_id, backlog in ready.items() if backlog.partition in kept]
            snapshots = [
                Snapshot(pump_id, ready[pump_id].partition, bodies[pump_id][0], as_time(bodies[pump_id][1]))
                for pump_id in mine
                if pump_id in bodies
            ]
            await states.save_snapshots(connection, snapshots)
            await stored.done(connection, mine)

    def _show_size(self) -> None:
        _PUMPS.set(len(self.backlogs))
        _SPAN_S.set(self.backlogs.longest_us() / 1e6)


def chunks_of(batch: Batch) -> Iterator[Chunk]:
    """Split readings into chunks with a few readings of each pump."""
    pump_ids = batch.readings.pump_id
    numbers = chunks(pump_ids, batch.readings.time_us)
    last: dict[str, int] = {}
    for pump_id, number in zip(pump_ids.tolist(), numbers.tolist(), strict=True):
        last[pump_id] = max(last.get(pump_id, 0), number)
    for number in range(int(numbers.max(initial=-1)) + 1):
        ending = frozenset(pump_id for pump_id, at in last.items() if at == number)
        yield Chunk(batch.take(numbers == number), ending)


def _partitions(backlogs: Iterable[Backlog]) -> set[int]:
    return {backlog.partition for backlog in backlogs}
