"""The plan of a day: which parts to write, which to write anew, and what to leave as it is."""

import hashlib
from collections.abc import Sequence
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

    `drops`: how often the source had let rows of the day go when the part was read. `sole`: nothing may be
    written in its place, whatever the source says: what it holds may be gone there.
    """

    place: Place
    rows: int
    digest: int
    content_hash: str
    etag: str
    drops: int
    sole: bool = False

    def settled(self, drops: int) -> bool:
        """Whether it may hold what the source does not have any more, after `drops` of them."""
        return self.sole or drops > self.drops


@dataclass(frozen=True, slots=True)
class Export:
    """A part to write; `replaces` is the one to write it over."""

    place: Place
    content: Content
    replaces: Part | None = None


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
    dataset: Dataset, day: date, contents: Sequence[Content], parts: Sequence[Part], drops: int
) -> DayPlan:
    """Return what is to be done so that the archive has what the source holds of a day.

    `parts`: the manifest's of that day; `drops`: how often the source let rows of it go. What came late
    for a day that is gone becomes a part of its own; a part of what is still there is written anew.
    """
    exports, current = [], []
    by_field = {content.field_id: content for content in contents}
    open_parts = {part.place.field_id: part for part in parts if not part.settled(drops)}
    for field_id, content in sorted(by_field.items()):
        existing = open_parts.get(field_id)
        if existing is not None and (existing.rows, existing.digest) == (content.rows, content.digest):
            current.append(existing)
            continue
        place = existing.place if existing else Place(dataset, field_id, day, next_part(parts, field_id))
        exports.append(Export(place, content, existing))
    set_aside = [part for field_id, part in sorted(open_parts.items()) if field_id not in by_field]
    return DayPlan(tuple(exports), tuple(current), tuple(set_aside))


def next_part(parts: Sequence[Part], field_id: str) -> int:
    """Return the number of the next part of a field's day."""
    return 1 + max((part.place.part for part in parts if part.place.field_id == field_id), default=-1)


def archive_id(day: date, parts: Sequence[Part]) -> str:
    """Return what names just this content of a day: the same whenever it is told of again."""
    told = hashlib.sha256(day.isoformat().encode())
    for part in sorted(parts, key=lambda part: part.place):
        told.update(f"\0{part.place.name}\0{part.content_hash}\0{part.drops}".encode())
    return f"{day.isoformat()}-{told.hexdigest()[:32]}"
