"""Records of data files, one at a time however large the file: CSV and Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from esp_common.errors import InvalidInput, NotFound

from esp_gateway.csv_records import CsvFile
from esp_gateway.layout import Layout
from esp_gateway.parquet_records import ParquetFile
from esp_gateway.record import Record, RecordFile

__all__ = ["Record", "RecordFile", "is_parquet", "open_records"]

_PARQUET_MAGIC: Final = b"PAR1"


def open_records(path: Path, columns: Sequence[str], layout: Layout) -> RecordFile:
    """Return the records of `path`, Parquet or CSV; `columns` as `column_name` writes them.

    Raises NotFound, InvalidInput (unreadable) or MapInvalid (one of `columns` is missing).
    """
    return ParquetFile(path, columns) if is_parquet(path) else CsvFile(path, columns, layout)


def is_parquet(path: Path) -> bool:
    """Return whether `path` is, or is named as, a Parquet file; raise NotFound or InvalidInput."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder", fix="name the files in it")
    if not path.is_file():
        raise NotFound(f"no file {path}", fix="check the path")
    try:
        with path.open("rb") as file:
            begins = file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except OSError as error:
        raise InvalidInput(
            f"{path}: cannot be read ({error.strerror})", fix="check its permissions"
        ) from error
    return begins or path.suffix.lower() in (".parquet", ".pq")
