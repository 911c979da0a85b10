"""The plan of a day: which parts to write, which to write anew, and what to leave as it is."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from esp_archiver.domain.datasets import Dataset
from esp_archiver.domain.layout import Place


@dataclass(frozen=True, slots=True)
class Content:
    """What the source has of a day (and field): rows, the sum of their hashes, and rows by pump in order."""

    field_id: str
    rows: int
    digest: int
    pumps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A part as the manifest has it.

    `drops`: how often the source had let rows of the day go when the part was read. `sole`: it may only be
    replaced by what holds all of it, whatever the source says: what it holds may be gone there. `digest` and
    `source_rows` are of the rows the source had then; None: as many as the part has.
    """

    place: Place
    rows: int
    digest: int
    content_hash: str
    etag: str
    drops: int
    sole: bool = False
    source_rows: int | None = None

    def has_all(self, content: "Content", drops: int) -> bool:
        """Whether everything that the source holds now is in this part or in parts before it."""
        rows = self.rows if self.source_rows is None else self.source_rows
        return (rows, self.digest, self.drops) == (content.rows, content.digest, drops)

    def settled(self, drops: int) -> bool:
        """Whether it may hold what the source does not have any more, after `drops` of them."""
        return self.sole or drops > self.drops


@dataclass(frozen=True, slots=True)
class Export:
    """A part to write; `replaces` is the one to write it over.

    `merges`: parts that it must hold all of, oldest first, or with `residual` nothing of.
    """

    place: Place
    content: Content
    replaces: Part | None = None
    merges: tuple[Part, ...] = ()
    residual: bool = False


@dataclass(frozen=True, slots=True)
class DayPlan:
    """What a day needs: `exports`, while `current` is as it should be.

    `set_aside`: parts of fields under which the source has nothing any more (a well went to another field).
    They stay, and are not counted as a part of the day's content.
    """

    exports: tuple[Export, ...]
    current: tuple[Part, ...]
    set_aside: tuple[Part, ...]


def due(days: Sequence[date], today: date, after_days: int) -> list[date]:
    """Return the days past their age, oldest first: those that ended `after_days` or more before today."""
    return sorted(day for day in days if day < today - timedelta(days=after_days))


def plan_day(
    dataset: Dataset,
    day: date,
    contents: Sequence[Content],
    parts: Sequence[Part],
    drops: int,
    fixed: Collection[str] = (),
) -> DayPlan:
    """Return what is to be done so that the archive has what the source holds of a day, each value once.

    `parts`: the manifest's of that day; `drops`: how often the source let rows of it go; `fixed`: names of
    parts that policies of the store keep from being replaced. A part of what is all still there is written
    anew. What came late for a day that is gone is merged into the field's part, or where that is fixed
    becomes a part of its own without what the others have. Several parts of a field are merged into one.
    """
    exports, current = [], []
    by_field = {content.field_id: content for content in contents}
    scattered = {} if dataset is not Dataset.TELEMETRY else _scattered(parts, fixed)
    for field_id in sorted(by_field.keys() | scattered.keys()):
        content = by_field.get(field_id) or Content(field_id, 0, 0)
        existing = [part for part in parts if part.place.field_id == field_id]
        latest = next((part for part in existing if part.has_all(content, drops)), None)
        if latest is not None and field_id not in scattered:
            current.append(latest)
        else:
            exports.append(_export(Place(dataset, field_id, day, 0), content, existing, drops, fixed))
    set_aside = [part for part in parts if not part.settled(drops) and part.place.field_id not in by_field]
    return DayPlan(tuple(exports), tuple(current), tuple(set_aside))


def _scattered(parts: Sequence[Part], fixed: Collection[str]) -> dict[str, list[Part]]:
    """Return the fields of which there are several parts that can be merged into one."""
    by_field: dict[str, list[Part]] = {}
    for part in parts:
        by_field.setdefault(part.place.field_id, []).append(part)
    return {
        field_id: of_field
        for field_id, of_field in by_field.items()
        if len(of_field) > 1 and not any(part.place.name in fixed for part in of_field)
    }


def _export(
    first: Place, content: Content, existing: Sequence[Part], drops: int, fixed: Collection[str]
) -> Export:
    """Return how a field's content is written beside or over its `existing` parts."""
    open_part = next(
        (part for part in existing if not part.settled(drops) and part.place.name not in fixed), None
    )
    settled = tuple(part for part in existing if part is not open_part)
    beside = first._replace(part=next_part(existing, content.field_id))
    if not settled or first.dataset is not Dataset.TELEMETRY:
        return Export(open_part.place if open_part else beside, content, open_part)
    if any(part.place.name in fixed for part in existing):
        return Export(open_part.place if open_part else beside, content, open_part, settled, residual=True)
    return Export(existing[0].place, content, existing[0], tuple(existing))


def next_part(parts: Sequence[Part], field_id: str) -> int:
    """Return the number of the next part of a field's day."""
    return 1 + max((part.place.part for part in parts if part.place.field_id == field_id), default=-1)


def archive_id(day: date, parts: Sequence[Part]) -> str:
    """Return what names just this content of a day: the same whenever it is told of again."""
    told = hashlib.sha256(day.isoformat().encode())
    for part in sorted(parts, key=lambda part: part.place):
        told.update(f"\0{part.place.name}\0{part.content_hash}\0{part.drops}\0{part.digest}".encode())
    return f"{day.isoformat()}-{told.hexdigest()[:32]}"
