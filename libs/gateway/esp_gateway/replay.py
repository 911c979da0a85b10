"""File replay: deliver every record of the files, and resume an interrupted replay."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from esp_gateway.client import GatewayClient
from esp_gateway.encoding import MAX_READINGS, Reading
from esp_gateway.errors import SpoolFull
from esp_gateway.local_times import LocalTimes
from esp_gateway.mapping import UNREADABLE, FileMap, Mapped, Mapper
from esp_gateway.numbers import NumberFormat
from esp_gateway.records import Record, RecordFile, open_records
from esp_gateway.spool import Bookmark, Spool

# Shorter waits are not worth a message of their own.
_SHORTEST_WAIT_S: Final = 0.05

MAX_RECORD: Final = 1 << 16
"""Maximum characters sent of a record without cells, so that it fits a message."""


@dataclass(slots=True)
class _Row:
    """A record on its way: its number, its line in the file, and its reading."""

    number: int
    line: int
    mapped: Mapped

    @property
    def pump(self) -> str | None:
        return self.mapped.pump

    @property
    def local(self) -> datetime | None:
        return self.mapped.local

    @property
    def naive(self) -> datetime | None:
        return self.mapped.naive

    @property
    def values(self) -> dict[str, Any]:
        return self.mapped.values

    def resolve(self, fold: int | None) -> None:
        self.mapped.resolve(fold)


@dataclass
class Source:
    """A file to replay, from record number `position` (0 unless an earlier replay was interrupted)."""

    records: RecordFile
    name: str
    position: int


@dataclass
class Replay:
    """Send the records of `sources` through `client`, and count them.

    `speed`: replay speed relative to the measured times; None for unlimited. `complain` gets a line
    (file:line: problem) for each unreadable record and each cell that is not a value of its channel: they are
    sent anyway, and the platform quarantines them. `advance` is called as records are read. `rows`: sent by
    this run; `skipped`: by an earlier one. `unreadable` rows and the cells in `refused_cells`, by column, are
    those of the whole files, earlier runs included.
    """

    client: GatewayClient
    sources: Sequence[Source]
    file_map: FileMap
    complain: Callable[[str], None]
    advance: Callable[[], None]
    speed: float | None = None
    give_up_after_s: float | None = None
    rows: int = field(default=0, init=False)
    skipped: int = field(default=0, init=False)
    unreadable: int = field(default=0, init=False)
    refused_cells: Counter[str] = field(default_factory=Counter, init=False)

    @property
    def is_complete(self) -> bool:
        """Whether every row and every cell of the files was accepted."""
        return not self.unreadable and not self.refused_cells

    async def run(self) -> None:
        """Return once every record of every file has been confirmed; raises like `GatewayClient.drained`."""
        for source in self.sources:
            await self._replay(source)
        await self.client.drained(self.give_up_after_s)

    async def _replay(self, source: Source) -> None:
        rows = self._rows(source)
        pace = _Pace(self.speed)
        # Reading and mapping a chunk takes milliseconds, too long for the event loop.
        while chunk := await asyncio.to_thread(lambda: list(islice(rows, MAX_READINGS))):
            for group in pace.groups(chunk):
                await asyncio.sleep(max(0.0, pace.wait_s(group[0])))
                await self._send(source, group)

    def _rows(self, source: Source) -> Iterator[_Row]:
        """Yield the rows to send; earlier ones are read too, to resolve later local times."""
        for row in _mapped_rows(source.records, self.file_map):
            self._count(row)
            if row.number <= source.position:
                self.skipped += 1
            else:
                yield row

    def _count(self, row: _Row) -> None:
        if row.mapped.problem:
            self.unreadable += 1
        self.refused_cells.update(list(row.mapped.refused or ()))

    async def _send(self, source: Source, rows: Sequence[_Row]) -> None:
        bookmark = Bookmark(source.name, rows[-1].number)
        readings: list[Reading] = [row.mapped.reading for row in rows]
        while True:
            try:
                await self.client.offer(readings, bookmark)
                break
            except SpoolFull:
                await self.client.settled(self.give_up_after_s)
        self.rows += len(rows)
        for row in rows:
            if problem := complaint(row.mapped, self.file_map.numbers):
                self.complain(f"{source.records.path}:{row.line}: {problem}; sent for quarantine")
        self.advance()


def open_sources(files: Sequence[Path], map_path: Path, file_map: FileMap, spool: Spool) -> list[Source]:
    """Open `files` for a replay by `file_map`, each at the position stored in `spool`.

    A file or map that has changed since starts from the first record.
    """
    how = hashlib.blake2b(map_path.read_bytes(), digest_size=8).hexdigest()
    sources = []
    for path in files:
        records = open_records(path, file_map.file_columns(), file_map.layout())
        stat = path.stat()
        name = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {how}"
        sources.append(Source(records, name, spool.position(name)))
    return sources


def mapped_records(records: RecordFile, file_map: FileMap) -> Iterator[tuple[int, Mapped]]:
    """Yield line and reading of each record, with local times resolved by order where possible."""
    for row in _mapped_rows(records, file_map):
        yield row.line, row.mapped


def complaint(mapped: Mapped, numbers: NumberFormat) -> str:
    """Return a row's problem in a few words, or nothing."""
    said = [mapped.problem] if mapped.problem else []
    for column, cell in (mapped.refused or {}).items():
        hint = numbers.hint(cell)
        said.append(f"{column} {cell[:100]!r} is no value{f' ({hint}?)' if hint else ''}")
    return ", ".join(said)


def _mapped_rows(records: RecordFile, file_map: FileMap) -> Iterator[_Row]:
    mapper, times = Mapper(file_map), LocalTimes[_Row]()
    for number, record in enumerate(records, start=1):
        yield from times.push(_Row(number, record.line, _map(mapper, file_map, record)))
    yield from times.flush()


def _map(mapper: Mapper, file_map: FileMap, record: Record) -> Mapped:
    if record.ragged is None:
        return mapper.map(record.cells)
    text = record.ragged[:MAX_RECORD]
    return Mapped({"pump_id": file_map.pump_id, "time": None, UNREADABLE: text}, None, record.problem)


class _Pace:
    """Compute when each row is due: the first at once, the others spaced as measured, over `speed`."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._origin: tuple[float, datetime] | None = None

    def wait_s(self, row: _Row) -> float:
        """Return the seconds until `row` is due (negative: overdue)."""
        time = row.mapped.time
        if self._speed is None or time is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        if self._origin is None:
            self._origin = (now, time)
        start, first = self._origin
        return start + (time - first).total_seconds() / self._speed - now

    def groups(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Yield `rows` in order, grouped by due time; the first of each group may have to be awaited."""
        self.wait_s(rows[0])
        group: list[_Row] = []
        for row in rows:
            if group and self.wait_s(row) > _SHORTEST_WAIT_S:
                yield group
                group = []
            group.append(row)
        yield group
