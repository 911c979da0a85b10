"""The manifest made again from the objects themselves, when the database has lost it."""

from dataclasses import dataclass, field
from pathlib import Path

from esp_common.database import Connection
from esp_common.errors import Conflict
from esp_common.progress import Progress, silent

from esp_archiver.damage import note_checked
from esp_archiver.domain.layout import MERGING, place_of
from esp_archiver.exports import adopt
from esp_archiver.settling import settled
from esp_archiver.storage import Store
from esp_archiver.store import manifest


@dataclass
class Rebuilt:
    """How many objects were entered, taken under another tag, known, and which could not be used and why."""

    entered: int = 0
    refreshed: int = 0
    known: int = 0
    problems: list[str] = field(default_factory=list)


async def rebuild(
    lead: Connection, store: Store, folder: Path | None, progress: Progress = silent
) -> Rebuilt:
    """Enter every object that the manifest does not have, each read whole and proved first.

    What is entered so is replaced only by what holds all of it. Objects that lie under another tag than the
    manifest knows (copied, uploaded again) are proved too, and the manifest takes their tag.
    """
    rebuilt = Rebuilt()
    progress("read the archive's objects", None)
    async for name in store.names(""):
        place = place_of(name)
        if name.startswith(MERGING):
            continue
        if place is None:
            rebuilt.problems.append(f"{name}: not a part of the archive")
            continue
        parts = await manifest.parts_of_day(lead, place.dataset, place.day)
        known = next((stored for stored in parts if stored.name == name), None)
        try:
            found = await store.find(name)
            if found is None or (known and found.etag == known.part.etag):
                rebuilt.known += found is not None
            elif known is not None:
                well = await settled(store, known, folder)
                await note_checked(lead, known, None)
                await manifest.put(lead, well)
                rebuilt.refreshed += 1
            else:
                await manifest.put(lead, await adopt(store, found, place, folder))
                rebuilt.entered += 1
        except Conflict as error:
            rebuilt.problems.append(error.detail)
    return rebuilt
