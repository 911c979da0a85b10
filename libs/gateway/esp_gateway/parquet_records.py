"""Records of Parquet files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from esp_common.errors import InvalidInput

from esp_gateway.layout import column_name
from esp_gateway.record import Record, RecordFile, check_columns

_ROWS: Final = 500


class ParquetFile(RecordFile):
    """The rows of a Parquet file, as records of `columns`."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        super().__init__(path, "rows")
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(
                f"{path}: not Parquet: {error}", fix="send it again, or name it .csv"
            ) from error
        names = self._file.schema_arrow.names
        check_columns(str(path), columns, [column_name(name) for name in names])
        self._columns = [name for name in names if column_name(name) in columns]
        self.lines.total = self._file.metadata.num_rows

    def __iter__(self) -> Iterator[Record]:
        """Yield the rows in order; a row without any value is blank."""
        line, rows = 0, max(self.lines.total, 1)
        names = [column_name(name) for name in self._columns]
        try:
            for batch in self._file.iter_batches(_ROWS, columns=self._columns):
                columns = [_values(batch.column(name)) for name in self._columns]
                for values in zip(*columns, strict=True):
                    line += 1
                    if all(value is None for value in values):
                        self.lines.blank += 1
                    else:
                        yield Record(line, dict(zip(names, values, strict=True)))
                self.read_fraction = line / rows
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{self.path}: damaged after row {line}: {error}") from error
        self._file.close()
        self.read_fraction = 1.0


def _values(column: Any) -> list[Any]:
    """Return a column as Python values; values without a Python form become text."""
    try:
        return column.cast(_plain_type(column.type), safe=False).to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return f"{scalar.type} {scalar.cast(pa.int64(), safe=False).as_py()}"


def _plain_type(kind: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz=kind.tz)
    if pa.types.is_decimal(kind):
        return pa.float64()
    return kind
