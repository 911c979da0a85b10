"""Readings as an Arrow IPC stream, the format in which services and gateways exchange batches.

Columns: `pump_id` (dictionary of text), `time` (microseconds, UTC), the channels with at least one value
(float64, null = not measured), `running`, `trip_code`, and in accepted batches the quality masks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from esp_common.contracts.channels import CHANNEL_INDEX, CHANNEL_NAMES, RUNNING, TRIP_CODE
from esp_common.contracts.readings import (
    RUNNING_ABSENT,
    TRIP_CODE_ABSENT,
    Int8Array,
    Int32Array,
    ObjectArray,
    Readings,
    empty_readings,
)
from esp_common.errors import InvalidInput

MEDIA_TYPE: Final = "application/vnd.apache.arrow.stream"
FAULT_MASK: Final = "fault_mask"
FROZEN_MASK: Final = "frozen_mask"
REFUSED_MASK: Final = "refused_mask"
CLAMPED_MASK: Final = "clamped_mask"
_MASK_TYPES: Final[dict[str, Any]] = {
    FAULT_MASK: pa.uint32(),
    FROZEN_MASK: pa.uint32(),
    REFUSED_MASK: pa.int32(),
    CLAMPED_MASK: pa.int32(),
}
"""Masks of an accepted batch, in the order of `AcceptedBatch`."""

_TIME: Final = pa.timestamp("us", tz="UTC")


class AcceptedBatch(NamedTuple):
    """An accepted batch: n readings and their (n,) quality masks, bit i for `MASK_NAMES[i]`."""

    readings: Readings
    fault_mask: Int32Array
    frozen_mask: Int32Array
    refused_mask: Int32Array
    clamped_mask: Int32Array


def encode(
    readings: Readings, *, channels: tuple[str, ...] | None = None, **masks: Int32Array | None
) -> bytes:
    """Return `readings` as an Arrow IPC stream.

    `channels`: the columns to write, with or without values; None writes those with values. `masks`: any of
    those of `AcceptedBatch`, omitted if all are zero.
    """
    return _stream(_batch(readings, channels, masks))


def encode_parts(readings: Readings, ends: Sequence[int], **masks: Int32Array) -> list[bytes]:
    """Return a stream for each part of `readings`; part i ends before row `ends[i]`.

    The columns are built once and sliced: with small parts, building them takes most of the time.
    """
    whole = _batch(readings, None, masks)
    return [_stream(whole.slice(start, end - start)) for start, end in zip([0, *ends], ends, strict=False)]


def _batch(
    readings: Readings, channels: tuple[str, ...] | None, masks: Mapping[str, Int32Array | None]
) -> Any:
    columns: dict[str, pa.Array] = {
        "pump_id": pa.array(readings.pump_id, pa.string()).dictionary_encode(),
        "time": pa.array(readings.time_us).cast(_TIME),
    }
    measured = ~np.isnan(readings.values)
    for name in _carried(measured) if channels is None else channels:
        index = CHANNEL_INDEX[name]
        columns[name] = pa.array(np.ascontiguousarray(readings.values[:, index]), mask=~measured[:, index])
    if (absent := readings.running == RUNNING_ABSENT).sum() < len(readings):
        columns[RUNNING] = pa.array(readings.running == 1, mask=absent)
    if (absent := readings.trip_code == TRIP_CODE_ABSENT).sum() < len(readings):
        columns[TRIP_CODE] = pa.array(readings.trip_code, mask=absent)
    for name, mask in masks.items():
        if mask is not None and mask.any():
            columns[name] = pa.array(mask).cast(_MASK_TYPES[name])
    return pa.RecordBatch.from_pydict(columns)


def _carried(measured: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(CHANNEL_NAMES[index] for index in np.flatnonzero(measured.any(axis=0)))


def _stream(batch: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode(body: bytes) -> Readings:
    """Return the readings of a stream written by `encode`; raise InvalidInput on anything else.

    For streams of the platform's own services. Ingest decodes gateways' bodies leniently, reading by reading.
    """
    return decode_accepted(body).readings


def decode_accepted(body: bytes) -> AcceptedBatch:
    """Return the readings of an accepted batch with their masks, zero where the batch has none."""
    columns = _columns(body)
    time_us = _column(columns, "time", _TIME).view(pa.int64()).to_numpy()
    readings = empty_readings(len(time_us))
    readings.pump_id[:] = _texts(_column(columns, "pump_id", pa.string()))
    readings.time_us[:] = time_us
    for name in columns.keys() & CHANNEL_INDEX.keys():
        values = _column(columns, name, pa.float64(), nulls=True)
        readings.values[:, CHANNEL_INDEX[name]] = values.to_numpy(zero_copy_only=False)
    if RUNNING in columns:
        readings.running[:] = _state(columns, RUNNING, pa.bool_(), pa.int8(), RUNNING_ABSENT)
    if TRIP_CODE in columns:
        readings.trip_code[:] = _state(columns, TRIP_CODE, pa.int32(), pa.int32(), TRIP_CODE_ABSENT)
    return AcceptedBatch(readings, *(_mask(columns, name, len(readings)) for name in _MASK_TYPES))


_KNOWN: Final = {"pump_id", "time", RUNNING, TRIP_CODE, *_MASK_TYPES, *CHANNEL_NAMES}


def _columns(body: bytes) -> dict[str, Any]:
    """Return the columns of a stream by name, as arrays of one chunk.

    A small batch costs as much as a large one: each call of a column's methods takes microseconds, and there
    are about 25 columns, so conversions that change nothing are avoided.
    """
    try:
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"not an Arrow IPC stream: {error}") from error
    names = table.column_names
    if unknown := set(names) - _KNOWN:
        raise InvalidInput(f"unknown columns: {', '.join(sorted(unknown))}")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidInput(f"columns that appear more than once: {', '.join(twice)}")
    chunks = (each.chunk(0) if each.num_chunks == 1 else each.combine_chunks() for each in table.columns)
    return dict(zip(names, chunks, strict=True))


def _column(columns: Mapping[str, Any], name: str, kind: Any, *, nulls: bool = False) -> Any:
    if name not in columns:
        raise InvalidInput(f"no column {name}")
    column = columns[name]
    is_dictionary = isinstance(column, pa.DictionaryArray)
    found = column.type.value_type if is_dictionary else column.type
    if found != kind:
        raise InvalidInput(f"column {name} is {found}, not {kind}")
    if column.null_count and not nulls:
        raise InvalidInput(f"column {name} has nulls")
    return column if kind == pa.string() or not is_dictionary else column.dictionary_decode()


def _texts(column: Any) -> ObjectArray:
    """Return texts, one object for each that differs where the column is a dictionary."""
    if not isinstance(column, pa.DictionaryArray):
        return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if column.dictionary.null_count:
        raise InvalidInput("column pump_id has nulls")
    return column.dictionary.to_numpy(zero_copy_only=False)[column.indices.to_numpy()]  # type: ignore[no-any-return]


def _state(
    columns: Mapping[str, Any], name: str, kind: Any, as_kind: Any, absent: int
) -> Int8Array | Int32Array:
    column = _column(columns, name, kind, nulls=True)
    if column.null_count:
        column = column.cast(as_kind).fill_null(absent)
    return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _mask(columns: Mapping[str, Any], name: str, count: int) -> Int32Array:
    if name not in columns:
        return np.zeros(count, dtype=np.int32)
    return _column(columns, name, _MASK_TYPES[name]).to_numpy().astype(np.int32)  # type: ignore[no-any-return]
