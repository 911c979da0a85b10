"""Damage of archived objects: a state of each, told of when it begins and when that object was read well."""

from typing import Final

import structlog
from esp_common import outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Connection

from esp_archiver.settings import SERVICE
from esp_archiver.store import manifest
from esp_archiver.store.manifest import Stored

log = structlog.get_logger()

DAMAGED: Final = "archive.damaged"
REPAIRED: Final = "archive.repaired"


async def note_checked(connection: Connection, stored: Stored, problem: str | None) -> None:
    """Note what was wrong with an object when it was read whole (None: nothing), and publish the change."""
    async with connection.transaction():
        before = await manifest.lock_damage(connection, stored.name)
        await manifest.note_checked(connection, stored.name, problem)
        if (before is None) != (problem is None):
            place = stored.part.place
            data = {
                "object": stored.name,
                "dataset": place.dataset,
                "day": place.day.isoformat(),
                "problem": problem,
            }
            event = Event(REPAIRED if problem is None else DAMAGED, SERVICE, stored.name, data)
            await outbox.enqueue(connection, event, topology.EVENTS)
    if problem:
        log.error("archive.damaged", object=stored.name, reason=problem)
