"""The map from the records of a file to readings."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

import yaml
from esp_common import topology
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNELS, RUNNING, TRIP_CODE
from esp_common.contracts.units import make_tag
from esp_common.contracts.words import normalise, parse_flag, parse_whole
from esp_common.errors import InvalidInput, NotFound
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from esp_gateway.errors import MapInvalid
from esp_gateway.layout import Layout, column_name
from esp_gateway.numbers import NumberFormat
from esp_gateway.times import EARLIEST, TimeColumn, TimeUnreadable, is_clear, is_skipped

UNREADABLE: Final = "unreadable_record"
"""Key of a record that does not fit its file's header: not a channel, so the platform quarantines it."""

MAX_TEXT: Final = 1000
"""Maximum characters sent of a cell that is not a number."""

_PUMP_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_IDENTITY: Final = ("pump_id", "time")
_STATES: Final = (RUNNING, TRIP_CODE)

States = dict[str, StrictBool | StrictInt]


class FileMap(BaseModel):
    """Contents of a MAP.yaml.

    `gateway_id`: source of the readings (default: the gateway whose credentials are used). `pump_id` for
    files of one pump, or `pump_column`. `columns`: file column → channel or vendor tag; other columns are not
    sent. `missing`: cell texts that mean "not measured". `states`: by column, words and the state of each.
    `units`: by column, its unit, as a check: a channel is sent in its own unit only. The other fields
    describe the file (`Layout`, `NumberFormat`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gateway_id: str | None = Field(default=None, pattern=f"^{topology.GATEWAY_ID.pattern}$")
    pump_id: str | None = None
    pump_column: str | None = None
    time: TimeColumn
    encoding: str | None = None
    delimiter: str = Field(default=",", min_length=1, max_length=1, pattern=r'^[^"\r\nA-Za-z0-9]$')
    decimal: Literal[".", ","] = "."
    thousands: Literal[".", ",", " ", "'"] | None = None
    skip_rows: int = Field(default=0, ge=0, le=10_000)
    unit_rows: int | None = Field(default=None, ge=0, le=10)
    ignore_rows: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    missing: frozenset[str] = frozenset({""})
    columns: dict[str, str] = Field(min_length=1)
    states: dict[str, States] = {}
    units: dict[str, str] = {}

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                "1".encode(name).decode(name)
            except (LookupError, ValueError) as error:
                raise ValueError(f"no encoding {name!r}, say e.g. utf-8, cp1252 or utf-16") from error
        return name

    @field_validator("pump_id")
    @classmethod
    def _is_pump(cls, pump_id: str | None) -> str | None:
        if pump_id is not None and not _PUMP_ID.fullmatch(pump_id):
            raise ValueError(f"{pump_id!r} cannot be a pump id")
        return pump_id

    @field_validator("missing", mode="before")
    @classmethod
    def _as_texts(cls, missing: Any) -> Any:
        """Convert numbers such as -9999 to the text in the file."""
        if isinstance(missing, list):
            return [str(each) if type(each) in (int, float) else each for each in missing]
        return missing

    @model_validator(mode="after")
    def _one_pump(self) -> "FileMap":
        if (self.pump_id is None) == (self.pump_column is None):
            raise ValueError("give either pump_id or pump_column")
        if self.thousands == self.decimal:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        return self

    @model_validator(mode="after")
    def _columns_agree(self) -> "FileMap":
        for name, count in Counter(self.columns.values()).items():
            if count > 1:
                columns = ", ".join(column for column, sent in self.columns.items() if sent == name)
                raise ValueError(f"columns: {columns} are all sent as {name}; one value would hide another")
            if name in _IDENTITY or not name.strip():
                raise ValueError(f"columns: {name!r} is no channel and no tag")
        for place, columns_ in (("states", self.states), ("units", self.units)):
            for column in columns_:
                if column not in self.columns:
                    raise ValueError(f"{place}: {column!r} is not among the columns")
        for column, states in self.states.items():
            _check_states(column, self.columns[column], states)
        for column, unit in self.units.items():
            _check_unit(column, self.columns[column], unit)
        return self

    @property
    def numbers(self) -> NumberFormat:
        """Number format of the file."""
        return NumberFormat(self.decimal, self.thousands)

    def layout(self) -> Layout:
        """Return the layout of the file."""
        return Layout(
            self.delimiter, self.encoding, self.skip_rows, self.unit_rows, self.ignore_rows, self._is_time
        )

    def file_columns(self) -> list[str]:
        """Return every required column once, in the form of `column_name`."""
        names = [self.time.column, *self.columns, *([self.pump_column] if self.pump_column else [])]
        return list(dict.fromkeys(map(column_name, names)))

    def _is_time(self, cells: Mapping[str, str]) -> bool:
        try:
            self.time.read(cells.get(column_name(self.time.column)), self.numbers)
        except TimeUnreadable:
            return False
        return True


@dataclass(slots=True)
class Mapped:
    """A record as a reading, with its problems.

    `time`, in UTC, is None and `problem` set if its instant cannot be determined. `local`: the local time
    while ambiguous; `naive`: the local time of an unambiguous instant. `refused`: by column, the original
    text of cells that are sent but cannot be stored.
    """

    reading: dict[str, Any]
    time: datetime | None
    problem: str | None
    local: datetime | None = None
    naive: datetime | None = None
    refused: Mapping[str, str] | None = None
    zone: ZoneInfo | None = None

    @property
    def pump(self) -> str | None:
        """Pump of the reading."""
        return self.reading.get("pump_id")

    @property
    def values(self) -> dict[str, Any]:
        """Measured values."""
        return {name: value for name, value in self.reading.items() if name not in _IDENTITY}

    def resolve(self, fold: int | None) -> None:
        """Choose the first (0) or second (1) instant of `local`; None: it stays ambiguous."""
        if self.local is not None and fold is not None:
            time = self.local.replace(tzinfo=self.zone, fold=fold)
            self.reading["time"] = time.isoformat()
            self.time = time.astimezone(UTC)
            self.problem = None
        self.local = None


class Mapper:
    """Applies a map to records, one after another."""

    def __init__(self, file_map: FileMap) -> None:
        self._map = file_map
        self._zone = ZoneInfo(file_map.time.timezone)
        self._time_column = column_name(file_map.time.column)
        self._pump_column = column_name(file_map.pump_column or "")
        self._numbers = file_map.numbers
        self._missing_numbers = {
            number
            for text in file_map.missing
            for number in (self._numbers.parse(text), NumberFormat().parse(text))
            if number is not None
        }
        self._columns = [
            (column_name(column), name, {normalise(w): s for w, s in file_map.states.get(column, {}).items()})
            for column, name in file_map.columns.items()
        ]

    def map(self, record: Mapping[str, Any]) -> Mapped:
        """Return `record` (file column → cell) as a reading.

        A cell that is not a number is sent unchanged: the platform judges and keeps it.
        """
        mapped = self._timed(record.get(self._time_column))
        pump = self._map.pump_id or _as_text(record.get(self._pump_column))
        reading = {"pump_id": pump, "time": mapped.reading["time"]}
        refused: dict[str, str] = {}
        for column, name, states in self._columns:
            cell = record.get(column)
            number = None if states or name in _STATES else self._plain(cell)
            value, is_taken = (number, True) if number is not None else self._value(name, cell, states)
            if value is not None:
                reading[name] = value
            if not is_taken:
                refused[column] = str(value)
        mapped.reading, mapped.refused = reading, refused
        if self._map.pump_id is None and not _PUMP_ID.fullmatch(pump or ""):
            mapped.problem = mapped.problem or f"{self._map.pump_column} {pump!r} is no pump id"
            mapped.local = None
        return mapped

    def _plain(self, cell: Any) -> float | None:
        """Return the number in a cell's text, None for every other cell; most cells are plain numbers."""
        number = self._numbers.parse(cell) if type(cell) is str else None
        return None if number is None or not isfinite(number) or number in self._missing_numbers else number

    def _timed(self, cell: Any) -> Mapped:
        column = self._map.time.column
        try:
            time = self._map.time.read(cell, self._numbers)
        except TimeUnreadable as error:
            raw = _as_text(cell)
            reason = f" ({error})" if str(error) else ""
            return Mapped({"time": raw}, None, f"no time in {column} {raw!r}{reason}")
        if time.tzinfo is None:
            return self._local(time)
        return self._instant(time)

    def _local(self, local: datetime) -> Mapped:
        zone = self._map.time.timezone
        if is_clear(local, self._zone):
            return self._instant(local.replace(tzinfo=self._zone), local)
        if is_skipped(local, self._zone):
            return self._unclear(f"{local} does not exist in {zone}: the clocks were put forward", None)
        reason = f"{local} occurs twice in {zone}, and the order of the rows does not tell which"
        return self._unclear(reason, local)

    def _unclear(self, reason: str, local: datetime | None) -> Mapped:
        return Mapped({"time": reason}, None, reason, local, zone=self._zone)

    def _instant(self, time: datetime, local: datetime | None = None) -> Mapped:
        instant = time.astimezone(UTC)
        early = f"{time} is before the year 2000" if instant < EARLIEST else None
        naive = local or time.astimezone(self._zone).replace(tzinfo=None)
        return Mapped({"time": time.isoformat()}, instant, early, naive=naive)

    def _value(self, name: str, cell: Any, states: Mapping[str, bool | int]) -> tuple[Any, bool]:
        """Return the value to send for `cell`, and whether the platform can store it."""
        if isinstance(cell, bytes):
            cell = cell.decode("utf-8", "backslashreplace")
        text = cell.strip() if isinstance(cell, str) else None
        if cell is None or text in self._map.missing:
            return None, True
        number = cell if text is None else self._numbers.parse(text)
        if self._is_missing(number):
            return None, True
        state = _state(name, text or cell, states)
        if state is None and number is not None:
            state = _state(name, number, states)
        if state is not None:
            return state, True
        return _sendable(name, cell, text, number)

    def _is_missing(self, number: Any) -> bool:
        if type(number) is float and number != number:
            return "NaN" in self._map.missing or "nan" in self._map.missing
        return type(number) in (int, float) and number in self._missing_numbers


def _sendable(name: str, cell: Any, text: str | None, number: Any) -> tuple[Any, bool]:
    """Return the cell of a float channel or vendor tag as sent, and whether it can be stored."""
    if name in (RUNNING, TRIP_CODE):
        return (cell if isinstance(cell, bool | int | float) else _as_text(cell)), False
    if isinstance(number, bool):
        return number, name not in CHANNEL_INDEX
    if isinstance(number, int | float):
        return number, isfinite(number)
    # The platform knows whether a vendor's tag is a flag: it accepts the common words for one.
    is_flag = text is not None and name not in CHANNEL_INDEX and parse_flag(text) is not None
    return _as_text(cell), is_flag


def _state(name: str, value: Any, states: Mapping[str, bool | int]) -> bool | int | None:
    """Return the flag or code for `value`; a vendor's tag has only its own words."""
    if name == TRIP_CODE:
        return parse_whole(value, states)
    if name == RUNNING:
        return parse_flag(value, states)
    if not states:
        return None
    word = normalise(value) if isinstance(value, str) else f"{value:g}" if _is_number(value) else ""
    return states.get(word)


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and isfinite(value))


def load_map(path: Path) -> FileMap:
    """Return the map in the YAML file at `path`; raise NotFound, or MapInvalid with the place."""
    if not path.is_file():
        raise NotFound(f"no file {path}", fix="check --map")
    try:
        document = _Loader(path.read_text(encoding="utf-8-sig")).get_single_data()
    except UnicodeDecodeError as error:
        raise MapInvalid(
            f"{path}: not UTF-8 at byte {error.start + 1}", fix="save the map as UTF-8"
        ) from error
    except OSError as error:
        raise MapInvalid(f"{path}: cannot be read ({error.strerror})", fix="check its permissions") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise MapInvalid(f"{where}: not YAML: {what}", fix="see the example in the README") from error
    if not isinstance(document, dict):
        raise MapInvalid(
            f"{path}: a map has keys such as time and columns", fix="see the example in the README"
        )
    try:
        return FileMap.model_validate(document)
    except ValidationError as error:
        raise MapInvalid("; ".join(_complaint(path, one) for one in error.errors())) from error


class _Loader(yaml.SafeLoader):
    """YAML without surprises: ON and NO are words, dates are text, duplicate keys are refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the base class
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; refuse a duplicate key, of which YAML would keep the last."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, _ in reversed(node.value):
            if isinstance(key, yaml.ScalarNode) and keys[key.value] > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands more than once", key.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _complaint(path: Path, error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{path}: {place + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}"


def _check_states(column: str, name: str, states: Mapping[str, bool | int]) -> None:
    if name in CHANNEL_INDEX:
        raise ValueError(f"states: {column!r} is sent as {name}, which is a number")
    kind = {RUNNING: bool, TRIP_CODE: int}.get(name)
    for word, state in states.items():
        if kind and type(state) is not kind:
            expected = "true or false" if kind is bool else "a whole number"
            raise ValueError(f"states: {column!r}: {word!r} must be {expected}")


def _check_unit(column: str, name: str, unit: str) -> None:
    """Raise ValueError for a unit that the channel cannot have, or that would need a conversion."""
    if name not in CHANNEL_INDEX:
        if name in (RUNNING, TRIP_CODE):
            raise ValueError(f"units: {column!r} is sent as {name}, which has no unit")
        return
    try:
        conversion = make_tag(name, unit)
    except InvalidInput as error:
        raise ValueError(f"units: {column!r}: {error.detail}; {error.fix}") from error
    if conversion != (1.0, 0.0):
        own = CHANNELS[CHANNEL_INDEX[name]].unit
        raise ValueError(
            f"units: {column!r} is in {unit}, and {name} is sent in {own}: send it under a tag, and"
            f" register that tag with unit {unit} in the gateway's tag map"
        )


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"
