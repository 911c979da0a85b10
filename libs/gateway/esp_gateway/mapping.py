"""The map: how the records of a file become readings."""

from datetime import datetime, tzinfo
from math import isnan
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from esp_common import topology
from esp_common.contracts.channels import RUNNING, TRIP_CODE
from esp_common.errors import NotFound
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from esp_gateway.encoding import Reading
from esp_gateway.errors import MapInvalid

UNREADABLE: Final = "unreadable_record"
"""Key under which a record that does not fit its file's header is sent: no channel, so it is quarantined."""

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeColumn(_Strict):
    """Where a record's time stands and how it is written.

    `format`: strptime's, or None for ISO 8601. `timezone` holds for times without an offset; of an hour
    that occurs twice at the end of summer time the first is meant.
    """

    column: str
    format: str | None = None
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"no time zone {name!r}, say e.g. Europe/Oslo or UTC") from error
        return name

    def parse(self, value: object, zone: tzinfo) -> datetime | None:
        """Return the instant that `value` (text or a time) names, or None when it names none."""
        if isinstance(value, str):
            try:
                text = value.strip()
                value = datetime.strptime(text, self.format) if self.format else datetime.fromisoformat(text)
            except ValueError:
                return None
        if not isinstance(value, datetime):
            return None
        return value if value.tzinfo else value.replace(tzinfo=zone)


class FileMap(_Strict):
    """What a MAP.yaml says.

    `gateway_id`: whose readings these are (default: the gateway whose credentials are used).
    `pump_id` for files of one pump, or `pump_column`. `columns`: file column → channel or vendor tag to
    send it as; other columns are not sent. `missing`: cell texts that mean "not measured".
    """

    gateway_id: str | None = Field(default=None, pattern=f"^{topology.GATEWAY_ID.pattern}$")
    pump_id: str | None = None
    pump_column: str | None = None
    time: TimeColumn
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    missing: frozenset[str] = frozenset({""})
    columns: dict[str, str] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_pump(self) -> "FileMap":
        if (self.pump_id is None) == (self.pump_column is None):
            raise ValueError("give either pump_id or pump_column")
        return self

    def file_columns(self) -> list[str]:
        """Return every column that a file must have, each once."""
        names = [self.time.column, *self.columns]
        return list(dict.fromkeys(names if self.pump_column is None else [*names, self.pump_column]))


class Mapped(NamedTuple):
    """A record as a reading; `time` is None and `problem` says why when nobody can tell its instant."""

    reading: Reading
    time: datetime | None
    problem: str | None


class Mapper:
    """Applies a map to records, one after another."""

    def __init__(self, file_map: FileMap) -> None:
        self._map = file_map
        self._zone = ZoneInfo(file_map.time.timezone)

    def map(self, record: dict[str, Any]) -> Mapped:
        """Return `record` (file column → cell) as a reading.

        A cell that is no number is sent as it is: judging it is the platform's work, and so is keeping it.
        """
        raw_time = record.get(self._map.time.column)
        time = self._map.time.parse(raw_time, self._zone)
        pump = self._map.pump_id or record.get(self._map.pump_column or "")
        reading: dict[str, Any] = {
            "pump_id": _as_text(pump),
            "time": time.isoformat() if time else _as_text(raw_time),
        }
        for column, name in self._map.columns.items():
            value = self._value(name, record.get(column))
            if value is not None:
                reading[name] = value
        problem = None if time else f"no time in {self._map.time.column} {raw_time!r}"
        return Mapped(reading, time, problem)

    def _value(self, name: str, cell: Any) -> Any:
        if isinstance(cell, float) and isnan(cell):
            return None if "NaN" in self._map.missing else cell
        if not isinstance(cell, str):
            return cell if cell is None or isinstance(cell, int | float) else _as_text(cell)
        text = cell.strip()
        if text in self._map.missing:
            return None
        if name == RUNNING:
            return _BOOLEANS.get(text.lower(), cell)
        return _number(text, cell, int if name == TRIP_CODE else float)


def load_map(path: Path) -> FileMap:
    """Return the map in the YAML file at `path`; raises NotFound, or MapInvalid with the place."""
    if not path.is_file():
        raise NotFound(f"no file {path}", fix="check --map")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise MapInvalid(
            f"{where}: not YAML: {getattr(error, 'problem', error)}", fix="see the example in the README"
        ) from error
    if not isinstance(document, dict):
        raise MapInvalid(
            f"{path}: a map has keys such as time and columns", fix="see the example in the README"
        )
    try:
        return FileMap.model_validate(document)
    except ValidationError as error:
        raise MapInvalid("; ".join(_complaint(path, one) for one in error.errors())) from error


def _complaint(path: Path, error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{path}: {place + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}"


def _number(text: str, cell: str, kind: type[int] | type[float]) -> Any:
    # Python reads "1_000" as a number; a meter that writes so means something else.
    if "_" in text:
        return cell
    try:
        return kind(text)
    except ValueError:
        return cell


def _as_text(value: object) -> str | None:
    return value if isinstance(value, str) or value is None else str(value)
