"""A run of the archive: every day that is past its age, then a look at what is there, then its protection."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final

import structlog
from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, EspError
from prometheus_client import Counter, Gauge

from esp_archiver.domain.datasets import Dataset
from esp_archiver.domain.planning import DayPlan, Export, archive_id, due, next_part, plan_day
from esp_archiver.exports import Written, adopt, publish, write
from esp_archiver.settings import SERVICE, ArchiverSettings
from esp_archiver.storage import Damaged, Store, Taken
from esp_archiver.store import manifest
from esp_archiver.store.manifest import PartFilter, Stored
from esp_archiver.store.sources import SOURCES, Source, snapshot
from esp_archiver.verification import check

log = structlog.get_logger()

VERIFIED: Final = "archive.verified"
FAILED: Final = "archive.failed"
COMPLETED: Final = "archive.completed"
MOST_PARTS: Final = 1000
"""Objects under one day's names that are taken in before a run gives up on the day."""

_ROWS: Final = Counter("esp_archiver_rows_total", "Rows written to the archive.", ["dataset"])
_BYTES: Final = Counter("esp_archiver_bytes_total", "Bytes written to the archive.", ["dataset"])
_DUE: Final = Gauge("esp_archiver_due_days", "Days past their age that the source still holds.", ["dataset"])


@dataclass
class Outcome:
    """What a run did, and what it could not do."""

    days: int = 0
    parts: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, stored: Stored) -> None:
        """Count a part that was written."""
        self.parts += 1
        self.rows += stored.part.rows
        self.bytes += stored.bytes


class Archive:
    """What is archived, over the connection of whoever leads (see `manifest.leading`)."""

    def __init__(self, pool: Pool, store: Store, settings: ArchiverSettings) -> None:
        self._pool = pool
        self._store = store
        self._settings = settings

    async def run(self, lead: Connection, today: date) -> Outcome:
        """Archive every day that is due; then read a share of the archive again and protect what is alone.

        Run again after any failure it does what is left. A day that cannot be archived does not keep the
        others from it; raises Unavailable or what asyncpg raises when nothing more can be done.
        """
        outcome = Outcome()
        await self._store.ensure()
        for dataset in Dataset:
            await _Days(self._pool, self._store, self._settings, lead, outcome).archive(
                SOURCES[dataset](), today
            )
        if self._settings.verify_share:
            checked = await check(
                self._pool, self._store, PartFilter(), self._settings.verify_share, self._settings.work_folder
            )
            outcome.problems += checked.problems
        outcome.problems += await self.protect(lead)
        return outcome

    async def plan(self, today: date) -> list[DayPlan]:
        """Return what a run would do, day by day, without doing it."""
        plans: list[DayPlan] = []
        for dataset in Dataset:
            source = SOURCES[dataset]()
            async with snapshot(self._pool) as reader:
                days = await _due(source, reader, today, self._settings)
                plans += [(await _plan(source, reader, reader, day))[1] for day in days]
        return plans

    async def protect(self, lead: Connection) -> list[str]:
        """Put parts that hold what is nowhere else under the store's policies; return what was refused."""
        if not (self._settings.access_tier or self._settings.immutable_days or self._settings.legal_hold):
            return []
        problems: list[str] = []
        protected: list[str] = []
        for stored in await manifest.unprotected(lead, MOST_PARTS):
            try:
                await self._store.protect(stored.name)
            except Conflict as error:
                problems.append(error.detail)
            else:
                protected.append(stored.name)
        await manifest.note_protected(lead, protected)
        return problems


async def _due(source: Source, reader: Connection, today: date, settings: ArchiverSettings) -> list[date]:
    after_days = getattr(settings, f"{source.dataset}_after_days")
    return due(await source.days(reader, today), today, after_days)


async def _plan(
    source: Source, reader: Connection, lead: Connection, day: date
) -> tuple[list[Stored], DayPlan, int]:
    """Return a day's parts, what they lack, and how often the source let rows of the day go."""
    contents = await source.contents(reader, day)
    drops = await source.drops(reader, day)
    parts = await manifest.parts_of_day(lead, source.dataset, day)
    return parts, plan_day(source.dataset, day, contents, [each.part for each in parts], drops), drops


class _Days:
    """Archives the days of one dataset, one after the other, their parts side by side."""

    def __init__(
        self, pool: Pool, store: Store, settings: ArchiverSettings, lead: Connection, outcome: Outcome
    ) -> None:
        self._pool = pool
        self._store = store
        self._settings = settings
        self._lead = lead
        self._entering = asyncio.Lock()
        self._outcome = outcome

    async def archive(self, source: Source, today: date) -> None:
        """Archive every day that is due."""
        async with snapshot(self._pool) as reader:
            days = await _due(source, reader, today, self._settings)
        _DUE.labels(source.dataset).set(len(days))
        for day in days:
            try:
                await self._day(source, day)
            except Conflict as error:
                log.warning("archive.day-failed", dataset=source.dataset, day=str(day), reason=error.detail)
                self._outcome.problems.append(f"{source.dataset} {day}: {error.detail}")

    async def _day(self, source: Source, day: date) -> None:
        """Bring the archive's parts of a day up to date, and tell of it when they hold all of it."""
        room = asyncio.Semaphore(self._settings.uploads_at_once)
        entering: list[asyncio.Task[Stored]] = []
        try:
            async with snapshot(self._pool) as reader:
                parts, plan, drops = await _plan(source, reader, self._lead, day)
                for export in plan.exports:
                    await room.acquire()
                    _raise_first(entering)
                    written = await write(source, reader, export, drops, self._settings.work_folder)
                    entering.append(asyncio.create_task(self._enter(written, parts, room)))
            entered = await asyncio.gather(*entering)
        finally:
            for task in entering:
                task.cancel()
            await asyncio.gather(*entering, return_exceptions=True)
        await manifest.set_aside(self._lead, plan.set_aside)
        if entered or source.dataset is Dataset.TELEMETRY:
            await self._tell(source.dataset, day, [*plan.current, *(stored.part for stored in entered)])

    async def _enter(self, written: Written, parts: Sequence[Stored], room: asyncio.Semaphore) -> Stored:
        """Publish a part and enter it into the manifest; take in whatever lies under its name already."""
        try:
            numbers = [stored.part for stored in parts]
            for _ in range(MOST_PARTS):
                try:
                    stored = await publish(self._store, written, self._settings.work_folder)
                except Conflict as refusal:
                    adopted = await self._make_way(written.export, refusal)
                    numbers = [*numbers, adopted.part]
                    part = next_part(numbers, written.export.place.field_id)
                    place = written.export.place._replace(part=part)
                    written = replace(written, export=replace(written.export, place=place, replaces=None))
                else:
                    await self._put(stored)
                    self._count(stored)
                    return stored
            raise Conflict(f"there are {MOST_PARTS} objects under the names of {written.export.place.day}")
        finally:
            written.close()
            room.release()

    async def _make_way(self, export: Export, refusal: Conflict) -> Stored:
        """Keep what lies under a part's name, since it cannot be written over; return it.

        Raises `refusal` when that is not the reason why the part could not be published.
        """
        found = await self._store.find(export.place.name)
        refused = isinstance(refusal, Taken) or (export.replaces and not isinstance(refusal, Damaged))
        if found is None or not refused:
            raise refusal
        adopted = await adopt(self._store, found, export.place, self._settings.work_folder)
        await self._put(adopted)
        return adopted

    async def _put(self, stored: Stored) -> None:
        # Over the leader's connection alone: see `manifest.leading`.
        async with self._entering:
            await manifest.put(self._lead, stored)

    def _count(self, stored: Stored) -> None:
        dataset = stored.part.place.dataset
        self._outcome.add(stored)
        _ROWS.labels(dataset).inc(stored.part.rows)
        _BYTES.labels(dataset).inc(stored.bytes)
        log.info("archive.part", object=stored.name, rows=stored.part.rows, bytes=stored.bytes)

    async def _tell(self, dataset: Dataset, day: date, parts: Sequence[Any]) -> None:
        """Tell, as an event, that the archive has just this of a day."""
        id_ = archive_id(day, parts)
        rows = sum(part.rows for part in parts)
        data = {
            "dataset": dataset,
            "day": day.isoformat(),
            "archive_id": id_,
            "readings": rows,
            "digest": str(sum(part.digest for part in parts)),
            "objects": [{"name": part.place.name, "rows": part.rows} for part in parts],
        }
        async with self._lead.transaction():
            await manifest.tell(self._lead, dataset, day, id_, rows)
            await outbox.enqueue(self._lead, Event(VERIFIED, SERVICE, day.isoformat(), data), topology.EVENTS)
        self._outcome.days += 1


def _raise_first(tasks: Sequence[asyncio.Task[Stored]]) -> None:
    """Raise what a task that is over died of: nothing more need be read then."""
    for task in tasks:
        if task.done():
            task.result()


async def tell_ended(connection: Connection, run_id: str, problem: str | None, data: dict[str, Any]) -> None:
    """Tell, as an event, how a run ended."""
    type_ = COMPLETED if problem is None else FAILED
    event = Event(type_, SERVICE, run_id, {**data, "problem": problem})
    await outbox.enqueue(connection, event, topology.EVENTS)


def describe(error: BaseException) -> str:
    """Return what stopped a run, for people."""
    return error.detail if isinstance(error, EspError) else f"{type(error).__name__}: {error}"
