"""From decoded readings to columns: names become channels, values numbers in the catalogue's units."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX, RUNNING, TRIP_CODE
from esp_common.contracts.readings import (
    RUNNING_ABSENT,
    TRIP_CODE_ABSENT,
    FloatMatrix,
    Int8Array,
    Int32Array,
    Int64Array,
)
from esp_common.contracts.words import status_text

from esp_ingest.domain.codes import raw_fault_codes, sentinels
from esp_ingest.domain.columns import NO_TIME, NUMBER, TEXT, Mask, Sent, flag, take_times, whole
from esp_ingest.domain.decode import Decoded
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.registry import Registry, Tag, TagMap
from esp_ingest.domain.repeated_keys import Repeated
from esp_ingest.domain.verdicts import Refusal, Verdicts

MAX_PUMP_ID_LENGTH: Final = 64

IDENTITY: Final = frozenset({"pump_id", "time"})
_PLAIN_TAGS: Final[TagMap] = {name: Tag(name) for name in (*CHANNEL_INDEX, RUNNING, TRIP_CODE)}
_EXPECTED: Final = {
    RUNNING: "true or false, or a word for it",
    TRIP_CODE: "a whole number above -2³¹ and below 2³¹",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """N readings as columns in catalogue order and units, before values were judged.

    `pump_code` indexes `pump_ids` (-1: none). `unset`: the time is missing. `raw_codes`: mask of channels
    whose value was a gauge's error code in the unit it was sent in.
    """

    pump_ids: dict[str, int]
    pump_code: Int64Array
    time_us: Int64Array
    unset: Mask
    values: FloatMatrix
    raw_codes: Int32Array
    running: Int8Array
    trip_code: Int32Array

    @classmethod
    def empty(cls, n: int) -> "Columns":
        """Return n readings that carry nothing."""
        return cls(
            {},
            np.full(n, -1, dtype=np.int64),
            np.full(n, NO_TIME, dtype=np.int64),
            np.ones(n, dtype=np.bool_),
            np.full((n, CHANNEL_COUNT), np.nan),
            np.zeros(n, dtype=np.int32),
            np.full(n, RUNNING_ABSENT, dtype=np.int8),
            np.full(n, TRIP_CODE_ABSENT, dtype=np.int32),
        )


def fill_columns(decoded: Decoded, registry: Registry, verdicts: Verdicts) -> Columns:
    """Return the readings as columns, with what is no pump id, number or known name refused."""
    columns = Columns.empty(len(decoded))
    for block in _blocks(decoded, registry):
        block.fill(columns, verdicts)
    return columns


def names_of(channel: str, sent: Iterable[str], tags: TagMap | None) -> list[str]:
    """Return those names of a reading's that carry `channel`."""
    meaning = _meaning(tags)
    found = ((name, meaning.get(name)) for name in sent if name not in IDENTITY)
    return [name for name, tag in found if tag is not None and tag.channel == channel]


@dataclass(frozen=True, slots=True)
class _Block:
    """Readings that are read alike: `numbers` of them, whose columns `sent` have the meaning `tags`.

    `unknown`: by position in `numbers`, the names that have no meaning.
    """

    numbers: Int64Array
    sent: Mapping[str, Sent]
    tags: TagMap
    unknown: Mapping[int, list[str]]

    def fill(self, columns: Columns, verdicts: Verdicts) -> None:
        self._fill_pumps(columns, verdicts)
        if "time" in self.sent:
            columns.time_us[self.numbers], columns.unset[self.numbers] = take_times(self.sent["time"])
        for name, values in self.sent.items():
            if name in IDENTITY:
                continue
            tag = self.tags[name]
            if tag is not None:
                self._fill_channel(name, tag, values, columns, verdicts)
        for position, names in self.unknown.items():
            verdicts.refuse_names(int(self.numbers[position]), names)

    def _fill_pumps(self, columns: Columns, verdicts: Verdicts) -> None:
        names, _ = TEXT.take(self.sent.get("pump_id", [None] * len(self.numbers)))
        coded = names.dictionary_encode()
        codes = [
            columns.pump_ids.setdefault(name, len(columns.pump_ids))
            if 0 < len(name) <= MAX_PUMP_ID_LENGTH
            else -1
            for name in coded.dictionary.to_pylist()
        ]
        picked = np.array([*codes, -1], dtype=np.int64)[coded.indices.fill_null(-1).to_numpy()]
        columns.pump_code[self.numbers] = picked
        if (picked < 0).any():
            missing = np.zeros_like(verdicts.refused)
            missing[self.numbers[picked < 0]] = True
            verdicts.refuse(missing, Reason.INVALID_SCHEMA, "pump_id is missing or not a pump id")

    def _fill_channel(self, name: str, tag: Tag, sent: Sent, columns: Columns, verdicts: Verdicts) -> None:
        if tag.channel == RUNNING:
            state, wrong = flag(tag.states).take(sent)
            twice = self._put(columns.running, state.cast(pa.int8()), RUNNING_ABSENT)
        elif tag.channel == TRIP_CODE:
            state, wrong = whole(tag.states).take(sent)
            beyond = state.fill_null(0).to_numpy() == TRIP_CODE_ABSENT
            wrong = beyond if wrong is None else wrong | beyond
            twice = self._put(columns.trip_code, state, TRIP_CODE_ABSENT)
        else:
            state, wrong = NUMBER.take(sent)
            twice = self._fill_values(name, tag, state, columns, verdicts)
        if wrong is not None:
            self._refuse(verdicts, tag.channel, wrong, lambda at: _wrong_type(name, tag.channel, sent[at]))
        if twice is not None:
            detail = f"{name[:100]!r} gives {tag.channel} a second, different value"
            refusal = Refusal(Reason.INVALID_SCHEMA, detail)
            self._refuse(verdicts, tag.channel, twice, lambda _: refusal)

    def _put(self, column: Int8Array | Int32Array, sent: pa.Array, absent: int) -> Mask | None:
        """Set a state where it was sent; return where another tag has set it otherwise."""
        there = sent.is_valid().to_numpy(zero_copy_only=False)
        numbers = self.numbers[there]
        values, before = sent.drop_null().to_numpy(zero_copy_only=False), column[numbers]
        column[numbers] = values
        clash = (before != absent) & (before != values)
        if not clash.any():
            return None
        twice = np.zeros(len(self.numbers), dtype=np.bool_)
        twice[np.flatnonzero(there)[clash]] = True
        return twice

    def _fill_values(
        self, name: str, tag: Tag, taken: pa.Array, columns: Columns, verdicts: Verdicts
    ) -> Mask | None:
        """Set a channel where it was sent; return where another tag has set it otherwise."""
        channel = CHANNEL_INDEX[tag.channel]
        raw = taken.to_numpy(zero_copy_only=False)
        finite = np.isfinite(raw)
        if len(raw) - np.count_nonzero(finite) != taken.null_count:
            infinite = taken.is_valid().to_numpy(zero_copy_only=False) & ~finite
            refusal = Refusal(Reason.NOT_FINITE, f"{name[:100]!r} is not a finite number")
            self._refuse(verdicts, tag.channel, infinite, lambda _: refusal)
        if (tag.factor, tag.offset) == (1.0, 0.0):
            values = raw
        else:
            self._judge_raw(name, tag, channel, raw, columns, verdicts)
            values = raw * tag.factor + tag.offset
        if self.tags is _PLAIN_TAGS:
            columns.values[self.numbers, channel] = values
            return None
        before = columns.values[self.numbers, channel]
        columns.values[self.numbers, channel] = np.where(np.isnan(before), values, before)
        twice = ~np.isnan(before) & ~np.isnan(values) & (before != values)
        return twice if twice.any() else None

    def _judge_raw(
        self,
        name: str,
        tag: Tag,
        channel: int,
        raw: npt.NDArray[np.float64],
        columns: Columns,
        verdicts: Verdicts,
    ) -> None:
        """Find codes before they are converted; those of other channels are found after."""
        codes = raw_fault_codes(channel, raw)
        if codes is not None:
            columns.raw_codes[self.numbers[codes]] |= np.int32(1 << channel)
        self._refuse(
            verdicts,
            tag.channel,
            sentinels(raw),
            lambda at: Refusal(
                Reason.SENTINEL_VALUE, f"{name[:100]!r} = {raw[at]:.9g} is a sentinel, not a value"
            ),
        )

    def _refuse(self, verdicts: Verdicts, channel: str, where: Mask, refusal: Any) -> None:
        positions = np.flatnonzero(where)
        if len(positions):
            verdicts.refuse_channel(self.numbers[positions], channel, lambda at: refusal(int(positions[at])))


def _wrong_type(name: str, channel: str, value: object) -> Refusal:
    """Return why a value that is no number (or state) is refused."""
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    shown = name[:100]
    if isinstance(value, Repeated):
        return Refusal(Reason.INVALID_SCHEMA, f"{shown!r} is given {len(value)} times in one reading")
    expected = _EXPECTED.get(channel, "a number")
    if status := status_text(value):
        return Refusal(Reason.STATUS_TEXT, f"{shown!r} is the status text {status!r}: no value was measured")
    return Refusal(Reason.INVALID_SCHEMA, f"{shown!r} must be {expected}")


def _blocks(decoded: Decoded, registry: Registry) -> Iterable[_Block]:
    """Group the readings: JSON ones of all gateways without a tag map together, Arrow ones by schema."""
    mapped = [registry.tag_maps.get(body.gateway_id) for body in decoded.bodies]
    groups: dict[int, list[int]] = {}
    if any(tags is not None for tags in mapped):
        for number, body in enumerate(decoded.body_of[: len(decoded.rows)].tolist()):
            groups.setdefault(id(mapped[body]), []).append(number)
    elif decoded.rows:
        groups[0] = list(range(len(decoded.rows)))
    for numbers in groups.values():
        tags = mapped[int(decoded.body_of[numbers[0]])]
        yield _json_block(decoded, numbers, tags)
    yield from _arrow_blocks(decoded, mapped)


def _meaning(tags: TagMap | None) -> TagMap:
    """A gateway's own tags come before channel names: it may use one of those for something else."""
    return _PLAIN_TAGS if tags is None else {**_PLAIN_TAGS, **tags}


def _json_block(decoded: Decoded, numbers: list[int], tags: TagMap | None) -> _Block:
    rows = decoded.rows if len(numbers) == len(decoded.rows) else [decoded.rows[number] for number in numbers]
    meaning = _meaning(tags)
    names: set[str] = set().union(*rows)
    known = IDENTITY | meaning.keys()
    sent = {name: [row.get(name) for row in rows] for name in names & known}
    unknown = _unknown_names(rows, known) if names - known else {}
    return _Block(np.array(numbers, dtype=np.int64), sent, meaning, unknown)


def _unknown_names(rows: list[dict[str, Any]], known: frozenset[str]) -> dict[int, list[str]]:
    """Return the unknown names that carry a value, by position of the row."""
    found: dict[int, list[str]] = {}
    for position, row in enumerate(rows):
        if not row.keys() <= known:
            names = [name for name, value in row.items() if name not in known and value is not None]
            if names:
                found[position] = names
    return found


def _arrow_blocks(decoded: Decoded, mapped: Sequence[TagMap | None]) -> Iterable[_Block]:
    groups: dict[tuple[int, pa.Schema], list[int]] = {}
    for place, (body, table) in enumerate(decoded.tables):
        key = (id(mapped[body]), table.schema.remove_metadata())
        groups.setdefault(key, []).append(place)
    for places in groups.values():
        yield _arrow_block(decoded, places, mapped[decoded.tables[places[0]][0]])


def _arrow_block(decoded: Decoded, places: list[int], tags: TagMap | None) -> _Block:
    table = pa.concat_tables([decoded.tables[place][1].replace_schema_metadata() for place in places])
    starts = [decoded.table_starts[place] for place in places]
    lengths = [decoded.tables[place][1].num_rows for place in places]
    numbers = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])
    meaning = _meaning(tags)
    sent: dict[str, Sent] = {}
    unknown: dict[int, list[str]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        if name in IDENTITY or name in meaning:
            sent[name] = column
        else:
            for position in np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).tolist():
                unknown.setdefault(position, []).append(name)
    return _Block(numbers.astype(np.int64), sent, meaning, unknown)
