"""Readings of one pump and instant within a batch become one row; contradicting channels are told apart."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from esp_common.contracts.channels import CHANNEL_COUNT, MASK_NAMES
from esp_common.contracts.readings import (
    RUNNING_ABSENT,
    TRIP_CODE_ABSENT,
    Int8Array,
    Int32Array,
    Int64Array,
)

from esp_ingest.domain.scaling import NULL_INT

_RUNNING: Final = CHANNEL_COUNT
_TRIP_CODE: Final = CHANNEL_COUNT + 1
_BITS: Final = 1 << np.arange(len(MASK_NAMES), dtype=np.int32)


class Outcome(IntEnum):
    """What became of one reading in the merge.

    FIRST made the row, MERGED changed it (a channel more, or a channel refused), DUPLICATE did not.
    """

    FIRST = 0
    MERGED = 1
    DUPLICATE = 2


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of n readings, bit i for channel i of `MASK_NAMES`: gauge codes, refused and clamped channels."""

    fault: Int32Array
    refused: Int32Array
    clamped: Int32Array

    def take(self, index: Int64Array) -> "Masks":
        """Return the masks of the readings at `index`."""
        return Masks(self.fault[index], self.refused[index], self.clamped[index])


@dataclass(frozen=True, slots=True)
class Merged:
    """n readings merged into k rows with unique keys, sorted by pump and time.

    `outcome`: (n,) what became of each reading. `row`: (n,) the row it went into. `conflicts`: (n,) its
    channels that contradict the row, which keeps the first value and sets the bit in `masks.refused`.
    """

    pump_no: Int32Array
    time_us: Int64Array
    scaled: Int32Array
    running: Int8Array
    trip_code: Int32Array
    masks: Masks
    outcome: npt.NDArray[np.int8]
    row: Int64Array
    conflicts: Int32Array


def merge(
    pump_no: Int32Array,
    time_us: Int64Array,
    scaled: Int32Array,
    running: Int8Array,
    trip_code: Int32Array,
    masks: Masks,
) -> Merged:
    """Merge n readings, in the order they came: the first value of a channel stands.

    A reading that brings only what is there already is a duplicate. One that brings other channels is merged;
    of one that contradicts the row the contradicting channels are not taken.
    """
    order = np.lexsort((time_us, pump_no))
    pumps, times = pump_no[order], time_us[order]
    starts = np.ones(len(order), dtype=np.bool_)
    starts[1:] = (pumps[1:] != pumps[:-1]) | (times[1:] != times[:-1])
    row_sorted = np.cumsum(starts) - 1
    cells = np.column_stack([scaled, running.astype(np.int32), trip_code])[order]
    cells[cells[:, _RUNNING] == RUNNING_ABSENT, _RUNNING] = NULL_INT
    sorted_masks = masks.take(order)
    first = np.flatnonzero(starts)
    rows, row_masks = cells[first], sorted_masks.take(first)
    outcome_sorted = np.zeros(len(order), dtype=np.int8)
    conflicts_sorted = np.zeros(len(order), dtype=np.int32)
    if len(first) < len(order):
        outcome_sorted, conflicts_sorted = _fold(rows, row_masks, cells, sorted_masks, row_sorted, first)
    outcome, row = np.empty_like(outcome_sorted), np.empty_like(row_sorted)
    conflicts = np.empty_like(conflicts_sorted)
    outcome[order], row[order], conflicts[order] = outcome_sorted, row_sorted, conflicts_sorted
    states = np.where(rows[:, _RUNNING] == NULL_INT, RUNNING_ABSENT, rows[:, _RUNNING]).astype(np.int8)
    return Merged(
        pumps[first],
        times[first],
        np.ascontiguousarray(rows[:, :CHANNEL_COUNT]),
        states,
        np.where(rows[:, _TRIP_CODE] == NULL_INT, TRIP_CODE_ABSENT, rows[:, _TRIP_CODE]).astype(np.int32),
        row_masks,
        outcome,
        row,
        conflicts,
    )


def _fold(
    rows: Int32Array,
    row_masks: Masks,
    cells: Int32Array,
    masks: Masks,
    row_of: Int64Array,
    first: Int64Array,
) -> tuple[npt.NDArray[np.int8], Int32Array]:
    """Fold the second readings of all keys into `rows`, then the third ones, and so on.

    A refused bit of an absent channel ends when another reading brings that channel; one of a contradiction
    stays. So the row does not depend on the order in which a refused value and a good one came.
    """
    outcome = np.zeros(len(cells), dtype=np.int8)
    conflicts = np.zeros(len(cells), dtype=np.int32)
    rank = np.arange(len(cells)) - first[row_of]
    for turn in range(1, int(rank.max()) + 1):
        which = np.flatnonzero(rank == turn)
        target = row_of[which]
        new, old = cells[which], rows[target]
        brought, there = new != NULL_INT, old != NULL_INT
        clash = (brought & there & (new != old)) @ _BITS
        fresh = (brought & ~there) @ _BITS
        absent = ~(there @ _BITS) & ~fresh
        before = row_masks.refused[target]
        rows[target] = np.where(there, old, new)
        refused = (before & ~fresh) | (masks.refused[which] & absent) | clash
        row_masks.refused[target] = refused
        row_masks.fault[target] |= masks.fault[which] & fresh
        row_masks.clamped[target] |= masks.clamped[which] & fresh
        outcome[which] = np.where((fresh != 0) | (refused != before), Outcome.MERGED, Outcome.DUPLICATE)
        conflicts[which] = clash
    return outcome, conflicts
