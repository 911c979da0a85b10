"""Merging late readings into a field's part of a day, so that the archive has each value once.

1. The parts of the field are downloaded and proved; the rows of the source are written into a file; both are
   merged, pump by pump, into another file on this machine.
2. That file is uploaded under `merging/` and read back: a proved copy lies in the store.
3. It replaces the field's first part at once and whole (`If-Match`), with a note of what it replaces.
4. The manifest takes the new part and drops the others in one transaction; then their objects are deleted,
   and the copy under `merging/`.

A process that is killed at any point leaves one of: the old part; the new part under the old manifest row,
which its note proves to be the successor; or objects marked as obsolete. The next run goes on.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog
from esp_common.database import Connection
from esp_common.errors import Conflict, NotFound

from esp_archiver.damage import note_checked
from esp_archiver.domain.datasets import FORMS, Dataset
from esp_archiver.domain.layout import MERGING, place_of, staged_name
from esp_archiver.domain.merging import Contradiction, aligned, merge, merged, residual
from esp_archiver.domain.planning import Export
from esp_archiver.exports import Written, notes_of, proved, write
from esp_archiver.files import File, PartWriter, file_hash, unnamed_file
from esp_archiver.settling import REPLACES, settled
from esp_archiver.storage import Damaged, Store
from esp_archiver.store import manifest
from esp_archiver.store.manifest import Stored
from esp_archiver.store.sources import Source

log = structlog.get_logger()

MAX_CONTRADICTIONS: Final = 1000
"""Contradicting values of a part that are handed to quarantine; with more the day stays in the database."""

_PUMP: Final = "pump_id"
_SCHEMA: Final = FORMS[Dataset.TELEMETRY].schema


@dataclass(frozen=True, slots=True)
class MergedPart:
    """A merged part on this machine, and what it is made of.

    `written` is None where the source holds nothing that the archive lacks; `base` then is what to note.
    """

    export: Export
    base: Stored
    written: Written | None
    contradictions: tuple[Contradiction, ...] = ()


async def write_merged(
    source: Source,
    connection: Connection,
    export: Export,
    parts: Mapping[str, Stored],
    drops: int,
    store: Store,
    folder: Path | None,
) -> MergedPart:
    """Merge an export's parts and the source's rows into a file on this machine.

    `parts`: the manifest's, by name. Raises Damaged or NotFound when a part cannot be read.
    """
    with ExitStack() as stack:
        bases: list[Stored] = []
        bodies: list[_Rows] = []
        for part in export.merges:
            base = await settled(store, parts[part.place.name], folder)
            body = stack.enter_context(unnamed_file(folder))
            await store.download(base.name, body, base.part.etag)
            if await asyncio.to_thread(file_hash, body) != base.sha256:
                raise Damaged(f"{base.name} changed while it was read", fix="run it again")
            bases.append(base)
            bodies.append(_Rows(body))
        late = None
        if export.content.rows:
            plain = await write(source, connection, replace(export, replaces=None, merges=()), drops, folder)
            stack.callback(plain.close)
            late = _Rows(plain.file.body)
        with ExitStack() as kept:
            body = kept.enter_context(unnamed_file(folder))
            place = export.place
            writer = PartWriter(body, place.dataset, place.field_id, place.day)
            merging = _Merging(bodies, late, writer)
            file = await asyncio.to_thread(merging.write, export.residual)
            return _outcome(export, bases, file, merging.contradictions, drops, kept)


def _outcome(
    export: Export,
    bases: Sequence[Stored],
    file: File,
    contradictions: Sequence[Contradiction],
    drops: int,
    kept: ExitStack,
) -> MergedPart:
    base = bases[-1] if export.residual else bases[0]
    nothing_new = (
        file.summary.rows == 0
        if export.residual
        else (len(bases) == 1 and file.summary.content_hash == base.part.content_hash)
    )
    told = tuple(contradictions)
    if nothing_new:
        content = export.content
        part = replace(base.part, digest=content.digest, source_rows=content.rows, drops=drops, sole=True)
        return MergedPart(export, replace(base, part=part), None, told)
    if not export.residual:
        export = replace(export, replaces=base.part)
    return MergedPart(export, base, Written(export, drops, file, kept.pop_all()), told)


async def publish_merged(store: Store, base: Stored, written: Written, folder: Path | None) -> Stored:
    """Replace the part by the merged one, which was proved in the store before; return its manifest row."""
    place, notes = written.export.place, {**notes_of(written), REPLACES: base.sha256}
    staged = staged_name(place)
    file = written.file
    etag = await store.upload(staged, file.body, file.bytes, notes, over=True)
    await proved(store, written, etag, folder, name=staged)
    etag = await store.upload(place.name, file.body, file.bytes, notes, replaces=base.part.etag)
    stored = await proved(store, written, etag, folder)
    part = replace(stored.part, sole=True, source_rows=written.export.content.rows)
    return replace(stored, part=part)


async def clean_up(lead: Connection, store: Store) -> None:
    """Delete what merged parts made obsolete, and their copies under `merging/` once the part is well."""
    for name in await manifest.obsolete(lead):
        await store.delete(name)
        await manifest.forget_obsolete(lead, name)


async def recover(lead: Connection, store: Store, folder: Path | None) -> list[str]:
    """Finish what killed runs left: prove parts that were being replaced, from their copies if need be.

    Returns what could not be finished.
    """
    problems: list[str] = []
    await clean_up(lead, store)
    async for staged in store.names(MERGING):
        place = place_of(staged.removeprefix(MERGING))
        if place is None:
            continue
        parts = await manifest.parts_of_day(lead, place.dataset, place.day)
        stored = next((each for each in parts if each.name == place.name), None)
        try:
            if stored is not None:
                well = await _recovered(store, stored, staged, folder)
                await note_checked(lead, stored, None)
                await manifest.put(lead, well)
            await store.delete(staged)
        except (Conflict, NotFound) as error:
            problems.append(error.detail)
    return problems


async def _recovered(store: Store, stored: Stored, staged: str, folder: Path | None) -> Stored:
    """Return the row of a part that was being replaced; put its proved copy in its place if it is damaged."""
    try:
        return await settled(store, stored, folder)
    except (Damaged, NotFound):
        found = await store.find(staged)
        if found is None or found.notes.get(REPLACES) != stored.sha256:
            raise
        with unnamed_file(folder) as body:
            await store.download(staged, body, found.etag)
            size = body.tell()
            if await asyncio.to_thread(file_hash, body) != found.notes.get("sha256"):
                raise
            await store.upload(stored.name, body, size, found.notes, over=True)
        log.warning("archive.recovered", object=stored.name)
        return await settled(store, stored, folder)


class _Rows:
    """A part on this machine, read a pump at a time; pumps must be asked for in order."""

    def __init__(self, body: IO[bytes]) -> None:
        body.seek(0)
        self._file = pq.ParquetFile(body, page_checksum_verification=True)
        column = self._file.schema_arrow.names.index(_PUMP)
        groups = (self._file.metadata.row_group(n) for n in range(self._file.metadata.num_row_groups))
        self._bounds = [(s.min, s.max) for s in (group.column(column).statistics for group in groups)]
        self._held: dict[int, pa.Table] = {}

    def pumps(self) -> set[str]:
        """Return whose readings there are."""
        return {
            pump
            for number in range(len(self._bounds))
            for pump in self._file.read_row_group(number, columns=[_PUMP])[_PUMP].unique().to_pylist()
        }

    def of(self, pump_id: str) -> pa.Table:
        """Return a pump's readings."""
        wanted = [n for n, (low, high) in enumerate(self._bounds) if low <= pump_id <= high]
        self._held = {n: self._held.get(n) or self._read(n) for n in wanted}
        tables = [table.filter(pc.equal(table[_PUMP], pump_id)) for table in self._held.values()]
        return pa.concat_tables([_SCHEMA.empty_table(), *tables])

    def _read(self, number: int) -> pa.Table:
        return aligned(self._file.read_row_group(number), _SCHEMA)


class _Merging:
    """Merges files pump by pump: in memory are the readings of one pump, and a row group of each file."""

    def __init__(self, bases: Sequence[_Rows], late: _Rows | None, writer: PartWriter) -> None:
        self._bases = bases
        self._late = late
        self._writer = writer
        self.contradictions: list[Contradiction] = []

    def write(self, only_new: bool) -> File:
        """Write the merged file, or what the late readings add to the others; count contradictions."""
        for table in self._tables(only_new):
            if table.num_rows:
                self._writer.add(table)
        return self._writer.finish()

    def _tables(self, only_new: bool) -> Iterator[pa.Table]:
        files = [*self._bases, *([self._late] if self._late else [])]
        for pump_id in sorted(set().union(*(file.pumps() for file in files))):
            base = merged([file.of(pump_id) for file in self._bases])
            late = self._late.of(pump_id) if self._late else _SCHEMA.empty_table()
            both = merge([base, late])
            self.contradictions += both.contradictions
            yield residual(base, late) if only_new else both.table
