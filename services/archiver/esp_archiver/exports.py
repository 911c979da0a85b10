"""One part's way into the archive: read in one snapshot, written, uploaded, and read back to be proved."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import structlog
from esp_common.database import Connection
from esp_common.errors import Conflict, NotFound

from esp_archiver.domain.layout import Place
from esp_archiver.domain.planning import Export, Part
from esp_archiver.files import File, PartWriter, Summary, file_hash, footer_bytes, read_back, unnamed_file
from esp_archiver.storage import Damaged, Found, Store, Taken
from esp_archiver.store.manifest import Stored
from esp_archiver.store.sources import Source

log = structlog.get_logger()

TABLES_AHEAD: Final = 2
"""Tables that wait between the database and the file: each is worked on while the next is on its way."""


@dataclass(frozen=True, slots=True)
class Written:
    """A part that is on this machine; `close` lets its file go."""

    export: Export
    drops: int
    file: File
    holder: ExitStack

    def close(self) -> None:
        """Let the file go."""
        self.holder.close()


async def write(
    source: Source, connection: Connection, export: Export, drops: int, folder: Path | None
) -> Written:
    """Write a part from the snapshot of `connection`, in bounded memory.

    Raises Conflict when the rows are not as many as the snapshot's count said.
    """
    with ExitStack() as stack:
        place = export.place
        body = stack.enter_context(unnamed_file(folder))
        writer = PartWriter(body, place.dataset, place.field_id, place.day)
        await _pipe(source, connection, export, writer)
        file = await asyncio.to_thread(writer.finish)
        _check_count(export, file)
        return Written(export, drops, file, stack.pop_all())


def _check_count(export: Export, file: File) -> None:
    rows, counted = file.summary.rows, export.content.rows
    if rows != counted:
        raise Conflict(f"{export.place.name}: {rows} rows came of {counted}", fix="run it again")


async def _pipe(source: Source, connection: Connection, export: Export, writer: PartWriter) -> None:
    """Have the database send while what came before is encoded."""
    tables: asyncio.Queue[Callable[[], pa.Table] | None] = asyncio.Queue(TABLES_AHEAD)

    async def encode() -> None:
        while (made := await tables.get()) is not None:
            await asyncio.to_thread(writer.add_made, made)

    async with asyncio.TaskGroup() as group:
        group.create_task(encode())
        await source.read(connection, export.place.day, export.content, tables.put)
        await tables.put(None)


async def publish(store: Store, written: Written, folder: Path | None) -> Stored:
    """Upload a part, read it back, and return what may be entered into the manifest.

    An object that is there already under the name is taken for ours if it was written with the same rows.
    Raises Taken if it was not, Damaged when what comes back is not what was sent.
    """
    replaces = written.export.replaces.etag if written.export.replaces else None
    try:
        etag = await _upload(store, written, replaces)
    except Taken:
        etag = await _same(store, written)
    try:
        return await proved(store, written, etag, folder)
    except Damaged:
        # It is ours, and in the manifest yet nowhere: once more over what did not arrive whole.
        return await proved(store, written, await _upload(store, written, etag), folder)


async def _upload(store: Store, written: Written, replaces: str | None) -> str:
    file = written.file
    return await store.upload(
        written.export.place.name, file.body, file.bytes, notes_of(written), replaces=replaces
    )


async def proved(
    store: Store, written: Written, etag: str, folder: Path | None, *, name: str | None = None
) -> Stored:
    """Read the object back (`name`: of a copy); raise Damaged unless it holds what was written."""
    place, file = written.export.place, written.file
    digest = written.export.content.digest
    stored = await fetch(store, place, etag, folder, drops=written.drops, digest=digest, name=name)
    if (stored.sha256, stored.part.content_hash) != (file.sha256, file.summary.content_hash):
        raise Damaged(f"{place.name} came back as something else", fix="run it again")
    return stored


async def _same(store: Store, written: Written) -> str:
    """Return the tag of the object under the part's name if a run before this one left just that there."""
    found = await store.find(written.export.place.name)
    if found is None or found.notes.get("sha256") != written.file.sha256:
        raise Taken(f"{written.export.place.name} holds something else")
    return found.etag


def notes_of(written: Written) -> Mapping[str, str]:
    """Return what is noted on an object: enough to write its manifest row again."""
    return {
        "sha256": written.file.sha256,
        "rows": str(written.file.summary.rows),
        "digest": str(written.export.content.digest),
        "drops": str(written.drops),
        "source_rows": str(written.export.content.rows),
    }


async def fetch(
    store: Store,
    place: Place,
    etag: str | None,
    folder: Path | None,
    *,
    drops: int,
    digest: int,
    name: str | None = None,
) -> Stored:
    """Read the object of a place (or its copy `name`) whole, prove it in itself, and return its manifest row.

    Raises NotFound, Unavailable when it is another version than `etag`, Damaged when it is not whole.
    """
    name = name or place.name
    found = await store.find(name)
    if found is None:
        raise NotFound(f"{name} is not in the archive")
    with unnamed_file(folder) as body:
        await store.download(name, body, etag or found.etag)
        size = body.tell()
        sha256, footer, summary = await asyncio.to_thread(_prove, body, place, size)
    part = Part(place, summary.rows, digest, summary.content_hash, etag or found.etag, drops)
    return Stored(
        part=part,
        bytes=size,
        sha256=sha256,
        footer_bytes=footer,
        first_time=summary.first_time,
        last_time=summary.last_time,
        pumps=summary.pumps,
    )


def _prove(body: Any, place: Place, size: int) -> tuple[str, int, Summary]:
    try:
        return file_hash(body), footer_bytes(body, size), read_back(body, place.dataset)
    except Damaged as error:
        raise Damaged(f"{place.name}: {error.detail}", fix=error.fix) from None


async def adopt(store: Store, found: Found, place: Place, folder: Path | None) -> Stored:
    """Return the manifest row of an object that the manifest does not have.

    It is replaced only by what holds all of it: it may be of a database that was put back to an earlier time,
    and hold what is nowhere else.
    """
    digest, drops = int(found.notes.get("digest", 0)), int(found.notes.get("drops", 0))
    stored = await fetch(store, place, found.etag, folder, drops=drops, digest=digest)
    if stored.sha256 != found.notes.get("sha256", stored.sha256):
        raise Damaged(f"{place.name} is not what was noted on it")
    log.warning("archive.adopted", object=place.name, rows=stored.part.rows)
    source_rows = int(found.notes["source_rows"]) if "source_rows" in found.notes else None
    return replace(stored, part=replace(stored.part, sole=True, source_rows=source_rows))
