"""Which readings are kept, which are refused and why: the one set of rules that worker and API share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX, CHANNELS, RUNNING, TRIP_CODE, Group
from esp_common.contracts.readings import (
    RUNNING_ABSENT,
    TRIP_CODE_ABSENT,
    FloatMatrix,
    Int8Array,
    Int32Array,
    Int64Array,
)
from esp_common.times import time_fault

from esp_ingest.domain.columns import NO_TIME, NUMBER, TEXT, Mask, Sent, flag, take_times, whole
from esp_ingest.domain.decode import Decoded
from esp_ingest.domain.keep import keep_body, keep_reading, quarantine_id
from esp_ingest.domain.readings import Quarantined, Reason
from esp_ingest.domain.registry import Registry, Tag, TagMap

MAX_AHEAD_US: Final = 5 * 60 * 1_000_000
"""How far a gateway's clock may run ahead."""

OLDEST_US: Final = 946_684_800 * 1_000_000
"""2000-01-01: an earlier time is a clock that was never set."""

MAX_PUMP_ID_LENGTH: Final = 64

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOW: Final = np.array([channel.low for channel in CHANNELS])
_HIGH: Final = np.array([channel.high for channel in CHANNELS])
_PLAIN_TAGS: Final[TagMap] = {name: Tag(name) for name in (*CHANNEL_INDEX, RUNNING, TRIP_CODE)}
_IDENTITY: Final = frozenset({"pump_id", "time"})

GAUGE_PRESSURES: Final = [i for i, c in enumerate(CHANNELS) if c.group is Group.GAUGE and c.unit == "psi"]
GAUGE_TEMPERATURES: Final = [i for i, c in enumerate(CHANNELS) if c.group is Group.GAUGE and c.unit == "degC"]
PRESSURE_CODE_PSI: Final = 94_906.9
"""What several downhole gauges report, in psi, when they have lost their sensor."""
_CODE_TOLERANCE_PSI: Final = 0.05
_ZERO_TOLERANCE: Final = 0.005


@dataclass(frozen=True, slots=True)
class Rejected:
    """A refused reading: number `index` of body number `body`, and the row that quarantine keeps of it.

    `pump_no` is None where the pump is not known or not this gateway's.
    """

    body: int
    index: int
    pump_no: int | None
    row: Quarantined


@dataclass(frozen=True, slots=True)
class Accepted:
    """n readings that passed, as columns; `number` is each one's number in the `Decoded`."""

    number: Int64Array
    pump_no: Int32Array
    time_us: Int64Array
    values: FloatMatrix
    running: Int8Array
    trip_code: Int32Array
    fault_mask: Int32Array

    def __len__(self) -> int:
        """Return n."""
        return len(self.number)


@dataclass(frozen=True, slots=True)
class Screened:
    """The outcome of screening m bodies: what passed, and what was refused and why.

    `counts`: (m,) readings in each body, refused ones too (an undecodable body counts as one).
    `rejected`, by body and index: `.row` has reason, detail, id (= the HTTP error_id) and payload.
    """

    decoded: Decoded
    counts: Int64Array
    accepted: Accepted
    rejected: Sequence[Rejected]

    def quarantined(
        self, number: int, pump_id: str | None, time_us: int, reason: Reason, detail: str
    ) -> Quarantined:
        """Return the quarantine row of reading `number`."""
        body = self.decoded.bodies[int(self.decoded.body_of[number])]
        payload = keep_reading(self.decoded.sent(number)) or keep_body(body.content, body.content_type)
        id_ = quarantine_id(body.gateway_id, payload)
        time = as_datetime(time_us)
        return Quarantined(id_, body.gateway_id, body.message_id, pump_id, time, reason, detail, payload)


def as_datetime(time_us: int) -> datetime | None:
    """Return the moment, or None beyond what a datetime can hold, as `NO_TIME` is."""
    try:
        return _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return None


def screen(decoded: Decoded, registry: Registry, now_us: int) -> Screened:
    """Split the readings of `decoded` into accepted and rejected, with one reason for each rejected.

    `now_us`: microseconds since 1970 UTC. Pure; O(readings · channels).
    """
    columns = _Columns.empty(len(decoded))
    verdicts = _Verdicts(len(decoded))
    for block in _blocks(decoded, registry):
        block.fill(columns, verdicts)
    pumps = _Pumps.find(decoded, columns, registry)
    _judge_identity(decoded, registry, columns, pumps, verdicts)
    faults = _judge_values(columns, verdicts)
    _judge_time(columns, now_us, verdicts)
    keep = np.flatnonzero(~verdicts.refused)
    accepted = Accepted(
        keep,
        pumps.pump_no[keep],
        columns.time_us[keep],
        columns.values[keep],
        columns.running[keep],
        columns.trip_code[keep],
        faults[keep],
    )
    rejected = list(_rejected_bodies(decoded))
    outcome = Screened(decoded, decoded.counts, accepted, rejected)
    rejected.extend(_rejected_readings(outcome, columns, pumps, verdicts))
    rejected.sort(key=lambda each: (each.body, each.index))
    return outcome


class _Verdicts:
    """Which of n readings are refused; the first reason given stays."""

    def __init__(self, n: int) -> None:
        self.refused: Mask = np.zeros(n, dtype=np.bool_)
        self.reasons: dict[int, tuple[Reason, str]] = {}

    def refuse(self, where: Mask, reason: Reason, detail: str | Callable[[int], str]) -> None:
        for number in np.flatnonzero(where & ~self.refused).tolist():
            self.reasons[number] = (reason, detail if isinstance(detail, str) else detail(number))
        self.refused |= where

    def refuse_at(self, numbers: Int64Array, where: Mask, reason: Reason, detail: str) -> None:
        if not where.any():
            return
        mask = np.zeros_like(self.refused)
        mask[numbers[where]] = True
        self.refuse(mask, reason, detail)


@dataclass(frozen=True, slots=True)
class _Columns:
    """N readings as columns in catalogue order and units, before any rule was applied.

    `pump_code` indexes `pump_ids` (-1: none). `unset`: the time is missing. `wrong_values`: not finite.
    """

    pump_ids: dict[str, int]
    pump_code: Int64Array
    time_us: Int64Array
    unset: Mask
    values: FloatMatrix
    not_finite: Mask
    running: Int8Array
    trip_code: Int32Array

    @classmethod
    def empty(cls, n: int) -> "_Columns":
        return cls(
            {},
            np.full(n, -1, dtype=np.int64),
            np.full(n, NO_TIME, dtype=np.int64),
            np.ones(n, dtype=np.bool_),
            np.full((n, CHANNEL_COUNT), np.nan),
            np.zeros((n, CHANNEL_COUNT), dtype=np.bool_),
            np.full(n, RUNNING_ABSENT, dtype=np.int8),
            np.full(n, TRIP_CODE_ABSENT, dtype=np.int32),
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """Readings that are read alike: `numbers` of them, whose columns `sent` have the meaning `tags`."""

    numbers: Int64Array
    sent: Mapping[str, Sent]
    tags: TagMap
    unknown: Mapping[str, Mask]

    def fill(self, columns: _Columns, verdicts: _Verdicts) -> None:
        self._fill_pumps(columns, verdicts)
        if "time" in self.sent:
            columns.time_us[self.numbers], columns.unset[self.numbers] = take_times(self.sent["time"])
        for name, values in self.sent.items():
            if name in _IDENTITY:
                continue
            tag = self.tags[name]
            if tag is not None:
                self._fill_channel(name, tag, values, columns, verdicts)
        for name, where in self.unknown.items():
            detail = f"{name[:100]!r} is neither a channel nor a tag of this gateway's map"
            verdicts.refuse_at(self.numbers, where, Reason.UNKNOWN_CHANNEL, detail)

    def _fill_pumps(self, columns: _Columns, verdicts: _Verdicts) -> None:
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
        verdicts.refuse_at(
            self.numbers, picked < 0, Reason.INVALID_SCHEMA, "pump_id is missing or not a pump id"
        )

    def _fill_channel(self, name: str, tag: Tag, sent: Sent, columns: _Columns, verdicts: _Verdicts) -> None:
        if tag.channel == RUNNING:
            state, wrong = flag(tag.states).take(sent)
            self._put(columns.running, state.cast(pa.int8()))
        elif tag.channel == TRIP_CODE:
            state, wrong = whole(tag.states).take(sent)
            self._put(columns.trip_code, state)
            beyond = state.fill_null(0).to_numpy() == TRIP_CODE_ABSENT
            wrong = beyond if wrong is None else wrong | beyond
        else:
            wrong = self._fill_values(name, tag, sent, columns, verdicts)
        if wrong is not None:
            expected = {
                RUNNING: "true or false, or a word for it",
                TRIP_CODE: "a whole number above -2³¹ and below 2³¹",
            }.get(tag.channel, "a number")
            detail = f"{name[:100]!r} must be {expected}"
            verdicts.refuse_at(self.numbers, wrong, Reason.INVALID_SCHEMA, detail)

    def _put(self, column: Int8Array | Int32Array, sent: pa.Array) -> None:
        """Set what was sent; where it was not, another tag may have set the same state."""
        if sent.null_count == 0:
            column[self.numbers] = sent.to_numpy(zero_copy_only=False)
        else:
            there = sent.is_valid().to_numpy(zero_copy_only=False)
            column[self.numbers[there]] = sent.drop_null().to_numpy(zero_copy_only=False)

    def _fill_values(
        self, name: str, tag: Tag, sent: Sent, columns: _Columns, verdicts: _Verdicts
    ) -> Mask | None:
        channel = CHANNEL_INDEX[tag.channel]
        taken, wrong = NUMBER.take(sent)
        values = taken.to_numpy(zero_copy_only=False)
        finite = np.isfinite(values)
        if len(values) - np.count_nonzero(finite) != taken.null_count:
            there = taken.is_valid().to_numpy(zero_copy_only=False)
            columns.not_finite[self.numbers, channel] |= there & ~finite
        values = values * tag.factor + tag.offset if (tag.factor, tag.offset) != (1.0, 0.0) else values
        if self.tags is _PLAIN_TAGS:
            columns.values[self.numbers, channel] = values
            return wrong
        before = columns.values[self.numbers, channel]
        columns.values[self.numbers, channel] = np.where(np.isnan(before), values, before)
        twice = ~np.isnan(before) & ~np.isnan(values) & (before != values)
        detail = f"{name[:100]!r} gives {tag.channel} a second, different value"
        verdicts.refuse_at(self.numbers, twice, Reason.INVALID_SCHEMA, detail)
        return wrong


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
    known = _IDENTITY | meaning.keys()
    sent = {name: [row.get(name) for row in rows] for name in names & known}
    unknown = _unknown_names(rows, known) if names - known else {}
    return _Block(np.array(numbers, dtype=np.int64), sent, meaning, unknown)


def _unknown_names(rows: list[dict[str, Any]], known: frozenset[str]) -> dict[str, Mask]:
    """Return, by the first unknown name in a row, the rows that have it."""
    found: dict[str, Mask] = {}
    for position, row in enumerate(rows):
        if not row.keys() <= known:
            name = next(name for name in row if name not in known)
            # One name for all rows once there are many, lest a flood of made-up names costs a mask each.
            name = name if name in found or len(found) < 100 else "…"
            found.setdefault(name, np.zeros(len(rows), dtype=np.bool_))[position] = True
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
    sent, unknown = {}, {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        if name in _IDENTITY or name in meaning:
            sent[name] = column
        else:
            unknown[name] = column.is_valid().to_numpy(zero_copy_only=False)
    return _Block(numbers.astype(np.int64), sent, meaning, unknown)


@dataclass(frozen=True, slots=True)
class _Pumps:
    """Who reported what: (N,) pump number, -1 where unknown, and whether the gateway may report it."""

    names: list[str]
    pump_no: Int32Array
    allowed: Mask

    @classmethod
    def find(cls, decoded: Decoded, columns: _Columns, registry: Registry) -> "_Pumps":
        names = list(columns.pump_ids)
        pumps = [registry.pumps.get(name) for name in names]
        by_code = np.array([*(-1 if pump is None else pump.pump_no for pump in pumps), -1], dtype=np.int32)
        gateways: dict[str, int] = {}
        codes = np.array(
            [gateways.setdefault(b.gateway_id, len(gateways)) for b in decoded.bodies], dtype=np.int64
        )
        pairs, which = np.unique(
            codes[decoded.body_of] * (len(names) + 1) + columns.pump_code % (len(names) + 1),
            return_inverse=True,
        )
        gateway_ids = list(gateways)
        allowed = np.array(
            [
                registry.may_report(
                    gateway_ids[pair // (len(names) + 1)], int(by_code[pair % (len(names) + 1)])
                )
                for pair in pairs.tolist()
            ],
            dtype=np.bool_,
        )
        return cls(names, by_code[columns.pump_code], allowed[which])


def _judge_identity(
    decoded: Decoded, registry: Registry, columns: _Columns, pumps: _Pumps, verdicts: _Verdicts
) -> None:
    verdicts.refuse(columns.unset, Reason.INVALID_TIME, lambda n: time_fault(decoded.sent(n).get("time")))
    strangers = np.array(
        [not registry.knows_gateway(body.gateway_id) for body in decoded.bodies], dtype=np.bool_
    )
    if strangers.any():
        verdicts.refuse(strangers[decoded.body_of], Reason.UNKNOWN_GATEWAY, "the gateway is not registered")

    def pump(number: int) -> str:
        return pumps.names[int(columns.pump_code[number])]

    verdicts.refuse(pumps.pump_no < 0, Reason.UNKNOWN_PUMP, lambda n: f"no pump {pump(n)!r} is registered")
    verdicts.refuse(
        ~pumps.allowed, Reason.FOREIGN_GATEWAY, lambda n: f"pump {pump(n)!r} is not one of this gateway's"
    )


def _judge_values(columns: _Columns, verdicts: _Verdicts) -> Int32Array:
    """Refuse what cannot be a measurement; return the mask of the known gauge-fault codes."""
    values = columns.values
    if columns.not_finite.any():
        verdicts.refuse(
            _any_channel(columns.not_finite),
            Reason.NOT_FINITE,
            lambda n: f"{CHANNELS[int(columns.not_finite[n].argmax())].name} is not a finite number",
        )
    codes = fault_codes(values)
    beyond = ((values < _LOW) | (values > _HIGH)) & ~codes
    if beyond.any():
        verdicts.refuse(
            _any_channel(beyond),
            Reason.OUT_OF_RANGE,
            lambda n: _limit_detail(values, n, int(beyond[n].argmax())),
        )
    empty = (columns.running == RUNNING_ABSENT) & (columns.trip_code == TRIP_CODE_ABSENT)
    empty[empty] = np.isnan(values[empty]).all(axis=1)
    verdicts.refuse(empty, Reason.NO_CHANNELS, "the reading measures nothing")
    return pack_mask(codes)


def _any_channel(flags: Mask) -> Mask:
    return np.asarray(flags.any(axis=1))


def _limit_detail(values: FloatMatrix, number: int, channel: int) -> str:
    known = CHANNELS[channel]
    return (
        f"{known.name} = {values[number, channel]:.6g} is beyond {known.low:g} to {known.high:g} {known.unit}"
    )


def fault_codes(values: FloatMatrix) -> Mask:
    """Return (n, CHANNEL_COUNT): where a downhole gauge reports a code for its own failure.

    Zero (also as -0.000002 psi, and 0 °C = 32 °F) and 94,906.9 psi, with some tolerance since they may
    come through a unit conversion.
    """
    codes = np.zeros(values.shape, dtype=np.bool_)
    for channel in (*GAUGE_PRESSURES, *GAUGE_TEMPERATURES):
        codes[:, channel] = np.abs(values[:, channel]) < _ZERO_TOLERANCE
    for channel in GAUGE_PRESSURES:
        codes[:, channel] |= np.abs(values[:, channel] - PRESSURE_CODE_PSI) < _CODE_TOLERANCE_PSI
    return codes


def pack_mask(flags: Mask) -> Int32Array:
    """Return (n,) int32: bit i is set where `flags[:, i]` is."""
    if not flags.any():
        return np.zeros(len(flags), dtype=np.int32)
    return flags.astype(np.int32) @ (1 << np.arange(CHANNEL_COUNT, dtype=np.int32))


def _judge_time(columns: _Columns, now_us: int, verdicts: _Verdicts) -> None:
    ahead = columns.time_us > now_us + MAX_AHEAD_US
    verdicts.refuse(
        ahead,
        Reason.TIME_IN_FUTURE,
        lambda n: f"{(int(columns.time_us[n]) - now_us) / 1e6:.0f} s ahead of the clock",
    )
    verdicts.refuse(columns.time_us < OLDEST_US, Reason.TIME_TOO_OLD, "before the year 2000")


def _rejected_bodies(decoded: Decoded) -> Iterable[Rejected]:
    for fault in decoded.faults:
        body = decoded.bodies[fault.body]
        payload = keep_body(fault.content, body.content_type)
        id_ = quarantine_id(body.gateway_id, payload)
        row = Quarantined(
            id_, body.gateway_id, body.message_id, None, None, fault.reason, fault.detail, payload
        )
        yield Rejected(fault.body, fault.index, None, row)


def _rejected_readings(
    screened: Screened, columns: _Columns, pumps: _Pumps, verdicts: _Verdicts
) -> Iterable[Rejected]:
    decoded = screened.decoded
    for number, (reason, detail) in verdicts.reasons.items():
        code = int(columns.pump_code[number])
        pump_id = pumps.names[code].replace("\0", "\\u0000") if code >= 0 else None
        row = screened.quarantined(number, pump_id, int(columns.time_us[number]), reason, detail)
        known = int(pumps.pump_no[number]) if pumps.allowed[number] else None
        yield Rejected(int(decoded.body_of[number]), int(decoded.index_of[number]), known, row)
