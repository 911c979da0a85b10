"""Readings as an Arrow IPC stream: the form in which services and gateways exchange batches.

Columns: `pump_id` (dictionary of text), `time` (microseconds, UTC), the channels that carry any value
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

    `channels`: the columns to write, whether or not they carry a value; None writes those that do.
    `masks`: any of those of `AcceptedBatch`, left out when all zero.
    """
    return _stream(_batch(readings, channels, masks))


def encode_parts(readings: Readings, ends: Sequence[int], **masks: Int32Array) -> list[bytes]:
    """Return a stream for each part of `readings`, of which part i ends before row `ends[i]`.

    The columns are made once and cut: with small parts most of the time goes into making columns.
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
    """Return the readings of a stream that `encode` wrote; raise InvalidInput on anything else.

    For streams of the platform's own services. What a gateway sends is decoded by ingest, leniently
    and reading by reading.
    """
    return decode_accepted(body).readings


def decode_accepted(body: bytes) -> AcceptedBatch:
    """Return the readings of an accepted batch with their masks, zero where the batch has none."""
    table = _table(body)
    readings = empty_readings(table.num_rows)
    readings.pump_id[:] = _column(table, "pump_id", pa.string()).to_numpy(zero_copy_only=False)
    readings.time_us[:] = _column(table, "time", _TIME).cast(pa.int64()).to_numpy()
    for name in table.column_names:
        if name in CHANNEL_INDEX:
            values = _column(table, name, pa.float64(), nulls=True)
            readings.values[:, CHANNEL_INDEX[name]] = values.to_numpy(zero_copy_only=False)
    readings.running[:] = _state(table, RUNNING, pa.bool_(), pa.int8(), RUNNING_ABSENT)
    readings.trip_code[:] = _state(table, TRIP_CODE, pa.int32(), pa.int32(), TRIP_CODE_ABSENT)
    return AcceptedBatch(readings, *(_mask(table, name) for name in _MASK_TYPES))


_KNOWN: Final = {"pump_id", "time", RUNNING, TRIP_CODE, *_MASK_TYPES, *CHANNEL_NAMES}


def _table(body: bytes) -> Any:
    try:
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"not an Arrow IPC stream: {error}") from error
    if unknown := set(table.column_names) - _KNOWN:
        raise InvalidInput(f"unknown columns: {', '.join(sorted(unknown))}")
    return table


def _column(table: Any, name: str, kind: Any, *, nulls: bool = False) -> Any:
    if table.column_names.count(name) != 1:
        raise InvalidInput(f"column {name} must appear once")
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type != kind:
        raise InvalidInput(f"column {name} is {column.type}, not {kind}")
    if column.null_count and not nulls:
        raise InvalidInput(f"column {name} has nulls")
    return column.combine_chunks()


def _state(table: Any, name: str, kind: Any, as_kind: Any, absent: int) -> Int8Array | Int32Array | int:
    if name not in table.column_names:
        return absent
    column = _column(table, name, kind, nulls=True).cast(as_kind)
    return column.fill_null(absent).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _mask(table: Any, name: str) -> Int32Array:
    if name not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int32)
    return _column(table, name, _MASK_TYPES[name]).to_numpy().astype(np.int32)  # type: ignore[no-any-return]
