"""Train anomaly models on schedule, from the minute aggregates kept by ingest.

Training takes seconds of CPU for a few pumps, so it runs in a separate process at low priority.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Thread
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from esp_common.database import Pool, is_outage
from prometheus_client import Counter

from esp_diagnostics.common.times import as_time, as_us
from esp_diagnostics.detection.anomaly import Learning, train
from esp_diagnostics.detection.tree import FEATURES, PumpSpec, TreeMonitor, load_rules
from esp_diagnostics.monitoring.store.models import Model, Models
from esp_diagnostics.monitoring.store.replay import Batch, Replay, join
from esp_diagnostics.physics.arrays import Bools
from esp_diagnostics.pumps.store import load
from esp_diagnostics.settings import DiagnosticsSettings

log = structlog.get_logger()

BATCH_PUMPS: Final = 16
"""Pumps trained together; evaluating the tree's features of many costs little more than of one."""

NICENESS: Final = 10
MARGIN_US: Final = 3600 * 1_000_000
"""Margin before the onset and after the end of a finding that is excluded from training."""

_TRAINED: Final = Counter("esp_diagnostics_trainings_total", "Attempts to train a model.", ["outcome"])

Span = tuple[int, int]


class Lesson(NamedTuple):
    """Training data of some pumps.

    `rules_text`: rules of the tree. `unhealthy`: spans (µs) of each pump excluded from training.
    """

    specs: Sequence[PumpSpec]
    rules_text: str
    minutes: Batch
    unhealthy: Mapping[str, Sequence[Span]]

    def of(self, spec: PumpSpec) -> "Lesson":
        """Return the data of one of the pumps."""
        mine = self.minutes.take(self.minutes.readings.pump_id == spec.pump_id)
        return self._replace(specs=[spec], minutes=mine)


@dataclass(frozen=True, slots=True)
class Failed:
    """Failed training; the previous model stays. `reason`: error for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class Trained:
    """Trained detector as bytes, with its metrics; times in µs."""

    body: bytes
    from_us: int
    to_us: int
    samples: int
    metrics: dict[str, float]


class Trainer:
    """Train the models of a worker's pumps, longest waiting first.

    Use as a context manager; `run` works until cancelled.
    """

    def __init__(self, pool: Pool, settings: DiagnosticsSettings, rules_text: Callable[[], str]) -> None:
        self._pool = pool
        self._models = Models(pool)
        self._replay = Replay(pool)
        self._settings = settings
        self._rules_text = rules_text
        self._process = self._started()

    def _started(self) -> ProcessPoolExecutor:
        # Spawned, because a fork would copy locks of this process's threads in their present state.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=prepare_process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.shutdown(wait=False, cancel_futures=True)

    async def run(
        self, owned: Callable[[], list[str]], take: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        """Train due models of `owned` pumps, and pass each to `take`, until cancelled."""
        scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})
        scheduler.add_job(self._attempt, "interval", (owned, take), seconds=self._settings.training_check_s)
        scheduler.start()
        try:
            await asyncio.Event().wait()
        finally:
            scheduler.shutdown(wait=False)

    async def _attempt(
        self, owned: Callable[[], list[str]], take: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        try:
            while due := await self._due(owned()):
                for pump_id, body in (await self.train(due)).items():
                    await take(pump_id, body)
        except asyncio.CancelledError:
            return  # the worker ends
        except Exception as error:
            if not is_outage(error):
                log.exception("training.failed")
            else:
                log.warning("training.delayed", reason=repr(error)[:300])

    async def _due(self, owned: Sequence[str]) -> list[str]:
        again_s = self._settings.training_days * 86_400.0
        return await self._models.due(owned, again_s, self._settings.training_retry_s, BATCH_PUMPS)

    async def train(self, pump_ids: Sequence[str]) -> dict[str, bytes]:
        """Train and store the models of these pumps; return the new ones.

        If training fails, store the reason and keep the previous model.
        """
        learned = await self._learned(await self._lesson(pump_ids))
        made = {}
        for pump_id in pump_ids:
            outcome = learned.get(pump_id, Learning("the pump no longer exists", 0.0))
            if isinstance(outcome, Trained):
                made[pump_id] = outcome.body
                await self._keep(pump_id, outcome)
            else:
                await self._note(pump_id, outcome)
        return made

    async def _lesson(self, pump_ids: Sequence[str]) -> Lesson:
        until = datetime.now(UTC)
        since = until - timedelta(days=self._settings.training_history_days)
        async with self._pool.acquire() as connection:
            pumps = await load(connection, pump_ids)
        return Lesson(
            [pump.spec for pump in pumps],
            self._rules_text(),
            join([await self._replay.minutes(pump.pump_id, since, until) for pump in pumps]),
            {pump.pump_id: await self._unhealthy(pump.pump_id, since, until) for pump in pumps},
        )

    async def _learned(self, lesson: Lesson) -> dict[str, Trained | Learning | Failed]:
        """Return the outcome for each pump; a failure of one does not affect the others."""
        try:
            learned = await asyncio.get_running_loop().run_in_executor(self._process, learn, lesson)
        except Exception as error:
            if isinstance(error, BrokenProcessPool):
                log.warning("training.process-died", effect="the process is restarted")
                self._process = self._started()
            if len(lesson.specs) == 1:
                log.exception("training.failed", pump_id=lesson.specs[0].pump_id)
                return {lesson.specs[0].pump_id: Failed(repr(error)[:300])}
            each = [await self._learned(lesson.of(spec)) for spec in lesson.specs]
            return {pump_id: outcome for one in each for pump_id, outcome in one.items()}
        return {**learned}

    async def _unhealthy(self, pump_id: str, since: datetime, until: datetime) -> list[Span]:
        spans = await self._models.unhealthy(pump_id, since)
        return [(as_us(onset) - MARGIN_US, as_us(cleared or until) + MARGIN_US) for onset, cleared in spans]

    async def _note(self, pump_id: str, outcome: Learning | Failed) -> None:
        if isinstance(outcome, Failed):
            _TRAINED.labels("failed").inc()
            await self._models.tried(pump_id, "failed", outcome.reason, None)
        else:
            _TRAINED.labels("learning").inc()
            await self._models.tried(pump_id, "learning", outcome.reason, outcome.share)

    async def _keep(self, pump_id: str, trained: Trained) -> None:
        version = await self._models.keep(
            Model(
                pump_id,
                as_time(trained.from_us),
                as_time(trained.to_us),
                trained.samples,
                trained.body,
                trained.metrics,
            )
        )
        _TRAINED.labels("trained").inc()
        log.info("model.trained", pump_id=pump_id, version=version, **trained.metrics)


def prepare_process() -> None:
    """Prepare a training process: low priority, and termination with its parent.

    A killed parent does not close the queue read by its child, so the child would wait forever.
    """
    with suppress(OSError):
        os.nice(NICENESS)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def learn(lesson: Lesson) -> dict[str, Trained | Learning]:
    """Train a detector for each pump, or return why that is not possible yet. Pure, takes seconds."""
    monitor = TreeMonitor(lesson.specs, load_rules(lesson.rules_text))
    parts = []
    days = lesson.minutes.readings.time_us // (86_400 * 1_000_000)
    for day in np.unique(days):
        part = lesson.minutes.take(days == day)
        monitor.observe(part.readings, part.fault_mask, part.frozen_mask)
        parts.append(monitor.features())
    found: dict[str, Trained | Learning] = {}
    for spec in lesson.specs:
        mine = [part.pump_ids == spec.pump_id for part in parts]
        if not any(rows.any() for rows in mine):
            found[spec.pump_id] = Learning("no readings yet", 0.0)
            continue
        matrix, regime, steady, times_us = (
            np.concatenate([getattr(part, name)[rows] for part, rows in zip(parts, mine, strict=True)])
            for name in ("matrix", "regime", "steady", "times_us")
        )
        steady &= (regime >= 0) & _healthy(times_us, lesson.unhealthy.get(spec.pump_id, ()))
        outcome = train(matrix, FEATURES, regime, steady, times_us)
        found[spec.pump_id] = (
            outcome
            if isinstance(outcome, Learning)
            else Trained(
                outcome.to_bytes(),
                outcome.trained_from_us,
                outcome.trained_to_us,
                outcome.samples,
                outcome.metrics(),
            )
        )
    return found


def _healthy(times_us: "np.ndarray[tuple[int], np.dtype[np.int64]]", unhealthy: Sequence[Span]) -> Bools:
    healthy = np.ones(len(times_us), dtype=np.bool_)
    for begin, end in unhealthy:
        healthy &= (times_us < begin) | (times_us > end)
    return healthy
