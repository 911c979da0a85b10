"""Worker role: evaluate accepted readings; write states, findings, alerts, events and live messages.

Readings received on all lanes since the last round are evaluated together, written in one transaction, and
then acknowledged. Of a pump with more readings than a round evaluates, only the newest are evaluated; the
others are recorded as its backlog in the same transaction and evaluated from the store (`catch_up`). The
state of the monitor is in memory and saved periodically. A worker that starts from a saved state reads later
readings from the store, so nothing is lost with a worker, and findings that it detects again are not
announced again.
"""

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import token_hex
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import structlog
from esp_common import topology
from esp_common.contracts import arrow
from esp_common.database import Connection, Pool, is_outage
from esp_common.errors import InvalidInput
from esp_common.messaging import Delivery, EventListener, Publisher
from esp_common.messaging.consumer import redeclare
from esp_common.messaging.dead_letter import DeadLetterer
from esp_common.messaging.link import LOST
from esp_common.messaging.outages import OutageRetry
from esp_common.outbox import Relay
from esp_common.roles import until_first_ends
from prometheus_client import Counter as CounterMetric
from prometheus_client import Gauge, Histogram

from esp_diagnostics.alerts.rule_sets import load_rules as load_alert_rules
from esp_diagnostics.common.times import as_time, as_us
from esp_diagnostics.detection.tree import Rules, load_rules
from esp_diagnostics.live.broadcast import LivePublisher
from esp_diagnostics.monitoring.backlog import MAX_LIVE_READINGS, divide, first_times, live_span_us
from esp_diagnostics.monitoring.catch_up import Access, CatchUp, Chunk, chunks_of
from esp_diagnostics.monitoring.effects import STATUS_EVERY_S, Effects, record
from esp_diagnostics.monitoring.initial_state import read_pasts
from esp_diagnostics.monitoring.partitions import (
    NO_GENERATION,
    Claim,
    Lane,
    Membership,
    partitions_of,
    pumps_of,
)
from esp_diagnostics.monitoring.pump_monitor import PumpMonitor, Rulebook
from esp_diagnostics.monitoring.rules import shipped_text
from esp_diagnostics.monitoring.store import backlogs, states
from esp_diagnostics.monitoring.store.backlogs import Note
from esp_diagnostics.monitoring.store.replay import Batch, Replay, Window, join
from esp_diagnostics.monitoring.store.rules import RuleStore
from esp_diagnostics.monitoring.store.states import Ownership, Snapshot
from esp_diagnostics.monitoring.training import Trainer
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.pumps.store import KnownPump
from esp_diagnostics.pumps.store import load as load_pumps
from esp_diagnostics.settings import SERVICE, DiagnosticsSettings

log = structlog.get_logger()

GATHER_S: Final = 0.05
"""Time to collect deliveries: evaluating many pumps together costs little more than one."""

ROUND_BYTES: Final = 2 * 1024 * 1024
"""Approximate bytes taken from each lane per round."""

GAP_S: Final = 60.0
GAP_INTERVALS: Final = 3
UNKNOWN_INTERVAL_S: Final = 600.0
"""Silence, or number of intervals, after which readings of a pump may have been missed."""

CHANGES_S: Final = 0.5
"""Time to collect changes of pumps or rules, which often come several at a time."""


DRAIN_S: Final = 15.0
MAX_OUTAGE_WAIT_S: Final = 3.0

_LAG_S: Final = Histogram(
    "esp_diagnostics_lag_seconds",
    "Time from the acceptance of readings to the write of their effects.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_ROUND_S: Final = Histogram(
    "esp_diagnostics_round_seconds",
    "Time from taking readings to their acknowledgement.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
_MESSAGES: Final = CounterMetric("esp_diagnostics_messages_total", "Messages by outcome.", ["outcome"])
_GAPS: Final = CounterMetric(
    "esp_diagnostics_gaps_filled_total", "Missed readings that were read from the store."
)
_DATABASE_UP: Final = Gauge("esp_diagnostics_database_up", "0 during a database outage.")

CHANGES: Final = ("asset.*", "pump.*", "alert.rules-changed", "finding.rules-changed")
"""Events that change pumps or rules."""

T = TypeVar("T")


class Known(NamedTuple):
    """Registered pumps, and the rules in force."""

    pumps: Mapping[str, KnownPump]
    rulebook: Rulebook


class _Message(NamedTuple):
    """Delivery of a lane with its partitions and readings, or the error of decoding it."""

    lane: Lane
    partitions: frozenset[int]
    delivery: Delivery
    batch: Batch | None
    error: Exception | None


class Worker:
    """Evaluate the pumps whose readings arrive on this worker's share of the lanes."""

    def __init__(
        self,
        settings: DiagnosticsSettings,
        pool: Pool,
        publisher: Publisher,
        live: LivePublisher,
        nameplates: Nameplates,
        known: Known,
    ) -> None:
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{token_hex(3)}"
        self._settings = settings
        self._pool = pool
        self._dead_letters = DeadLetterer(publisher, topology.DIAGNOSTICS_TELEMETRY)
        self._outage = OutageRetry(
            _DATABASE_UP,
            pause_s=settings.outage_pause_s,
            on_long_outage=self._requeue_all,
            on_recovery=self._resume_lanes,
            max_wait_s=MAX_OUTAGE_WAIT_S,
        )
        self._live = live
        self._nameplates = nameplates
        self._copied_at_s = time.monotonic()
        self._known = known
        self._mark = ""
        self._ownership = Ownership(pool)
        self._membership = Membership(
            self._ownership, self.worker_id, settings.worker_missing_s, settings.lanes
        )
        self._replay = Replay(pool)
        self._judge = PumpMonitor(known.rulebook)
        self.trainer = Trainer(pool, settings, lambda: self._judge.rulebook.tree.text)
        self._lanes: dict[int, Lane] = {}
        self._claims: dict[int, Claim] = {}
        self._admissions: dict[int, asyncio.Task[None]] = {}
        self._refusals: set[asyncio.Task[None]] = set()
        self._admitting: frozenset[str] = frozenset()
        self._shared = False
        self._unknown_at_s = float("-inf")
        self._due = asyncio.Event()
        self._stale = asyncio.Event()
        # The holder of the turn uses the monitor and writes the effects before the next one does, so that a
        # saved state never contains a finding that is not written.
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "judge")
        access = Access(
            turn=self._turn,
            in_thread=self._in_thread,
            retry=self._outage.run,
            write=self._write,
            publish=live.publish,
            pumps=lambda: self._known.pumps,
            claims=lambda: {n: claim for n, claim in self._claims.items() if self._settled(claim)},
            worker_id=self.worker_id,
        )
        self._catch_up = CatchUp(
            access,
            self._judge,
            pool,
            settle_s=settings.backlog_settle_s,
            longest_s=settings.replay_longest_s,
            earlier_s=settings.earlier_history_s,
        )
        self._paused: list[Lane] = []

    @property
    def lanes(self) -> frozenset[int]:
        """Return the lanes that the worker reads or waits to read."""
        return frozenset(self._lanes)

    @property
    def alive(self) -> bool:
        """Return whether the share is known and each lane has a consumer, registered or paused on purpose."""
        consumers = [lane.consumer for lane in self._lanes.values()]
        return self._shared and all(consumer.alive or consumer.paused for consumer in consumers)

    @property
    def stalled(self) -> bool:
        """Return whether the worker waits for the database."""
        return self._outage.active

    def note_change(self) -> None:
        """Request a reload of pumps and rules."""
        self._stale.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish pending work, save states, and release the lanes.

        Raise the error that ended one of its tasks.
        """
        try:
            await until_first_ends(
                self._work(),
                self._share(),
                self._write_pending_statuses(),
                self._save_periodically(),
                self._reload_periodically(),
                self._catch_up.run(),
                self._adopt_periodically(),
                self.trainer.run(self._owned_pumps, self._take_model),
                stop.wait(),
                finish=self._finish,
            )
        finally:
            for lane in self._lanes.values():
                lane.abandon()
            for task in (*self._admissions.values(), *self._refusals):
                task.cancel()
            self._thread.shutdown(wait=False)

    async def _finish(self) -> None:
        """Save states and release the lanes within a time limit; others rebuild unsaved states."""
        lanes = list(self._lanes.values())
        for lane in lanes:
            lane.leaving = True
        try:
            async with asyncio.timeout(DRAIN_S):
                for claim in list(self._claims.values()):
                    await self._save(claim)
        except TimeoutError:
            log.warning("worker.unsaved", effect="the next worker reads more from the store")
        await asyncio.gather(*(lane.close() for lane in lanes))
        await self._membership.leave()

    async def _share(self) -> None:
        """Take and release lanes according to this worker's share."""
        while True:
            share = await self._membership.share()
            if share != self.lanes:
                await self._arrange_lanes()
            for number in self._lanes.keys() - share:
                await self._give_up(self._lanes[number])
            for number in share - self._lanes.keys():
                self._lanes[number] = Lane(
                    number,
                    self._settings.amqp_url,
                    lanes=self._settings.lanes,
                    prefetch=self._settings.lane_prefetch,
                    on_delivery=self._due.set,
                )
            self._shared = True
            await asyncio.sleep(self._settings.worker_heartbeat_s)

    async def _arrange_lanes(self) -> None:
        """Declare the lanes of the setting, and remove others, left by workers with another setting."""
        arrange = partial(topology.declare_lanes, lanes=self._settings.lanes)
        try:
            await redeclare(self._settings.amqp_url, SERVICE, arrange)
        except LOST as error:
            # Each lane does so too when it connects.
            log.warning("lanes.undeclared", reason=str(error) or type(error).__name__)

    async def _adopt_periodically(self) -> None:
        """Adopt orphaned backlogs; separate from `_share`, which must not wait for a table."""
        while True:
            await asyncio.sleep(self._settings.worker_heartbeat_s)
            await self._adopt()

    async def _adopt(self) -> None:
        """Claim the partitions of backlogs without a live worker, which may receive no more readings.

        Their lane shows with their next reading; if it belongs to another worker, that worker claims them.
        """
        lane = next((lane for lane in self._lanes.values() if not lane.leaving), None)
        if lane is None:
            return
        waiting = self._ownership.waiting
        partitions = await self._outage.run(lambda: waiting(self.worker_id, self._settings.worker_missing_s))
        for partition in partitions - self._claims.keys():
            self._begin_once(partition, lane, NO_GENERATION)

    async def _give_up(self, lane: Lane) -> None:
        """Save the states of a lane's pumps, then release the lane."""
        lane.leaving = True
        for claim in [claim for claim in self._claims.values() if claim.lane is lane]:
            await self._save(claim)
            await self._forget(claim)
            self._claims.pop(claim.partition, None)
        del self._lanes[lane.number]
        await lane.close()
        log.info("lane.given-up", lane=lane.number)

    async def _forget(self, claim: Claim) -> None:
        claim.epoch = None
        async with self._turn:
            await self._dismiss(claim)

    async def _dismiss(self, claim: Claim) -> None:
        """Stop monitoring the pumps of a partition; the caller holds the turn."""
        await self._in_thread(self._judge.dismiss, self._pumps_of(claim))
        backlogs = self._catch_up.backlogs.of_partition(claim.partition)
        await self._catch_up.forget([backlog.pump_id for backlog in backlogs])

    def _pumps_of(self, claim: Claim) -> list[str]:
        return pumps_of({claim.partition}, self._judge.pump_ids)

    def _owned_pumps(self) -> list[str]:
        """Return the pumps that this worker evaluates now."""
        mine = {claim.partition for claim in self._claims.values() if self._settled(claim)}
        return pumps_of(mine, self._judge.pump_ids)

    def _settled(self, claim: Claim) -> bool:
        """Return whether a partition is this worker's and its states are restored."""
        return claim.epoch is not None and claim.generation is not None

    async def _begin(self, partition: int, lane: Lane, generation: int) -> None:
        """Claim a partition, and restore its pumps from their records."""
        epoch = await self._outage.run(lambda: self._ownership.claim(partition, self.worker_id))
        claim = self._claims.get(partition)
        moved = claim is not None and claim.came_on_another(lane)
        if claim is None or claim.epoch != epoch or moved:
            if claim is not None:
                await self._save(claim)
                await self._forget(claim)
            claim = self._claims[partition] = Claim(partition, lane, epoch)
            pumps = pumps_of({partition}, self._known.pumps)
            started = time.monotonic()
            await self._catch_up.load(partition, as_us(datetime.now(UTC)))
            await self._admit(claim, pumps)
            seconds = round(time.monotonic() - started, 1)
            log.info("partition.taken", partition=partition, pumps=len(pumps), seconds=seconds)
        if lane.leaving:
            # The replay is incomplete, so the states must not be used when the lane returns.
            await self._forget(claim)
            self._claims.pop(partition, None)
            return
        claim.lane, claim.generation = lane, generation

    async def _admit(self, claim: Claim, pump_ids: Sequence[str]) -> None:
        """Start to monitor pumps: restore their saved states, and evaluate later readings.

        A pump with more readings than a round evaluates gets a backlog.
        """
        pumps = {pump_id: self._known.pumps[pump_id] for pump_id in pump_ids if pump_id in self._known.pumps}
        now = datetime.now(UTC)
        longest = now - timedelta(seconds=self._settings.replay_longest_s)
        async with self._turn:
            past = await self._outage.run(lambda: read_pasts(self._pool, list(pumps), longest))
            await self._in_thread(self._judge.admit, pumps, past, self._catch_up.backlogs.pump_ids)
        fresh = now - timedelta(seconds=self._settings.replay_new_s)
        windows = [
            Window(pump_id, max(as_time(known.through_us), longest) if known.through_us else fresh, now)
            for pump_id, known in past.items()
            if pump_id not in self._catch_up.backlogs
        ]
        batch, long = await self._read_short(windows)
        async with self._turn:
            await self._set_aside(
                {each.pump_id: (as_us(each.after), as_us(each.until)) for each in long}, [claim]
            )
        await self._judge_steps(batch, [claim])

    async def _read_short(self, windows: Sequence[Window]) -> tuple[Batch, list[Window]]:
        """Return the readings of short windows, and the windows with more readings than a round evaluates."""
        batch = await self._outage.run(partial(self._replay.windows, windows, MAX_LIVE_READINGS + 1))
        counts = Counter(batch.readings.pump_id.tolist())
        long = [each for each in windows if counts[each.pump_id] > MAX_LIVE_READINGS]
        if long:
            batch = batch.take(~np.isin(batch.readings.pump_id, [each.pump_id for each in long]))
        return batch, long

    async def _set_aside(self, past: Mapping[str, tuple[int, int]], claims: Sequence[Claim]) -> None:
        """Record pending readings between two times (µs) of each pump."""
        if past:
            notes = await self._catch_up.set_aside(past)
            await self._write(Effects(backlogs=notes), claims)

    async def _judge_steps(self, batch: Batch, claims: Sequence[Claim]) -> None:
        """Evaluate past readings chunk by chunk, and write the effects of each."""
        for chunk in chunks_of(batch):
            async with self._turn:
                await self._judge_step(chunk, claims)

    async def _judge_step(self, chunk: Chunk, claims: Sequence[Claim]) -> None:
        try:
            effects = await self._in_thread(
                self._judge.judge, chunk.batch, time.monotonic(), replaying=True, shown=chunk.ending
            )
            await self._live.publish(await self._write(effects, claims))
        except Exception as error:
            if is_outage(error):
                raise
            # Readings that fail now would have failed when they arrived.
            log.exception("replay.failed", readings=len(chunk.batch))

    async def _fill_gaps(self, batch: Batch, claims: Sequence[Claim]) -> dict[str, tuple[int, int]]:
        """Evaluate readings between the last evaluated one and `batch` that this worker missed.

        Return the gaps (µs) with more readings than a round evaluates.
        """
        windows = list(self._gaps(batch))
        if not windows:
            return {}
        missed, long = await self._read_short(windows)
        if len(missed):
            log.info("gap.filled", pumps=len(windows), readings=len(missed))
            _GAPS.inc(len(missed))
            for chunk in chunks_of(missed):
                await self._judge_step(chunk, claims)
        return {each.pump_id: (as_us(each.after), as_us(each.until)) for each in long}

    def _gaps(self, batch: Batch) -> Iterable[Window]:
        longest_us = int(self._settings.replay_longest_s * 1e6)
        for pump_id, first_us in first_times(batch.readings).items():
            through_us = self._judge.through_us(pump_id)
            if not through_us or pump_id in self._catch_up.backlogs:
                continue
            interval_s = self._known.pumps[pump_id].nameplate["expected_interval_s"] or UNKNOWN_INTERVAL_S
            if first_us - through_us > max(GAP_S, GAP_INTERVALS * interval_s) * 1e6:
                after_us = max(through_us, first_us - longest_us)
                yield Window(pump_id, as_time(after_us), as_time(first_us - 1))

    async def _work(self) -> None:
        """Evaluate deliveries, round by round."""
        while True:
            await self._due.wait()
            await asyncio.sleep(GATHER_S)
            self._due.clear()
            self._check()
            self._begin_where_needed()
            taken = [
                (lane, delivery)
                for lane in self._lanes.values()
                if not lane.leaving
                for delivery in lane.take(partial(self._may_judge, lane), ROUND_BYTES)
            ]
            if taken:
                self._due.set()  # more deliveries may be pending
                with _ROUND_S.time():
                    await self._round(taken)

    def _check(self) -> None:
        """Raise the error that ended a consumer or an admission, if any."""
        for lane in self._lanes.values():
            lane.check()
        for partition, task in list(self._admissions.items()):
            if task.done():
                del self._admissions[partition]
                task.result()

    def _may_judge(self, lane: Lane, delivery: Delivery) -> bool:
        """Return whether a delivery can be processed now; one without a partition is processed at once."""
        try:
            return not self._unclaimed(lane, delivery)
        except InvalidInput:
            return True

    def _unclaimed(self, lane: Lane, delivery: Delivery) -> list[int]:
        """Return the partitions of a delivery that must be claimed before it can be evaluated."""
        partitions = partitions_of(delivery)
        claims = {number: self._claims.get(number) for number in partitions}
        if len(partitions) > 1:  # of an earlier version: its pumps are on several lanes now
            return [number for number, claim in claims.items() if claim is None or not self._settled(claim)]
        generation = delivery.generation
        return [n for n, claim in claims.items() if claim is None or not claim.holds(lane, generation)]

    def _begin_where_needed(self) -> None:
        for lane in self._lanes.values():
            for delivery in () if lane.leaving else lane.held:
                if not self._may_judge(lane, delivery):
                    is_older = len(partitions_of(delivery)) > 1
                    generation = NO_GENERATION if is_older else delivery.generation
                    for partition in self._unclaimed(lane, delivery):
                        self._begin_once(partition, lane, generation)

    def _begin_once(self, partition: int, lane: Lane, generation: int) -> None:
        if partition not in self._admissions:
            begin = self._begin(partition, lane, generation)
            task = asyncio.create_task(begin, name=f"begin {partition}")
            task.add_done_callback(lambda _: self._due.set())
            self._admissions[partition] = task

    async def _round(self, taken: Sequence[tuple[Lane, Delivery]]) -> None:
        async with self._turn:
            # Decoded within the turn: otherwise decoding would wait for a chunk of a backlog, and the turn
            # for another one.
            live = await self._judge_taken(taken)
        await self._live.publish(live)

    async def _judge_taken(self, taken: Sequence[tuple[Lane, Delivery]]) -> list[Mapping[str, Any]]:
        messages = await self._in_thread(_decode, taken)
        for message in messages:
            if message.error is not None:
                self._refuse(message, message.error)
        # A partition may have been released meanwhile; its new owner gets the messages again.
        whole = [
            message
            for message in messages
            if message.error is None and self._may_judge(message.lane, message.delivery)
        ]
        return await self._judge_messages(whole) if whole else []

    async def _judge_messages(self, messages: Sequence[_Message]) -> list[Mapping[str, Any]]:
        """Evaluate messages, write the effects and acknowledge them; return the live messages."""
        numbers = frozenset[int]().union(*(message.partitions for message in messages))
        claims = [self._claims[number] for number in numbers]
        batch = join([message.batch for message in messages if message.batch is not None])
        if self._admitting:
            # These pumps are being admitted; their past, which is evaluated first, includes these readings.
            batch = batch.take(~np.isin(batch.readings.pump_id, list(self._admitting)))
        try:
            if not self._judge.pump_ids.issuperset(batch.readings.pump_id.tolist()):
                self._note_unknown()
            batch, notes = await self._divide(batch, claims)
            effects = await self._in_thread(self._judge.judge, batch, time.monotonic())
            effects.backlogs += notes
            live = await self._write(effects, claims)
        except Exception as error:
            if is_outage(error):
                raise
            if len(messages) == 1:
                self._refuse(messages[0], error)
                return []
            log.warning("round.split", messages=len(messages), error=repr(error)[:300])
            return [live for message in messages for live in await self._judge_messages([message])]
        for message in messages:
            if all(self._claims[number].epoch is not None for number in message.partitions):
                message.lane.consumer.done([message.delivery])
            else:
                message.lane.consumer.reject(message.delivery, requeue=True)
        _MESSAGES.labels("done").inc(len(messages))
        _LAG_S.observe(max(0.0, time.time() - _accepted_at(messages[0].delivery)))
        return live

    async def _divide(self, batch: Batch, claims: Sequence[Claim]) -> tuple[Batch, list[Note]]:
        """Return the readings to evaluate now, and the notes of pending ones."""
        past = await self._fill_gaps(batch, claims)
        behind = {*self._catch_up.backlogs.pump_ids, *past}
        now_us = as_us(datetime.now(UTC))

        def live_since_us(pump_id: str) -> int:
            interval_s = self._known.pumps[pump_id].nameplate["expected_interval_s"]
            return now_us - live_span_us(interval_s, UNKNOWN_INTERVAL_S)

        division = divide(batch.readings, behind, self._judge.through_us, live_since_us)
        longest_us = int(self._settings.replay_longest_s * 1e6)
        for pump_id, (first_us, last_us) in division.past.items():
            through_us = self._judge.through_us(pump_id)
            after_us = max(through_us, first_us - longest_us) if through_us else first_us - 1
            gap = past.get(pump_id, (after_us, last_us))
            past[pump_id] = (min(after_us, gap[0]), max(last_us, gap[1]))
        earlier = self._catch_up.earlier(batch.readings, now_us)
        for pump_id, first_us in earlier.items():
            until_us = max(past.get(pump_id, (0, 0))[1], self._judge.through_us(pump_id) or 0)
            past[pump_id] = (first_us - 1, max(until_us, self._catch_up.until_us(pump_id)))
        if not past:
            return batch, []
        notes = await self._catch_up.set_aside(past, earlier.keys())
        return batch.take(division.live), notes

    def _note_unknown(self) -> None:
        """Request a reload because of an unknown pump, at most once per `rulebook_s`."""
        now = time.monotonic()
        if now - self._unknown_at_s > self._settings.rulebook_s:
            self._unknown_at_s = now
            self.note_change()

    async def _write(self, effects: Effects, claims: Sequence[Claim]) -> list[Mapping[str, Any]]:
        """Write effects, retrying during a database outage; return the live messages.

        If the database rejects the effects on one pump, those on the others are still written.
        """
        if not effects.durable:
            return [*effects.live]
        try:
            live, lost = await self._outage.run(lambda: self._write_once(effects, claims))
        except Exception as error:
            pumps = sorted(effects.pump_ids)
            if len(pumps) <= 1:
                log.exception("effects.refused", pump_ids=pumps)
                return []
            log.warning("effects.split", pumps=len(pumps), error=repr(error)[:300])
            return [
                message
                for pump_id in pumps
                for message in await self._write(effects.of_pumps({pump_id}), claims)
            ]
        for claim in claims:
            if claim.partition in lost:
                # Another worker owns it and gets the messages again.
                log.warning("partition.lost", partition=claim.partition)
                claim.epoch = None
                await self._dismiss(claim)
        return live

    async def _write_once(
        self, effects: Effects, claims: Sequence[Claim]
    ) -> tuple[list[Mapping[str, Any]], set[int]]:
        epochs = {claim.partition: claim.epoch for claim in claims if claim.epoch is not None}
        rulebook = self._judge.rulebook
        async with self._pool.acquire() as connection, connection.transaction():
            mine = await states.fence(connection, self.worker_id, epochs)
            lost = epochs.keys() - mine
            kept = effects.of(mine) if lost else effects
            live = await record(connection, kept, rulebook.tree.version, rulebook.alerts)
        return live, lost

    def _refuse(self, message: _Message, error: Exception) -> None:
        """Requeue a message that cannot be evaluated; dead-letter it after the delivery limit."""
        _MESSAGES.labels("poison").inc()
        refusing = self._dead_letters.refuse(message.lane.consumer, message.delivery, error)
        task = asyncio.create_task(refusing)
        self._refusals.add(task)
        task.add_done_callback(self._refusals.discard)

    async def _requeue_all(self, _: Callable[[], Awaitable[object]]) -> None:
        """Requeue held messages during a long outage; work in memory is retried."""
        if self._paused:
            return
        log.warning("worker.paused", effect="messages were requeued")
        self._paused = list(self._lanes.values())
        for lane in self._paused:
            await lane.consumer.pause(give_back=True)
            lane.drop()

    async def _resume_lanes(self) -> None:
        paused, self._paused = self._paused, []
        for lane in paused:
            if not lane.leaving:
                await lane.consumer.resume()

    async def _write_pending_statuses(self) -> None:
        """Write pending statuses that are due and that no later reading brought."""
        while True:
            await asyncio.sleep(STATUS_EVERY_S / 2)
            async with self._turn:
                try:
                    effects = await self._in_thread(self._judge.overdue, time.monotonic())
                    effects.statuses += (await self._catch_up.overdue(time.monotonic())).statuses
                except Exception:
                    # A failing status must not stop the evaluation.
                    log.exception("statuses.failed")
                    continue
                await self._write(effects, list(self._claims.values()))

    async def _save_periodically(self) -> None:
        """Save the states of one partition after another, each once per `snapshot_s`."""
        while True:
            await asyncio.sleep(self._settings.snapshot_s / max(1, len(self._claims)))
            settled = [claim for claim in self._claims.values() if self._settled(claim)]
            if settled:
                await self._save(min(settled, key=lambda claim: claim.saved_at_s))

    async def _save(self, claim: Claim) -> None:
        """Save the states of a partition's pumps, if this worker still owns it."""
        if self._outage.active:
            return
        async with self._turn:
            if not self._settled(claim):
                return
            claim.saved_at_s = time.monotonic()
            bodies = await self._in_thread(self._judge.snapshots, self._pumps_of(claim))
            snapshots = [
                Snapshot(pump_id, claim.partition, body, as_time(through_us))
                for pump_id, (body, through_us) in bodies.items()
            ]
            pasts = await self._catch_up.states(claim.partition)
            epochs = {claim.partition: claim.epoch or 0}
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    if await states.fence(connection, self.worker_id, epochs):
                        await states.save_snapshots(connection, snapshots)
                        await backlogs.save(connection, pasts)
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("snapshots.unsaved", partition=claim.partition, reason=repr(error)[:300])

    async def _reload_periodically(self) -> None:
        """Reload pumps and rules after an event, and at least every `rulebook_s`."""
        while True:
            try:
                async with asyncio.timeout(self._settings.rulebook_s):
                    await self._stale.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(CHANGES_S)
            changed = self._stale.is_set()
            self._stale.clear()
            if changed or time.monotonic() - self._copied_at_s > self._settings.nameplates_s:
                await self._outage.run(self._nameplates.copy)
                self._copied_at_s = time.monotonic()
            await self._outage.run(self._reload)
            await self._admit_new()

    async def _reload(self) -> None:
        async with self._pool.acquire() as connection:
            mark = await states.mark_of_rulebook(connection)
            if mark == self._mark:
                return
            known = await load_known(connection)
        self._known, self._mark = known, mark
        owned = [claim for claim in self._claims.values() if self._settled(claim)]
        async with self._turn:
            effects = await self._in_thread(self._judge.update, known.pumps, known.rulebook)
            await self._live.publish(await self._write(await self._catch_up.update(), owned))
            await self._live.publish(await self._write(effects, owned))

    async def _admit_new(self) -> None:
        """Start to monitor pumps registered after their partition was claimed."""
        for claim in [claim for claim in self._claims.values() if self._settled(claim)]:
            new = set(pumps_of({claim.partition}, self._known.pumps)) - self._judge.pump_ids
            if new and claim.epoch is not None:
                self._admitting = frozenset(new)
                try:
                    await self._admit(claim, sorted(new))
                finally:
                    self._admitting = frozenset()

    async def _take_model(self, pump_id: str, body: bytes) -> None:
        """Use a new model for a pump, if this worker still owns it."""
        async with self._turn:
            if pump_id in self._judge.pump_ids:
                await self._in_thread(self._judge.set_model, pump_id, body)
                await self._catch_up.set_model(pump_id, body)

    async def _in_thread(self, act: Callable[..., T], *arguments: Any, **options: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: act(*arguments, **options))


def _decode(taken: Sequence[tuple[Lane, Delivery]]) -> list[_Message]:
    return [_message(lane, delivery) for lane, delivery in taken]


def _message(lane: Lane, delivery: Delivery) -> _Message:
    try:
        batch = Batch(*arrow.decode_accepted(delivery.body)[:4])
        return _Message(lane, partitions_of(delivery), delivery, batch, None)
    except Exception as error:
        return _Message(lane, frozenset(), delivery, None, error)


def _accepted_at(delivery: Delivery) -> float:
    """Return when ingest accepted a message's readings (epoch seconds); default: now."""
    try:
        return datetime.fromisoformat(str(delivery.headers["cloudEvents_time"])).timestamp()
    except (KeyError, ValueError):
        return time.time()


async def load_known(connection: Connection) -> Known:
    """Return the registered pumps and the rules in force."""
    pumps = {pump.pump_id: pump for pump in await load_pumps(connection)}
    return Known(pumps, Rulebook(await _tree_rules(connection), await load_alert_rules(connection)))


async def _tree_rules(connection: Connection) -> Rules:
    return load_rules(await RuleStore(connection).active() or shipped_text())


@asynccontextmanager
async def open_worker(
    settings: DiagnosticsSettings, pool: Pool, live: LivePublisher
) -> AsyncIterator[tuple[Worker, Publisher, list[Coroutine[Any, Any, None]]]]:
    """Build a worker; yield it with its publisher and background tasks.

    Requires the database: pumps and rules are read before the first reading is evaluated.
    """
    nameplates = Nameplates(pool, settings.nameplates_s)
    await nameplates.copy()
    async with pool.acquire() as connection:
        known = await load_known(connection)
    async with Publisher(settings.amqp_url, name="esp-diagnostics worker") as publisher:
        worker = Worker(settings, pool, publisher, live, nameplates, known)
        listener = EventListener(
            settings.amqp_url,
            list(CHANGES),
            on_event=lambda _: worker.note_change(),
            # Events may have been missed while disconnected.
            on_connected=worker.note_change,
        )
        with worker.trainer:
            yield worker, publisher, [listener.run(), Relay(pool, publisher, SERVICE).run()]
