"""The manifest made again from the objects themselves, when the database has lost it."""

from dataclasses import dataclass, field
from pathlib import Path

from esp_common.database import Connection
from esp_common.errors import Conflict

from esp_archiver.domain.layout import place_of
from esp_archiver.exports import adopt
from esp_archiver.storage import Store
from esp_archiver.store import manifest


@dataclass
class Rebuilt:
    """How many objects were entered, how many were known, and which could not be used and why."""

    entered: int = 0
    known: int = 0
    problems: list[str] = field(default_factory=list)


async def rebuild(lead: Connection, store: Store, folder: Path | None) -> Rebuilt:
    """Enter every object that the manifest does not have, each read whole and proved first.

    What is entered so is never written over: what it holds may be nowhere else.
    """
    rebuilt = Rebuilt()
    async for name in store.names(""):
        place = place_of(name)
        if place is None:
            rebuilt.problems.append(f"{name}: not a part of the archive")
            continue
        known = await manifest.parts_of_day(lead, place.dataset, place.day)
        if any(stored.name == name for stored in known):
            rebuilt.known += 1
            continue
        try:
            found = await store.find(name)
            if found is not None:
                await manifest.put(lead, await adopt(store, found, place, folder))
                rebuilt.entered += 1
        except Conflict as error:
            rebuilt.problems.append(error.detail)
    return rebuilt
