"""Parse the beginning of a data file without a map: its header, units and first rows."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from esp_common.contracts.words import status_text
from esp_common.errors import InvalidInput

from esp_gateway.layout import DELIMITERS, column_name, encoding_of, is_unit_row
from esp_gateway.records import is_parquet

_HEAD_BYTES: Final = 1 << 18
_ROWS: Final = 500
_STARTS_AS_NUMBER: Final = tuple("0123456789")


@dataclass(frozen=True)
class Sample:
    """`layout`: what the map must say of it. `units`: those of a unit row. `rows`: up to 500 records."""

    layout: Mapping[str, Any]
    header: Sequence[str]
    units: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    remarks: Sequence[str]

    def texts(self, column: str) -> list[Any]:
        """Return the values of a column that are not empty."""
        values = (row.get(column) for row in self.rows)
        return [value for value in values if value is not None and str(value).strip()]


def take_sample(path: Path) -> Sample:
    """Return the beginning of `path`; raises NotFound or InvalidInput."""
    return _parquet_sample(path) if is_parquet(path) else _csv_sample(path)


def _parquet_sample(path: Path) -> Sample:
    try:
        file = pq.ParquetFile(path)
        batch = next(file.iter_batches(_ROWS), None)
        rows = batch.to_pylist() if batch is not None else []
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{path}: not Parquet: {error}", fix="send it again, or name it .csv") from error
    header = [column_name(name) for name in file.schema_arrow.names]
    return Sample({}, header, {}, [{column_name(k): v for k, v in row.items()} for row in rows], [])


def _csv_sample(path: Path) -> Sample:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    encoding, remarks = _encoding(path, head)
    lines = head.decode(encoding, "replace").splitlines()
    lines = lines[:-1] if len(head) == _HEAD_BYTES else lines
    delimiter = max(DELIMITERS, key=lambda each: _regularity(lines, each))
    table = [_cells(line, delimiter) for line in lines]
    width = _modal_width(table)
    start = _header_row(table, width)
    if start is None:
        raise InvalidInput(
            f"{path}: no header line in its beginning", fix="give the file a line of column names"
        )
    header = [column_name(cell) for cell in table[start]]
    below = [
        cells for cells in table[start + 1 :] if len(cells) == len(header) and any(map(str.strip, cells))
    ]
    has_units = bool(below) and is_unit_row(below[0], status_text)
    units = dict(zip(header, (cell.strip(" []()") for cell in below[0]), strict=True)) if has_units else {}
    rows = [dict(zip(header, cells, strict=True)) for cells in below[has_units : _ROWS + has_units]]
    layout: dict[str, Any] = (
        {} if encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32") else {"encoding": encoding}
    )
    if delimiter != ",":
        layout["delimiter"] = delimiter
    if start:
        remarks.append(f"{start} lines before the header are skipped")
    if has_units:
        remarks.append("a row of units follows the header")
    return Sample(layout, header, units, rows, remarks)


def _encoding(path: Path, head: bytes) -> tuple[str, list[str]]:
    if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        encoding_of(path, head, "utf-16")  # binary files end here
        return ("utf-16-be" if head[:1] == b"\0" else "utf-16-le"), ["the file is UTF-16 without a mark"]
    encoding = encoding_of(path, head, None)
    try:
        head[: head.rfind(b"\n") + 1].decode(encoding)
    except UnicodeDecodeError:
        return "cp1252", ["the file is not UTF-8; cp1252 is the usual one: check letters such as ° and é"]
    return encoding, []


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _modal_width(table: Sequence[Sequence[str]]) -> int:
    widths = Counter(len(cells) for cells in table if any(map(str.strip, cells)))
    return widths.most_common(1)[0][0] if widths else 0


def _regularity(lines: Sequence[str], delimiter: str) -> tuple[int, int]:
    """Return how many lines have the most common number of cells, and that number; none if it is one."""
    table = [_cells(line, delimiter) for line in lines[:200]]
    width = _modal_width(table)
    return (sum(len(cells) == width for cells in table), width) if width > 1 else (0, 0)


def _header_row(table: Sequence[Sequence[str]], width: int) -> int | None:
    """Return the first row of the common width whose cells are mostly names and never numbers."""
    for number, cells in enumerate(table):
        named = [cell for cell in cells if cell.strip()]
        numbers = [cell for cell in named if cell.strip().startswith(_STARTS_AS_NUMBER)]
        if len(cells) == width and len(named) > width // 2 and not numbers:
            return number
    return None
