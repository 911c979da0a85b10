"""A run of the archive: every day that is past its age, then a look at what is there, then its protection."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any, Final

import structlog
from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, EspError, NotFound
from esp_common.progress import Progress, silent
from prometheus_client import Counter, Gauge

from esp_archiver.compaction import (
    MAX_CONTRADICTIONS,
    MergedPart,
    clean_up,
    publish_merged,
    recover,
    write_merged,
)
from esp_archiver.damage import note_checked
from esp_archiver.domain.datasets import Dataset
from esp_archiver.domain.layout import staged_name
from esp_archiver.domain.merging import Contradiction
from esp_archiver.domain.planning import DayPlan, Export, Part, archive_id, due, plan_day
from esp_archiver.exports import Written, adopt, publish, write
from esp_archiver.settings import SERVICE, ArchiverSettings
from esp_archiver.settling import settled
from esp_archiver.storage import Damaged, Store, Taken
from esp_archiver.store import manifest
from esp_archiver.store.manifest import PartFilter, Stored
from esp_archiver.store.sources import SOURCES, Source, snapshot
from esp_archiver.verification import check

log = structlog.get_logger()

VERIFIED: Final = "archive.verified"
FAILED: Final = "archive.failed"
COMPLETED: Final = "archive.completed"
MAX_PARTS: Final = 1000
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

    def text(self) -> str:
        """Return it in a line."""
        return f"{self.days} days, {self.parts} parts, {self.rows} rows, {self.bytes} bytes"

    def add(self, stored: Stored) -> None:
        """Count a part that was written."""
        self.parts += 1
        self.rows += stored.part.rows
        self.bytes += stored.bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """What of all that is due a run is about: None is any; `since` included, `until` not."""

    field_id: str | None = None
    since: date | None = None
    until: date | None = None

    def datasets(self) -> Sequence[Dataset]:
        """Return the datasets: of a field there are readings only."""
        return list(Dataset) if self.field_id is None else [Dataset.TELEMETRY]

    def days(self, days: Iterable[date]) -> list[date]:
        """Return those of `days` that are in the span, in order."""
        return sorted(
            day
            for day in set(days)
            if (self.since is None or day >= self.since) and (self.until is None or day < self.until)
        )

    def fields(self, exports: Sequence[Export]) -> list[Export]:
        """Return the exports of the field."""
        return [each for each in exports if self.field_id in (None, each.place.field_id)]


EVERYTHING: Final = Selection()


class Archive:
    """What is archived, over the connection of whoever leads (see `manifest.leading`)."""

    def __init__(
        self, pool: Pool, store: Store, settings: ArchiverSettings, progress: Progress = silent
    ) -> None:
        self._pool = pool
        self._store = store
        self._settings = settings
        self._progress = progress

    async def run(self, lead: Connection, today: date, selection: Selection = EVERYTHING) -> Outcome:
        """Archive every day that is due; then read a share of the archive again and protect what is alone.

        Run again after any failure it does what is left. A day that cannot be archived does not stop the
        others; raises Unavailable or what asyncpg raises when nothing more can be done. Damage that is
        found is a state of the objects, not a failure of the run.
        """
        outcome = Outcome()
        await self._store.ensure()
        outcome.problems += await recover(lead, self._store, self._settings.work_folder)
        for dataset in selection.datasets():
            days = _Days(self._pool, self._store, self._settings, lead, outcome, self._progress)
            await days.archive(SOURCES[dataset](), today, selection)
        if self._settings.verify_share and selection == EVERYTHING:
            await check(
                self._pool,
                self._store,
                PartFilter(),
                self._settings.verify_share,
                self._settings.work_folder,
                self._progress,
            )
        outcome.problems += await self.protect(lead)
        return outcome

    async def plan(self, today: date, selection: Selection = EVERYTHING) -> list[DayPlan]:
        """Return what a run would do, day by day, without doing it."""
        plans: list[DayPlan] = []
        for dataset in selection.datasets():
            source = SOURCES[dataset]()
            async with snapshot(self._pool) as reader:
                days = selection.days(await _due(source, reader, today, self._settings))
                for day in days:
                    plan = (await _plan(source, reader, reader, day, _fixed(self._settings))).plan
                    plans.append(replace(plan, exports=tuple(selection.fields(plan.exports))))
        return plans

    async def protect(self, lead: Connection) -> list[str]:
        """Put parts that hold what is nowhere else under the store's policies; return what was refused."""
        if not (self._settings.access_tier or self._settings.immutable_days or self._settings.legal_hold):
            return []
        problems: list[str] = []
        protected: list[str] = []
        for stored in await manifest.unprotected(lead, MAX_PARTS):
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


Fixed = Callable[[Stored, int], bool]
"""Whether policies of the store keep a part from being replaced, after so many drops."""


def _fixed(settings: ArchiverSettings, refused: Collection[str] = ()) -> Fixed:
    policies = bool(settings.immutable_days or settings.legal_hold)
    return lambda stored, drops: stored.name in refused or (policies and stored.part.settled(drops))


@dataclass(frozen=True, slots=True)
class _Planned:
    """A day: its parts, what they lack, how often the source let rows go, and whether it has any now."""

    parts: Sequence[Stored]
    plan: DayPlan
    drops: int
    in_source: bool


async def _plan(source: Source, reader: Connection, lead: Connection, day: date, fixed: Fixed) -> _Planned:
    """Return what is to be done for a day."""
    contents = await source.contents(reader, day)
    drops = await source.drops(reader, day)
    parts = await manifest.parts_of_day(lead, source.dataset, day)
    names = {each.name for each in parts if fixed(each, drops)}
    plan = plan_day(source.dataset, day, contents, [each.part for each in parts], drops, names)
    return _Planned(parts, plan, drops, bool(contents))


class _Again(Exception):
    """What lies in the store is not what was planned with: the day has to be planned again."""


class _Days:
    """Archives the days of one dataset, one after the other, their parts side by side."""

    def __init__(
        self,
        pool: Pool,
        store: Store,
        settings: ArchiverSettings,
        lead: Connection,
        outcome: Outcome,
        progress: Progress,
    ) -> None:
        self._pool = pool
        self._store = store
        self._settings = settings
        self._lead = lead
        self._entering = asyncio.Lock()
        self._outcome = outcome
        self._progress = progress
        self._refused: set[str] = set()

    async def archive(self, source: Source, today: date, selection: Selection) -> None:
        """Archive every day that is due, and merge the parts of fields that have several."""
        async with snapshot(self._pool) as reader:
            days = await _due(source, reader, today, self._settings)
        _DUE.labels(source.dataset).set(len(days))
        if source.dataset is Dataset.TELEMETRY:
            days = [*days, *await manifest.scattered_days(self._lead, source.dataset)]
        chosen = selection.days(days)
        for number, day in enumerate(chosen):
            self._progress(f"archive days of {source.dataset}", number / len(chosen))
            try:
                await self._day(source, day, selection)
            except (Conflict, NotFound) as error:
                log.warning("archive.day-failed", dataset=source.dataset, day=str(day), reason=error.detail)
                self._outcome.problems.append(f"{source.dataset} {day}: {error.detail}")

    async def _day(self, source: Source, day: date, selection: Selection) -> None:
        for _ in range(MAX_PARTS):
            try:
                return await self._attempt(source, day, selection)
            except _Again:
                continue
        raise Conflict(f"there are {MAX_PARTS} objects under the names of {day}")

    async def _attempt(self, source: Source, day: date, selection: Selection) -> None:
        """Bring the archive's parts of a day up to date, and tell of it when they hold all of it."""
        room = asyncio.Semaphore(self._settings.uploads_at_once)
        entering: list[asyncio.Task[_Entered]] = []
        try:
            async with snapshot(self._pool) as reader:
                fixed = _fixed(self._settings, self._refused)
                planned = await _plan(source, reader, self._lead, day, fixed)
                exports = selection.fields(planned.plan.exports)
                for export in exports:
                    await room.acquire()
                    _raise_first(entering)
                    entering.append(await self._begin(source, reader, export, planned, room))
            entered = await asyncio.gather(*entering)
        finally:
            for task in entering:
                task.cancel()
            await asyncio.gather(*entering, return_exceptions=True)
        await manifest.set_aside(self._lead, planned.plan.set_aside)
        whole = len(exports) == len(planned.plan.exports)
        if whole and planned.in_source and (entered or source.dataset is Dataset.TELEMETRY):
            current = [*planned.plan.current, *(each.stored.part for each in entered)]
            contradictions = [found for each in entered for found in each.contradictions]
            await self._tell(source.dataset, day, current, contradictions)

    async def _begin(
        self, source: Source, reader: Connection, export: Export, planned: _Planned, room: asyncio.Semaphore
    ) -> "asyncio.Task[_Entered]":
        """Write a part here, and begin to publish it."""
        folder = self._settings.work_folder
        if not export.merges:
            written = await write(source, reader, export, planned.drops, folder)
            return asyncio.create_task(self._enter(written, room))
        parts = {stored.name: stored for stored in planned.parts}
        try:
            made = await write_merged(source, reader, export, parts, planned.drops, self._store, folder)
        except Damaged as error:
            await self._note_damage(parts.values(), error)
            raise
        if len(made.contradictions) > MAX_CONTRADICTIONS:
            if made.written:
                made.written.close()
            raise Conflict(
                f"{len(made.contradictions)} late values contradict archived ones of {export.place.name}",
                fix="the day stays in the database; correct or discard what was sent",
            )
        return asyncio.create_task(self._enter_merged(made, room))

    async def _note_damage(self, parts: Iterable[Stored], error: Damaged) -> None:
        for stored in parts:
            if error.detail.startswith(stored.name):
                await note_checked(self._lead, stored, error.detail)

    async def _enter(self, written: Written, room: asyncio.Semaphore) -> "_Entered":
        """Publish a part and enter it into the manifest; take in whatever lies under its name already."""
        try:
            try:
                stored = await publish(self._store, written, self._settings.work_folder)
            except Conflict as refusal:
                await self._make_way(written.export, refusal)
                raise _Again from None
            async with self._entering:
                await manifest.put(self._lead, stored)
            self._count(stored)
            return _Entered(stored)
        finally:
            written.close()
            room.release()

    async def _enter_merged(self, made: MergedPart, room: asyncio.Semaphore) -> "_Entered":
        """Publish a merged part and enter it in place of all that are merged."""
        written = made.written
        try:
            stored = made.base if written is None else await self._publish_merged(made.base, written)
            others = () if made.export.residual else made.export.merges[1:]
            # Over the leader's connection alone: see `manifest.leading`.
            async with self._entering:
                async with self._lead.transaction():
                    await manifest.put(self._lead, stored)
                    await manifest.retire(self._lead, [part.place.name for part in others])
                await clean_up(self._lead, self._store)
            if written is not None:
                await self._store.delete(staged_name(written.export.place))
                self._count(stored)
            return _Entered(stored, made.contradictions)
        finally:
            if written is not None:
                written.close()
            room.release()

    async def _publish_merged(self, base: Stored, written: Written) -> Stored:
        folder = self._settings.work_folder
        try:
            if not written.export.residual:
                return await publish_merged(self._store, base, written, folder)
            stored = await publish(self._store, written, folder)
        except Conflict as refusal:
            await self._make_way(written.export, refusal)
            raise _Again from None
        part = replace(stored.part, source_rows=written.export.content.rows)
        return replace(stored, part=part)

    async def _make_way(self, export: Export, refusal: Conflict) -> None:
        """Take in what lies under a part's name, or note that it cannot be replaced.

        Raises `refusal` when that is not the reason why the part could not be published.
        """
        name = export.place.name
        found = await self._store.find(name)
        if (
            found is None
            or isinstance(refusal, Damaged)
            or not (isinstance(refusal, Taken) or export.replaces)
        ):
            raise refusal
        if not isinstance(refusal, Taken):
            self._refused.add(name)
            return
        parts = await manifest.parts_of_day(self._lead, export.place.dataset, export.place.day)
        known = next((stored for stored in parts if stored.name == name), None)
        folder = self._settings.work_folder
        if known is None:
            stored = await adopt(self._store, found, export.place, folder)
        else:
            stored = await settled(self._store, known, folder)
        async with self._entering:
            await manifest.put(self._lead, stored)

    def _count(self, stored: Stored) -> None:
        dataset = stored.part.place.dataset
        self._outcome.add(stored)
        _ROWS.labels(dataset).inc(stored.part.rows)
        _BYTES.labels(dataset).inc(stored.bytes)
        log.info("archive.part", object=stored.name, rows=stored.part.rows, bytes=stored.bytes)

    async def _tell(
        self, dataset: Dataset, day: date, parts: Sequence[Part], contradictions: Sequence[Contradiction]
    ) -> None:
        """Tell, as an event, that the archive has all that the source has of a day."""
        id_ = archive_id(day, parts)
        rows = sum(part.rows if part.source_rows is None else part.source_rows for part in parts)
        data = {
            "dataset": dataset,
            "day": day.isoformat(),
            "archive_id": id_,
            "readings": rows,
            "digest": str(sum(part.digest for part in parts)),
            "objects": [{"name": part.place.name, "rows": part.rows} for part in parts],
            "contradictions": [asdict(each) for each in contradictions],
        }
        async with self._lead.transaction():
            await manifest.tell(self._lead, dataset, day, id_, rows)
            await outbox.enqueue(self._lead, Event(VERIFIED, SERVICE, day.isoformat(), data), topology.EVENTS)
        self._outcome.days += 1


@dataclass(frozen=True, slots=True)
class _Entered:
    """A part that is in the manifest, and what contradicted archived values."""

    stored: Stored
    contradictions: Sequence[Contradiction] = ()


def _raise_first(tasks: Sequence[asyncio.Task[_Entered]]) -> None:
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
