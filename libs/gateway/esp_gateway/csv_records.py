"""Records of CSV files; every physical line is a record, part of one, or counted as something else."""

import csv
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper
from os import fstat
from pathlib import Path
from typing import Final, NamedTuple

from esp_common.contracts.words import status_text
from esp_common.errors import InvalidInput

from esp_gateway.errors import MapInvalid
from esp_gateway.layout import (
    MAX_HEADER_LINES,
    Layout,
    column_name,
    encoding_of,
    header_hint,
    is_unit_row,
)
from esp_gateway.record import Record, RecordFile, check_columns

MAX_LINE: Final = 1 << 20
"""Maximum characters of a line; longer lines are not rows."""

MAX_CONTINUED: Final = 100
"""Maximum lines of a quoted cell."""

_MAX_QUOTED: Final = 1 << 16
_HEAD_BYTES: Final = 1 << 16
_UNCLOSED: Final = "a quote is not closed on this line"


class _Line(NamedTuple):
    number: int
    text: str
    is_whole: bool = True


class CsvFile(RecordFile):
    """The records of a CSV file, whose header is the first line with all of `columns`."""

    def __init__(self, path: Path, columns: Sequence[str], layout: Layout) -> None:
        super().__init__(path, "lines")
        self._layout = layout
        try:
            self._bytes = path.open("rb")
        except OSError as error:
            raise InvalidInput(
                f"{path}: cannot be read ({error.strerror})", fix="check its permissions"
            ) from error
        head = self._bytes.read(_HEAD_BYTES)
        self._bytes.seek(0)
        encoding = encoding_of(path, head, layout.encoding)
        # Invalid bytes stay visible in their cell instead of ending the replay.
        self._file = TextIOWrapper(self._bytes, encoding, errors="backslashreplace", newline="")
        self._size = max(fstat(self._bytes.fileno()).st_size, 1)
        self._ahead: deque[_Line] = deque()
        self._header: list[str] = []
        self._header = self._find_header(columns, head, encoding)
        self._wanted = set(columns)

    def __iter__(self) -> Iterator[Record]:
        """Yield the records in order."""
        self._take_unit_rows()
        while (line := self._next()) is not None:
            record = self._record(line)
            if record is not None:
                yield record
            self.read_fraction = min(self._bytes.tell() / self._size, 1.0)
        self._file.close()
        self.read_fraction = 1.0

    def _record(self, line: _Line) -> Record | None:
        """Return the record that begins on `line`, None if the line is not one."""
        text = line.text.strip()
        if not text:
            self.lines.blank += 1
            return None
        if self._layout.ignore_rows and text.lstrip('"').startswith(self._layout.ignore_rows):
            self.lines.ignored += 1
            return None
        if not line.is_whole:
            return Record(line.number, {}, line.text[:1000], f"the line is longer than {MAX_LINE} characters")
        cells = self._split(line)
        if cells is None:
            return Record(line.number, {}, line.text.rstrip("\r\n"), _UNCLOSED)
        if not any(cell.strip() for cell in cells):
            self.lines.blank += 1
            return None
        if len(cells) != len(self._header):
            problem = f"{len(cells)} cells, and the header has {len(self._header)}"
            return Record(line.number, {}, line.text.rstrip("\r\n"), problem)
        return Record(line.number, dict(zip(self._header, cells, strict=True)))

    def _split(self, line: _Line) -> list[str] | None:
        """Return the cells of the record that begins on `line`; None if a quote does not close.

        A quoted cell may span lines. If one of these lines is a row by itself, the quote is a stray one and
        must not consume that row.
        """
        cells = _cells(line.text, self._layout.delimiter)
        if cells is not None:
            return cells
        text = line.text
        for ahead in range(MAX_CONTINUED):
            following = self._peek(ahead)
            if following is None or len(text) > _MAX_QUOTED or self._is_row(following.text):
                return None
            text += following.text
            cells = _cells(text, self._layout.delimiter)
            if cells is not None:
                if self._header and len(cells) != len(self._header):
                    return None
                for _ in range(ahead + 1):
                    self._next()
                self.lines.continued += ahead + 1
                return cells
        return None

    def _is_row(self, text: str) -> bool:
        cells = _cells(text, self._layout.delimiter)
        if cells is None or len(cells) != len(self._header):
            return False
        return len(self._header) > 1 and self._layout.is_time(dict(zip(self._header, cells, strict=True)))

    def _find_header(self, columns: Sequence[str], head: bytes, encoding: str) -> list[str]:
        """Read up to the first line that has all of `columns`, and return its cells."""
        nearest: tuple[int, int, list[str]] = (-1, 1, [])
        for _ in range(self._layout.skip_rows):
            self._next()
        for _ in range(MAX_HEADER_LINES):
            line = self._next()
            if line is None:
                break
            names = [column_name(cell) for cell in self._split(line) or []]
            found = sum(name in names for name in columns)
            if found == len(columns):
                check_columns(f"{self.path}:{line.number}", columns, names)
                self._count_title(line)
                return names
            if found > nearest[0] and any(names):
                nearest = (found, line.number, names)
        self._file.close()
        if not head.strip():
            raise MapInvalid(f"{self.path}: the file is empty", fix="is it the right file?")
        _, number, names = nearest
        fix = header_hint(head, self._layout, encoding, columns)
        check_columns(f"{self.path}:{number}", columns, names, fix)
        raise MapInvalid(f"{self.path}: no header in its first {MAX_HEADER_LINES} lines", fix=fix)

    def _count_title(self, header: _Line) -> None:
        lines = self.lines
        lines.title = header.number - 1
        lines.header, lines.continued = 1 + lines.total - header.number, 0

    def _take_unit_rows(self) -> None:
        rows = self._layout.unit_rows
        for _ in range(2 if rows is None else rows):
            line = self._peek(0)
            if line is None or (rows is None and not self._holds_units(line)):
                return
            self._next()
            self.lines.units += 1

    def _holds_units(self, line: _Line) -> bool:
        cells = _cells(line.text, self._layout.delimiter)
        if cells is None or len(cells) != len(self._header):
            return False
        row: Mapping[str, str] = dict(zip(self._header, cells, strict=True))
        wanted = [cell for name, cell in row.items() if name in self._wanted]
        return is_unit_row(wanted, status_text) and not self._layout.is_time(row)

    def _next(self) -> _Line | None:
        if not self._ahead and not self._read():
            return None
        line = self._ahead.popleft()
        self.lines.total = line.number
        return line

    def _peek(self, ahead: int) -> _Line | None:
        while len(self._ahead) <= ahead:
            if not self._read():
                return None
        return self._ahead[ahead]

    def _read(self) -> bool:
        """Read one more line, of any length, ahead; return False at the end of the file."""
        try:
            text = self._file.readline(MAX_LINE)
            part, is_whole = text, True
            while len(part) == MAX_LINE and not part.endswith(("\n", "\r")):
                part, is_whole = self._file.readline(MAX_LINE), False
        except (OSError, UnicodeError) as error:
            number = self.lines.total + len(self._ahead) + 1
            raise InvalidInput(
                f"{self.path}:{number}: cannot be read: {error}", fix="give encoding in the map"
            ) from error
        if not text:
            return False
        number = (self._ahead[-1].number if self._ahead else self.lines.total) + 1
        self._ahead.append(_Line(number, text, is_whole))
        return True


def _cells(text: str, delimiter: str) -> list[str] | None:
    """Return the cells of one or more joined lines; None if a quoted cell does not end."""
    if '"' not in text:
        return text.rstrip("\r\n").split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        if "unexpected end" in str(error) or "field larger" in str(error):
            return None
    try:  # an undoubled quote inside a quoted cell: read like spreadsheets do
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return None
