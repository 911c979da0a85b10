"""Reading the archive again and holding it against the manifest."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from esp_common.database import Pool
from esp_common.errors import Conflict, NotFound
from prometheus_client import Gauge

from esp_archiver.exports import fetch
from esp_archiver.storage import Damaged, Store
from esp_archiver.store import manifest
from esp_archiver.store.manifest import PartFilter, Stored

log = structlog.get_logger()

_DAMAGED: Final = Gauge("esp_archiver_damaged_parts", "Parts that were not whole when last read.")


@dataclass
class Checked:
    """What was read again, in `bytes`, and what was wrong."""

    parts: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


async def check(pool: Pool, store: Store, wanted: PartFilter, share: float, folder: Path | None) -> Checked:
    """Read a share (0 to 1) of the parts that fit, those first that were read longest ago.

    What is missing or not whole is noted in the manifest and told; raises Unavailable when the store is away.
    """
    checked = Checked()
    for stored in await manifest.least_checked(pool, wanted, share):
        damaged = await _problem(store, stored, folder)
        await manifest.note_checked(pool, stored.name, damaged)
        checked.parts += 1
        checked.bytes += stored.bytes
        if damaged:
            log.error("archive.damaged", object=stored.name, reason=damaged)
            checked.problems.append(f"{stored.name}: {damaged}")
    _DAMAGED.set(sum(row["damaged"] for row in await manifest.standing(pool)))
    return checked


async def _problem(store: Store, stored: Stored, folder: Path | None) -> str | None:
    """Return what is wrong with a part; None: nothing."""
    try:
        found = await fetch(
            store, stored.part.place, None, folder, drops=stored.part.drops, digest=stored.part.digest
        )
    except (Damaged, NotFound, Conflict) as error:
        return error.detail
    differs = [
        name
        for name, is_, was in (
            ("bytes", found.sha256, stored.sha256),
            ("rows", found.part.content_hash, stored.part.content_hash),
            ("number of rows", found.part.rows, stored.part.rows),
        )
        if is_ != was
    ]
    return f"other {', '.join(differs)} than were verified" if differs else None
