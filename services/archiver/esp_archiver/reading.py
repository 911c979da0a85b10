"""Reading back: a pump and a span of time from the bytes that hold them, whatever the archive's size."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from itertools import groupby
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.database import Pool
from esp_common.errors import InvalidInput, NotFound, Unavailable
from prometheus_client import Counter

from esp_archiver.damage import note_checked
from esp_archiver.domain.datasets import FORMS, Dataset
from esp_archiver.domain.merging import aligned, merged
from esp_archiver.domain.pruning import Span, groups_of, spans_of
from esp_archiver.settling import settled
from esp_archiver.storage import Changed, Damaged, Store
from esp_archiver.store import manifest
from esp_archiver.store.manifest import Stored, parts_of_pump

_READ: Final = Counter("esp_archiver_read_bytes_total", "Bytes of the archive read to answer questions.")
_KEY: Final = ("pump_id", "time")
MAX_TRIES: Final = 3
"""How often a day is read anew whose parts change meanwhile."""

_TAIL: Final = 64 * 1024
"""Bytes that pyarrow looks for a footer in, whatever its size."""

_SCHEMA: Final = FORMS[Dataset.TELEMETRY].schema


@dataclass(frozen=True, slots=True)
class Question:
    """Readings of a pump in [since, until); `columns` besides pump and time, in the schema's order."""

    pump_id: str
    since: datetime
    until: datetime
    columns: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        """Schema of the answer."""
        return pa.schema([_SCHEMA.field(name) for name in (*_KEY, *self.columns)])


def columns_named(channels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns of an answer: those of `channels`, None for all there are.

    Raises InvalidInput naming the channels that do not exist.
    """
    every = [name for name in _SCHEMA.names if name not in _KEY]
    if channels is None:
        return tuple(every)
    if unknown := [name for name in channels if name not in every]:
        fix = f"known here: {', '.join((*CHANNEL_NAMES, 'running', 'trip_code'))}"
        raise InvalidInput(f"unknown channels: {', '.join(unknown)}", fix=fix)
    return tuple(name for name in every if name in channels)


class Reader:
    """Reads readings from the archive; every version of an object that it reads is one that was verified."""

    def __init__(self, pool: Pool, store: Store) -> None:
        self._pool = pool
        self._store = store

    async def parts(self, question: Question) -> list[Stored]:
        """Return the parts that an answer is made of, in the order of their days."""
        return await parts_of_pump(self._pool, question.pump_id, question.since, question.until)

    async def tables(self, question: Question, parts: Sequence[Stored]) -> AsyncIterator[pa.Table]:
        """Yield the answer in the order of time, a table a day; days without a reading are left out.

        Raises NotFound, Unavailable, or Damaged when a byte of what was read is not as it was written.
        """
        for day, of_day in groupby(parts, key=lambda part: part.part.place.day):
            table = await self._of_day(question, day, list(of_day))
            if table.num_rows:
                yield table

    async def _of_day(self, question: Question, day: date, parts: Sequence[Stored]) -> pa.Table:
        """Return a day's readings; parts that are merged or uploaded again meanwhile are read again."""
        for _ in range(MAX_TRIES):
            # Which flags and marks hold depends on the part that each value comes from.
            read = replace(question, columns=columns_named(None)) if len(parts) > 1 else question
            try:
                found = [await self._from_part(read, part) for part in parts]
                return await asyncio.to_thread(_joined, question, found)
            except (Changed, NotFound):
                again = [part for part in await self.parts(question) if part.part.place.day == day]
                parts = [await self._settled(part) for part in again]
        raise Unavailable(f"the archive of {day} is being written", fix="ask again")

    async def _settled(self, part: Stored) -> Stored:
        """Return a part's row for the object that lies there now, if that holds the same or more."""
        found = await self._store.find(part.name)
        if found is not None and found.etag == part.part.etag:
            return part
        try:
            now = await settled(self._store, part, None)
        except (Damaged, NotFound) as error:
            await self._note(part, error.detail)
            raise
        if now.part.content_hash == part.part.content_hash:
            await manifest.refresh(self._pool, part, now)
            await self._note(part, None)
        return now

    async def _note(self, part: Stored, problem: str | None) -> None:
        async with self._pool.acquire() as connection:
            await note_checked(connection, part, problem)

    async def _from_part(self, question: Question, part: Stored) -> pa.Table:
        window = _Window(part.bytes)
        tail = max(part.footer_bytes, _TAIL)
        await self._load(window, part, [Span(max(0, part.bytes - tail), part.bytes)])
        try:
            return await self._read_part(question, part, window)
        except Changed:
            raise
        except Damaged as error:
            await self._note(part, error.detail)
            raise

    async def _read_part(self, question: Question, part: Stored, window: "_Window") -> pa.Table:
        metadata = await asyncio.to_thread(_metadata, window, part)
        groups = groups_of(metadata, [question.pump_id], question.since, question.until)
        if not groups:
            return question.schema.empty_table()
        await self._load(window, part, spans_of(metadata, groups, {*_KEY, *question.columns}))
        return await asyncio.to_thread(_read, window, part, groups, question)

    async def _load(self, window: "_Window", part: Stored, spans: Sequence[Span]) -> None:
        """Fetch `spans` into `window`."""

        async def load(span: Span) -> None:
            data = await self._store.read(part.name, span.start, span.end, part.part.etag)
            _READ.inc(len(data))
            window.pieces.append((span.start, data))

        await asyncio.gather(*(load(span) for span in spans))


@dataclass
class _Window:
    """A file of `size` bytes of which only `pieces` are here; anything else reads as an error."""

    size: int
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    at: int = 0
    closed: bool = False

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        count = self.size - self.at if count < 0 else min(count, self.size - self.at)
        for start, data in self.pieces:
            if start <= self.at and self.at + count <= start + len(data):
                piece = data[self.at - start : self.at - start + count]
                self.at += count
                return piece
        raise OSError(f"bytes {self.at} to {self.at + count} were not fetched")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def _file(window: _Window, part: Stored) -> Any:
    try:
        return pq.ParquetFile(
            pa.PythonFile(window, mode="r"), page_checksum_verification=True, pre_buffer=False
        )
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from error


def _metadata(window: _Window, part: Stored) -> Any:
    return _file(window, part).metadata


def _read(window: _Window, part: Stored, groups: Sequence[int], question: Question) -> pa.Table:
    file = _file(window, part)
    try:
        table = file.read_row_groups(list(groups), columns=[*_KEY, *question.columns], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from error
    wanted = pc.and_(
        pc.equal(table["pump_id"], question.pump_id),
        pc.and_(
            pc.greater_equal(table["time"], pa.scalar(question.since, _SCHEMA.field("time").type)),
            pc.less(table["time"], pa.scalar(question.until, _SCHEMA.field("time").type)),
        ),
    )
    return aligned(table.filter(wanted), question.schema)


def _joined(question: Question, found: Sequence[pa.Table]) -> pa.Table:
    filled = [table for table in found if table.num_rows]
    return merged(filled).select(question.schema.names) if filled else question.schema.empty_table()


def _damaged(part: Stored, error: Exception) -> Damaged:
    return Damaged(
        f"{part.name}: {error}", fix="esp-archiver verify; restore the object from an older version"
    )
