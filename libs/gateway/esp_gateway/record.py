"""A record of a data file, and the interface of record files."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from esp_gateway.errors import MapInvalid
from esp_gateway.layout import Lines


class Record(NamedTuple):
    """One record: its line (CSV) or row (Parquet) in the file, and its cells by column.

    `ragged` is the original text if its cells cannot be separated, with the reason in `problem`; `cells` is
    empty then.
    """

    line: int
    cells: dict[str, Any]
    ragged: str | None = None
    problem: str | None = None


class RecordFile(ABC):
    """A file of records; iterate it once.

    `read_fraction`: share of the file read, 0 to 1. `lines`: counts of its lines by kind.
    """

    def __init__(self, path: Path, unit: str) -> None:
        self.path = path
        self.unit = unit
        self.read_fraction = 0.0
        self.lines = Lines()

    @abstractmethod
    def __iter__(self) -> Iterator[Record]:
        """Yield the records in order."""


def check_columns(
    where: str,
    wanted: Sequence[str],
    present: Sequence[str],
    fix: str = "correct the columns or the delimiter in the map",
) -> None:
    """Raise MapInvalid unless each of `wanted` is `present` exactly once."""
    for name in wanted:
        count = present.count(name)
        if count != 1:
            problem = f"no column {name!r}" if count == 0 else f"column {name!r} occurs {count} times"
            raise MapInvalid(f"{where}: {problem}; the file has {', '.join(map(repr, present))}", fix=fix)
