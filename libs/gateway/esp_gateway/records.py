"""Records of data files, one at a time however large the file: CSV and Parquet."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from os import fstat
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from esp_common.errors import InvalidInput, NotFound

from esp_gateway.errors import MapInvalid

_ROWS: Final = 500


class Record(NamedTuple):
    """One record: its line (CSV) or row (Parquet) in the file, and its cells by column.

    `ragged` is the record as it stands where its cells do not match the header; `cells` is empty then.
    """

    line: int
    cells: dict[str, Any]
    ragged: str | None = None


class RecordFile(ABC):
    """A file of records; iterate it once. `read_fraction` tells how much of it has been read, 0 to 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read_fraction = 0.0

    @abstractmethod
    def __iter__(self) -> Iterator[Record]:
        """Yield the records in order."""


def open_records(path: Path, columns: Sequence[str], delimiter: str) -> RecordFile:
    """Return the records of `path`, Parquet if its name ends so, else CSV.

    Raises NotFound, InvalidInput (unreadable) or MapInvalid (one of `columns` is missing).
    """
    if not path.is_file():
        raise NotFound(f"no file {path}", fix="check the path")
    kind: RecordFile
    if path.suffix.lower() in (".parquet", ".pq"):
        kind = _ParquetFile(path, columns)
    else:
        kind = _CsvFile(path, columns, delimiter)
    return kind


class _CsvFile(RecordFile):
    def __init__(self, path: Path, columns: Sequence[str], delimiter: str) -> None:
        super().__init__(path)
        self._delimiter = delimiter
        # Bytes that are no UTF-8 stay visible in their cell instead of ending the replay.
        self._bytes = path.open("rb")
        self._file = TextIOWrapper(self._bytes, "utf-8-sig", errors="backslashreplace", newline="")
        self._size = max(fstat(self._bytes.fileno()).st_size, 1)
        self._reader = csv.reader(self._file, delimiter=delimiter)
        self._header = next(self._rows(), [])
        _check_columns(path, columns, self._header, f"; the file has {', '.join(map(repr, self._header))}")

    def __iter__(self) -> Iterator[Record]:
        for cells in self._rows():
            self.read_fraction = min(self._bytes.tell() / self._size, 1.0)
            if len(cells) == len(self._header):
                yield Record(self._reader.line_num, dict(zip(self._header, cells, strict=True)))
            elif cells:  # a blank line is no record
                yield Record(self._reader.line_num, {}, self._delimiter.join(cells))
        self._file.close()
        self.read_fraction = 1.0

    def _rows(self) -> Iterator[list[str]]:
        try:
            yield from self._reader
        except csv.Error as error:
            raise InvalidInput(
                f"{self.path}:{self._reader.line_num}: {error}", fix="look for an unclosed quote"
            ) from error


class _ParquetFile(RecordFile):
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path)
        self._columns = list(columns)
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(
                f"{path}: not Parquet: {error}", fix="send it again, or name it .csv"
            ) from error
        names = self._file.schema_arrow.names
        _check_columns(path, columns, names, f"; the file has {', '.join(map(repr, names))}")

    def __iter__(self) -> Iterator[Record]:
        line, rows = 0, max(self._file.metadata.num_rows, 1)
        try:
            for batch in self._file.iter_batches(_ROWS, columns=self._columns):
                for cells in _plain(batch).to_pylist():
                    line += 1
                    yield Record(line, cells)
                self.read_fraction = line / rows
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{self.path}: damaged after row {line}: {error}") from error
        self._file.close()
        self.read_fraction = 1.0


def _plain(batch: Any) -> Any:
    """Return `batch` with times in microseconds and decimals as floats: what readings are made of."""
    return pa.RecordBatch.from_arrays(
        [column.cast(_plain_type(column.type), safe=False) for column in batch.columns],
        names=batch.schema.names,
    )


def _plain_type(kind: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz=kind.tz)
    if pa.types.is_decimal(kind):
        return pa.float64()
    return kind


def _check_columns(path: Path, wanted: Sequence[str], present: Sequence[str], remark: str) -> None:
    for name in wanted:
        count = present.count(name)
        if count != 1:
            problem = f"no column {name!r}" if count == 0 else f"column {name!r} occurs {count} times"
            raise MapInvalid(
                f"{path}:1: {problem}{remark}", fix="correct the columns or the delimiter in the map"
            )
