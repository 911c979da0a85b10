"""Parts as files on this machine: written row group by row group, and read back to be proved."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from esp_common.contracts.channels import CHANNEL_NAMES

from esp_archiver.domain.content import ContentHash, Extremes, extremes, widened
from esp_archiver.domain.datasets import ADDED_COLUMNS, FORMS, SCHEMA_VERSION, UNITS, Dataset, writer_options
from esp_archiver.domain.pruning import FOOTER_TAIL
from esp_archiver.domain.row_groups import RowGroups
from esp_archiver.storage import Damaged

_BLOCK: Final = 1024 * 1024
_DAY_OF: Final = {Dataset.TELEMETRY: "time", Dataset.AUDIT: "time", Dataset.FINDINGS: "cleared_at"}
_PUMP: Final = "pump_id"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a part holds, as it was seen while it was written or read."""

    rows: int
    content_hash: str
    extremes: Extremes
    pumps: tuple[str, ...]
    first_time: datetime
    last_time: datetime


@dataclass(frozen=True, slots=True)
class File:
    """A part on this machine: an unnamed file, with its size and hash, and that of its footer."""

    body: IO[bytes]
    bytes: int
    sha256: str
    footer_bytes: int
    summary: Summary


@contextmanager
def unnamed_file(folder: Path | None) -> Iterator[IO[bytes]]:
    """Yield a file that is gone with this process, whatever ends it."""
    with tempfile.TemporaryFile(dir=folder) as body:
        yield body


class _Tally:
    """What is known of a part's rows as they pass."""

    def __init__(self, dataset: Dataset, schema: pa.Schema) -> None:
        self._schema = schema
        self._hash = ContentHash(self._schema, ADDED_COLUMNS)
        self._day_of = _DAY_OF[dataset]
        self._bounded = [self._day_of, *(name for name in CHANNEL_NAMES if name in self._schema.names)]
        self._extremes: Extremes = {}
        self._pumps: set[str] = set()

    def add(self, table: pa.Table, known: Extremes | None = None) -> None:
        """Add rows; `known`: extremes of columns of theirs, the bounded ones among them."""
        self._hash.update(table)
        found = known if known is not None else extremes(table, self._bounded)
        bounded = {name: found[name] for name in self._bounded if name in found}
        self._extremes = widened(self._extremes, bounded)
        if _PUMP in self._schema.names:
            self._pumps.update(table.column(_PUMP).unique().to_pylist())

    def summary(self) -> Summary:
        first, last = self._extremes.get(self._day_of, (_EPOCH, _EPOCH))
        return Summary(
            self._hash.rows, self._hash.hexdigest(), self._extremes, tuple(sorted(self._pumps)), first, last
        )


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PartWriter:
    """Writes a part into `body`. Not to be shared by threads; its calls take milliseconds."""

    def __init__(self, body: IO[bytes], dataset: Dataset, field_id: str, day: date) -> None:
        self._body = body
        form = FORMS[dataset]
        self._tally = _Tally(dataset, form.schema)
        self._groups = RowGroups(_PUMP if _PUMP in form.sorted_by else None)
        self._notes = {
            "esp.dataset": str(dataset),
            "esp.schema_version": str(SCHEMA_VERSION),
            "esp.field": field_id,
            "esp.day": day.isoformat(),
            **({"esp.units": UNITS} if dataset is Dataset.TELEMETRY else {}),
        }
        order = [pq.SortingColumn(form.schema.names.index(name)) for name in form.sorted_by]
        self._writer = pq.ParquetWriter(body, form.schema, sorting_columns=order, **writer_options(form))

    def add(self, table: pa.Table) -> None:
        """Add rows that come next in the dataset's order."""
        self._tally.add(table)
        for group in self._groups.feed(table):
            self._writer.write_table(group, row_group_size=group.num_rows)

    def add_made(self, make: Callable[[], pa.Table]) -> None:
        """Add rows that are made only now, in the thread that writes them."""
        self.add(make())

    def finish(self) -> File:
        """Write the rest and the footer, and return the file."""
        for group in self._groups.finish():
            self._writer.write_table(group, row_group_size=group.num_rows)
        summary = self._tally.summary()
        notes = {"esp.rows": str(summary.rows), "esp.content_hash": summary.content_hash}
        self._writer.add_key_value_metadata({**self._notes, **notes})
        self._writer.close()
        size = self._body.tell()
        return File(self._body, size, file_hash(self._body), footer_bytes(self._body, size), summary)


def file_hash(body: IO[bytes]) -> str:
    """Return the SHA-256 of a whole file."""
    body.seek(0)
    whole = hashlib.sha256()
    while block := body.read(_BLOCK):
        whole.update(block)
    return whole.hexdigest()


def footer_bytes(body: IO[bytes], size: int) -> int:
    """Return how many bytes at the end of a Parquet file are its footer and what follows that."""
    body.seek(max(0, size - FOOTER_TAIL))
    tail = body.read(FOOTER_TAIL)
    if tail[-4:] != b"PAR1":
        raise Damaged("this is no Parquet file, or not all of one")
    return int.from_bytes(tail[:4], "little") + FOOTER_TAIL


def read_back(body: IO[bytes], dataset: Dataset) -> Summary:
    """Read a whole part, checking every page, and return what it holds.

    Raises Damaged when it cannot be read, or when the statistics by which readers leave out row groups, or
    what the file says of itself, are not those of its rows.
    """
    body.seek(0)
    try:
        file = pq.ParquetFile(body, page_checksum_verification=True)
        # Files that were written before a column was added lack it.
        columns = [field for field in FORMS[dataset].schema if field.name in file.schema_arrow.names]
        tally = _Tally(dataset, pa.schema(columns))
        for number in range(file.metadata.num_row_groups):
            table = file.read_row_group(number)
            found = extremes(table, [name for name in table.column_names if not _is_list(table, name)])
            _check_statistics(file.metadata.row_group(number), table, found)
            tally.add(table, found)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"not readable: {error}", fix="restore the object from an older version") from error
    summary = tally.summary()
    said = (file.metadata.metadata or {}).get(b"esp.content_hash", b"").decode()
    if said != summary.content_hash:
        raise Damaged("its rows are not those it was written with")
    return summary


def _is_list(table: pa.Table, name: str) -> bool:
    return bool(pa.types.is_list(table.schema.field(name).type))


def _check_statistics(group: Any, table: pa.Table, found: Extremes) -> None:
    for number in range(group.num_columns):
        column = group.column(number)
        name, statistics = column.path_in_schema, column.statistics
        if name not in table.column_names or statistics is None or not statistics.has_min_max:
            continue
        if found.get(name) != (statistics.min, statistics.max):
            raise Damaged(f"statistics of {name} are not those of its rows")
