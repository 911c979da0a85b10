"""Layout of a data file: encoding, title and unit rows, position of the header, count of lines."""

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esp_common.errors import InvalidInput

MAX_HEADER_LINES: Final = 100
"""Lines searched for the header."""

DELIMITERS: Final = (",", ";", "\t", "|")

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY: Final = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it with unxz"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV"),
    (b"ARROW1", "an Arrow file", "save it as Parquet or CSV"),
    (b"%PDF", "a PDF document", "export the data as CSV"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
)
_STARTS_AS_NUMBER: Final = re.compile(r"\s*[+\-\u2212]?[.,]?\d")


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out.

    `skip_rows`: lines before the place where the header is looked for. `unit_rows`: rows after the header
    that hold units; None: those without a number and a time. `ignore_rows`: lines that begin so are no
    records. `is_time`: whether a row's time can be read, which tells a row from the inside of a quoted cell.
    """

    delimiter: str = ","
    encoding: str | None = None
    skip_rows: int = 0
    unit_rows: int | None = None
    ignore_rows: tuple[str, ...] = ()
    is_time: Callable[[Mapping[str, str]], bool] = lambda _: True


@dataclass
class Lines:
    """Counts of a file's physical lines by kind; `total` is the sum of them and the rows."""

    total: int = 0
    title: int = 0
    header: int = 0
    units: int = 0
    blank: int = 0
    ignored: int = 0
    continued: int = 0

    def describe(self, unit: str) -> str:
        """Return the counts in words: `31 lines: 1 header, 30 rows`, without zeros."""
        rows = self.total - (
            self.title + self.header + self.units + self.blank + self.ignored + self.continued
        )
        parts = {
            "title": self.title,
            "header": self.header,
            "units": self.units,
            "blank": self.blank,
            "ignored": self.ignored,
            "continued cells": self.continued,
        }
        said = [f"{count} {name}" for name, count in parts.items() if count]
        return f"{self.total} {unit}: {', '.join([*said, f'{rows} rows'])}"


def column_name(text: str) -> str:
    """Return a column's name with single spaces: spreadsheets wrap long ones."""
    return " ".join(text.split())


def encoding_of(path: Path, head: bytes, stated: str | None) -> str:
    """Return the encoding of a file that begins with `head`: its byte order mark, `stated`, or UTF-8.

    Raises InvalidInput if it is not text.
    """
    for magic, what, fix in _BINARY:
        if head.startswith(magic):
            raise InvalidInput(f"{path}: is {what}, not CSV", fix=fix)
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    if stated is None and b"\0" in head:
        guess = "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
        raise InvalidInput(
            f"{path}: has zero bytes, which UTF-8 text has not", fix=f"if it is text, try encoding: {guess}"
        )
    return stated or "utf-8"


def is_unit_row(cells: Iterable[str], statuses: Callable[[object], object]) -> bool:
    """Return whether a row after the header holds units: texts, none a number and none a status."""
    texts = [cell for cell in cells if cell.strip()]
    return bool(texts) and not any(_STARTS_AS_NUMBER.match(text) or statuses(text) for text in texts)


def header_hint(head: bytes, layout: Layout, encoding: str, columns: Sequence[str]) -> str:
    """Return a hint which map entry would find `columns` in a text that begins with `head`."""
    encodings = [encoding] if _decodes(head, encoding) else [encoding, "cp1252"]
    for candidate in encodings:
        text = head.decode(candidate, "replace")
        for delimiter in (layout.delimiter, *DELIMITERS):
            for line in text.splitlines()[:MAX_HEADER_LINES]:
                names = {column_name(cell.strip('"')) for cell in line.split(delimiter)}
                if names.issuperset(columns):
                    return _fix(candidate if candidate != encoding else None, delimiter, layout.delimiter)
    if len(encodings) > 1:
        return f"it is not {encoding.upper()} text: give its encoding in the map, e.g. encoding: cp1252"
    return "correct the columns or the delimiter in the map"


def _fix(encoding: str | None, delimiter: str, stated: str) -> str:
    parts = [f"encoding: {encoding}"] if encoding else []
    if delimiter != stated:
        parts.append(f"delimiter: {delimiter!r}")
    return f"with {' and '.join(parts) or 'fewer skip_rows'} in the map they would be found"


def _decodes(head: bytes, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        decoder.decode(head)
    except UnicodeDecodeError:
        return False
    return True
