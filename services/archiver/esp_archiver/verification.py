"""Reading the archive again and holding it against the manifest."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esp_common.database import Pool
from esp_common.errors import Conflict, NotFound
from esp_common.progress import Progress, silent
from prometheus_client import Gauge

from esp_archiver.damage import note_checked
from esp_archiver.settling import settled
from esp_archiver.storage import Damaged, Store
from esp_archiver.store import manifest
from esp_archiver.store.manifest import PartFilter, Stored

_DAMAGED: Final = Gauge("esp_archiver_damaged_parts", "Parts that were not whole when last read.")


@dataclass
class Checked:
    """What was read again, in `bytes`, and what was wrong."""

    parts: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


async def check(
    pool: Pool,
    store: Store,
    wanted: PartFilter,
    share: float,
    folder: Path | None,
    progress: Progress = silent,
) -> Checked:
    """Read a share (0 to 1) of the parts that fit, those first that were read longest ago.

    What is missing or not whole is noted in the manifest and published for each object; raises Unavailable
    when the store is away.
    """
    checked = Checked()
    chosen = await manifest.least_checked(pool, wanted, share)
    for number, stored in enumerate(chosen):
        progress("read parts again", number / len(chosen))
        damaged = await _problem(pool, store, stored, folder)
        async with pool.acquire() as connection:
            await note_checked(connection, stored, damaged)
        checked.parts += 1
        checked.bytes += stored.bytes
        if damaged:
            checked.problems.append(f"{stored.name}: {damaged}")
    _DAMAGED.set(sum(row["damaged"] for row in await manifest.standing(pool)))
    return checked


async def _problem(pool: Pool, store: Store, stored: Stored, folder: Path | None) -> str | None:
    """Return what is wrong with a part; None: nothing, whatever tag or file its rows lie under now."""
    try:
        found = await settled(store, stored, folder)
    except (Damaged, NotFound, Conflict) as error:
        return error.detail
    if found.part.content_hash == stored.part.content_hash and found.part.etag != stored.part.etag:
        await manifest.refresh(pool, stored, found)
    return None
