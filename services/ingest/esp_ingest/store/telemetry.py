"""Readings: one transaction per flush that stores each once, merges what belongs together and loses nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from esp_common.contracts.readings import Int8Array, Int32Array, Int64Array

from esp_ingest.domain.readings import Quarantined

Engine = Literal["timescale", "postgres"]

NULL_INT: Final = int(np.iinfo(np.int32).min)
"""Value of `Batch.scaled` where a channel was not measured."""

Positions = npt.NDArray[np.int64]


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

    def __len__(self) -> int:
        """Return n."""
        return len(self.time_us)


@dataclass(frozen=True, slots=True)
class Tally:
    """What was noticed of one pump and hour that leaves no row: readings known to be repeated, late, refused.

    `duplicates` and `conflicts` that only the database can see are added by the store itself.
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
    `duplicates`: those known to be stored or identical to another of the flush.
    So readings = rows of the batch + quarantined + merged + duplicates.
    """

    worker: str
    messages: int
    readings: int
    merged: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of a batch: rows stored, merged into stored rows, already stored; `conflicts` are positions.

    `quarantined`: rows new in quarantine; one that was there already counts as a duplicate.
    """

    stored: int
    merged: int
    duplicates: int
    quarantined: int
    conflicts: Positions


OnConflict = Callable[[Positions], list[Quarantined]]
"""Given positions of rows that contradict stored ones, return the readings they were made of."""


class TelemetryStore:
    """Writes flushes, on either engine. The pool's connections must have been prepared by `prepare`."""

    async def write(
        self,
        batch: Batch,
        quarantined: Sequence[Quarantined],
        tallies: Sequence[Tally],
        counts: FlushCounts,
        on_conflict: OnConflict,
    ) -> StoreResult:
        """Make a flush durable, all or nothing; writing it again changes nothing but the ledger.

        Raises what asyncpg raises; see `OUTAGES` for what merely calls for another try.
        """
        raise NotImplementedError
