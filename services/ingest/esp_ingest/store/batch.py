"""What a worker hands to the store in one flush, and what it hears back."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from esp_common.contracts.channels import CHANNEL_NAMES, MASK_BIT, MASK_NAMES, RUNNING, TRIP_CODE
from esp_common.contracts.readings import (
    RUNNING_ABSENT,
    TRIP_CODE_ABSENT,
    Int8Array,
    Int32Array,
    Int64Array,
)

from esp_ingest.domain.readings import Quarantined
from esp_ingest.domain.scaling import NULL_INT
from esp_ingest.store.copy import Column, pg_timestamps

MEASURED: Final = (*CHANNEL_NAMES, "running", "trip_code")
MASKS: Final = ("fault_mask", "frozen_mask", "refused_mask", "clamped_mask")
COLUMNS: Final = ("pump_no", "time", *MEASURED, *MASKS)
"""Columns of the stored row, in the order `Batch.columns` gives them."""

Positions = npt.NDArray[np.int64]
Key = tuple[int, datetime]
"""A pump number, with the time of a reading or the start of an hour."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_US: Final = 60_000_000
_HOUR_US: Final = 60 * _MINUTE_US
_DAY_US: Final = 24 * _HOUR_US


@dataclass(frozen=True, slots=True)
class Batch:
    """n screened readings as they are stored; keys (pump_no, time_us) are unique and sorted.

    `scaled`: (n, CHANNEL_COUNT) int32, value / resolution, NULL_INT where not measured. `running`: 1, 0 or
    RUNNING_ABSENT. `trip_code`: TRIP_CODE_ABSENT where not given. Masks: a bit per channel.
    """

    pump_no: Int32Array
    time_us: Int64Array
    scaled: npt.NDArray[np.int32]
    running: Int8Array
    trip_code: Int32Array
    fault_mask: Int32Array
    frozen_mask: Int32Array
    refused_mask: Int32Array
    clamped_mask: Int32Array

    def __len__(self) -> int:
        """Return n."""
        return len(self.time_us)

    def columns(self) -> list[Column]:
        """Return the stored columns, in the order of `COLUMNS`."""
        absent = self.scaled == NULL_INT
        return [
            Column(self.pump_no),
            Column(pg_timestamps(self.time_us)),
            *(Column(self.scaled[:, i], absent[:, i]) for i in range(self.scaled.shape[1])),
            Column(self.running, self.running == RUNNING_ABSENT),
            Column(self.trip_code, self.trip_code == TRIP_CODE_ABSENT),
            *(Column(mask, mask == 0) for mask in self.masks()),
        ]

    def masks(self) -> tuple[Int32Array, ...]:
        """Return the masks, in the order of `MASKS`."""
        return self.fault_mask, self.frozen_mask, self.refused_mask, self.clamped_mask

    def measures(self) -> npt.NDArray[np.bool_]:
        """Return (n,): which rows carry anything."""
        there = np.asarray((self.running != RUNNING_ABSENT) | (self.trip_code != TRIP_CODE_ABSENT))
        there[~there] = (self.scaled[~there] != NULL_INT).any(axis=1)
        return there

    def without(self, conflicts: "Conflicts") -> "Batch":
        """Return the batch with the channels of `conflicts` refused."""
        masks = np.zeros(len(self), dtype=np.int32)
        masks[conflicts.positions] = conflicts.masks
        flags = (masks[:, None] >> np.arange(len(MASK_NAMES), dtype=np.int32) & 1).astype(np.bool_)
        keep = ~masks
        return Batch(
            self.pump_no,
            self.time_us,
            np.where(flags[:, : self.scaled.shape[1]], NULL_INT, self.scaled),
            np.where(flags[:, MASK_BIT[RUNNING]], RUNNING_ABSENT, self.running).astype(np.int8),
            np.where(flags[:, MASK_BIT[TRIP_CODE]], TRIP_CODE_ABSENT, self.trip_code),
            self.fault_mask & keep,
            self.frozen_mask & keep,
            self.refused_mask | masks,
            self.clamped_mask & keep,
        )

    def days(self) -> set[int]:
        """Return the UTC days it touches, in days since 1970."""
        return set(np.unique(self.time_us // _DAY_US).tolist())

    def span(self) -> tuple[list[int], datetime, datetime]:
        """Return its pumps, its first and its last time."""
        first, last = self.time_us.min(), self.time_us.max()
        return np.unique(self.pump_no).tolist(), _time(first), _time(last)

    def position(self, key: Key) -> int:
        """Return where the reading with that pump and time is."""
        pump_no, time = key
        start, end = np.searchsorted(self.pump_no, (pump_no, pump_no + 1))
        time_us = (time - _EPOCH) // timedelta(microseconds=1)
        return int(start + np.searchsorted(self.time_us[start:end], time_us))

    def hours(self) -> Counter[Key]:
        """Return how many readings each pump has in each hour."""
        starts, ends = self._hour_runs()
        hours = self.time_us[starts] // _HOUR_US * _HOUR_US
        keys = zip(self.pump_no[starts].tolist(), map(_time, hours), strict=True)
        return Counter(dict(zip(keys, (ends - starts).tolist(), strict=True)))

    def touched(self) -> npt.NDArray[np.int64]:
        """Return rows pump_no, hour, first and last minute (since 1970) for each pump and hour."""
        starts, ends = self._hour_runs()
        minutes = self.time_us // _MINUTE_US
        return np.stack([self.pump_no[starts], minutes[starts] // 60, minutes[starts], minutes[ends - 1]])

    def _hour_runs(self) -> tuple[Positions, Positions]:
        """Return start and end of each run of one pump's readings within one hour."""
        hours = self.time_us // _HOUR_US
        changes = (np.diff(self.pump_no) != 0) | (np.diff(hours) != 0)
        starts = np.flatnonzero(np.concatenate([np.ones(min(len(self), 1), dtype=bool), changes]))
        return starts, np.append(starts, len(self))[1:]


@dataclass(frozen=True, slots=True)
class Tally:
    """What was noticed of one pump and hour that leaves no row: readings known to be repeated, late, refused.

    `conflicts`: readings that contradict others in some channel. `duplicates` and `conflicts` that only the
    database can see are added by the store itself.
    """

    pump_no: int
    hour: datetime
    duplicates: int = 0
    late: int = 0
    rejected: int = 0
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class FlushCounts:
    """What a flush took in, and what became of it before it reached the store.

    `readings`: all readings of its `messages`. `merged`: those folded into another's row within the flush;
    `duplicates`: those known to be stored or that bring nothing beside another of the flush.
    So readings = rows of the batch + quarantined + merged + duplicates, where quarantined are whole readings.
    """

    worker: str
    messages: int
    readings: int
    merged: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Batch rows at `positions` that contradict stored ones, each in the channels of its mask."""

    positions: Positions
    masks: Int32Array

    def __len__(self) -> int:
        """Return how many rows contradict."""
        return len(self.positions)

    @property
    def channels(self) -> int:
        """How many channels contradict, of all rows."""
        return int(np.bitwise_count(self.masks).sum())


NO_CONFLICTS: Final = Conflicts(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32))


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of a flush's readings; `conflicts` are the batch rows that contradict stored ones.

    `quarantined`: readings new in quarantine; one that was there already counts as a duplicate.
    `refused_channels`: channels of other readings that are new there. `unkept`: those of both that have no
    row there, since their gateway has passed its limit of the day; `filled`: gateways that passed it with
    this flush.
    """

    stored: int
    merged: int
    duplicates: int
    quarantined: int
    refused_channels: int
    conflicts: Conflicts
    unkept: int = 0
    filled: tuple[str, ...] = ()


OnConflict = Callable[[Conflicts], list[Quarantined]]
"""Return what quarantine keeps of the contradicting channels: those of the readings the rows were made of."""


def _time(time_us: Any) -> datetime:
    return _EPOCH + timedelta(microseconds=int(time_us))
