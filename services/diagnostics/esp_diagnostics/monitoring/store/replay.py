"""Read stored readings in the form of the stream, for replay and training."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX, CHANNEL_NAMES
from esp_common.contracts.readings import (
    RUNNING_ABSENT,
    TRIP_CODE_ABSENT,
    Int32Array,
    Readings,
    empty_readings,
)
from esp_common.database import Pool, load_queries

from esp_diagnostics.common.times import as_us

_SQL: Final = load_queries(__package__, "replay.sql")
_FRAGMENTS: Final = {
    "channels": ", ".join(f"r.{name}" for name in CHANNEL_NAMES),
    "averages": ", ".join(f"{name}_avg AS {name}" for name in CHANNEL_NAMES),
}
_WINDOWS: Final = _SQL.windows.format(**_FRAGMENTS)
_MINUTES: Final = _SQL.minutes.format(**_FRAGMENTS)
_FIRST_CHANNEL: Final = 2


class Window(NamedTuple):
    """Readings of a pump after `after` and up to `until`."""

    pump_id: str
    after: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings with bit masks of their faulty, frozen and rejected channels, (n,) each."""

    readings: Readings
    fault_mask: Int32Array
    frozen_mask: Int32Array
    refused_mask: Int32Array

    def __len__(self) -> int:
        return len(self.readings)

    def take(self, index: Any) -> "Batch":
        """Return the rows selected by `index` (positions or a mask)."""
        masks = (getattr(self, name)[index] for name in _MASKS)
        return Batch(self.readings.take(index), *masks)


_MASKS: Final = ("fault_mask", "frozen_mask", "refused_mask")


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches."""
    if len(batches) == 1:
        return batches[0]
    parts = [batch.readings for batch in batches]
    columns = [
        np.concatenate([getattr(part, name) for part in parts]) if parts else getattr(empty_readings(0), name)
        for name in ("pump_id", "time_us", "values", "running", "trip_code")
    ]
    masks = [
        np.concatenate([np.zeros(0, dtype=np.int32), *(getattr(batch, name) for batch in batches)])
        for name in _MASKS
    ]
    return Batch(Readings(*columns), *masks)


class Replay:
    """Read stored readings from ingest's published views."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def windows(self, windows: Sequence[Window], limit: int | None = None) -> Batch:
        """Return the readings within `windows` (the first `limit` of each), in order of time."""
        windows = [window for window in windows if window.after < window.until]
        if not windows:
            return join([])
        pump_ids, after, until = (list(column) for column in zip(*windows, strict=True))
        rows = await self._pool.fetch(_WINDOWS, pump_ids, after, until, limit)
        # Converting thousands of rows takes too long for the event loop.
        return await asyncio.to_thread(_readings, rows, pump_ids)

    async def minutes(self, pump_id: str, since: datetime, until: datetime) -> Batch:
        """Return a pump's minute aggregates from `since` to before `until` as readings.

        A minute with partial running counts as stopped.
        """
        rows = await self._pool.fetch(_MINUTES, pump_id, since, until)
        return await asyncio.to_thread(_minutes, rows, pump_id)


def _readings(rows: Sequence[Any], pump_ids: Sequence[str]) -> Batch:
    batch = _batch(rows, pump_ids)
    for at, row in enumerate(rows):
        running, trip_code = row["running"], row["trip_code"]
        batch.readings.running[at] = RUNNING_ABSENT if running is None else running
        batch.readings.trip_code[at] = TRIP_CODE_ABSENT if trip_code is None else trip_code
    return batch


def _minutes(rows: Sequence[Any], pump_id: str) -> Batch:
    batch = _batch(rows, [pump_id])
    for at, row in enumerate(rows):
        share = row["running_share"]
        batch.readings.running[at] = RUNNING_ABSENT if share is None else share == 1
    return batch


def _batch(rows: Sequence[Any], pump_ids: Sequence[str]) -> Batch:
    """Convert rows of (time, place, channels..., state, fault_channels, frozen_channels) to columns."""
    n = len(rows)
    readings = empty_readings(n)
    masks = np.zeros((len(_MASKS), n), dtype=np.int32)
    values = np.empty((n, CHANNEL_COUNT), dtype=object)
    for at, row in enumerate(rows):
        readings.time_us[at] = as_us(row[0])
        readings.pump_id[at] = pump_ids[row[1] - 1]
        values[at] = row[_FIRST_CHANNEL : _FIRST_CHANNEL + CHANNEL_COUNT]
        if row["fault_channels"]:
            masks[0, at] = _mask(row["fault_channels"])
        if row["frozen_channels"]:
            masks[1, at] = _mask(row["frozen_channels"])
        masks[2, at] = row.get("refused_mask") or 0  # minutes have none
    readings.values[:] = values.astype(np.float64)  # None (not measured) becomes NaN
    return Batch(readings, *masks)


def _mask(names: Sequence[str]) -> int:
    return sum(1 << CHANNEL_INDEX[name] for name in names)
