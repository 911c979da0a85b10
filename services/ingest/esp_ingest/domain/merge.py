"""Readings of one pump and instant within a batch become one row; contradictions are told apart."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from esp_common.contracts.channels import CHANNEL_COUNT
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


class Outcome(IntEnum):
    """What became of one reading in the merge."""

    FIRST = 0
    MERGED = 1
    DUPLICATE = 2
    CONFLICT = 3


@dataclass(frozen=True, slots=True)
class Merged:
    """n readings merged into k rows with unique keys, sorted by pump and time.

    `outcome`: (n,) what became of each reading. `row`: (n,) the row it went into, or clashed with.
    """

    pump_no: Int32Array
    time_us: Int64Array
    scaled: Int32Array
    running: Int8Array
    trip_code: Int32Array
    fault_mask: Int32Array
    outcome: npt.NDArray[np.int8]
    row: Int64Array


def merge(
    pump_no: Int32Array,
    time_us: Int64Array,
    scaled: Int32Array,
    running: Int8Array,
    trip_code: Int32Array,
    fault_mask: Int32Array,
) -> Merged:
    """Merge n readings, in the order they came: the first value of a channel stands.

    A reading that brings only what is there already is a duplicate, one that brings other channels is
    merged, and one that contradicts a single value is a conflict, none of which is taken.
    """
    order = np.lexsort((time_us, pump_no))
    pumps, times = pump_no[order], time_us[order]
    starts = np.ones(len(order), dtype=np.bool_)
    starts[1:] = (pumps[1:] != pumps[:-1]) | (times[1:] != times[:-1])
    row_sorted = np.cumsum(starts) - 1
    cells = np.column_stack([scaled, running.astype(np.int32), trip_code])[order]
    cells[cells[:, _RUNNING] == RUNNING_ABSENT, _RUNNING] = NULL_INT
    masks = fault_mask[order]
    first = np.flatnonzero(starts)
    rows, row_masks = cells[first], masks[first]
    outcome_sorted = np.zeros(len(order), dtype=np.int8)
    if len(first) < len(order):
        outcome_sorted = _fold(rows, row_masks, cells, masks, row_sorted, first)
    outcome, row = np.empty_like(outcome_sorted), np.empty_like(row_sorted)
    outcome[order], row[order] = outcome_sorted, row_sorted
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
    )


def _fold(
    rows: Int32Array,
    row_masks: Int32Array,
    cells: Int32Array,
    masks: Int32Array,
    row_of: Int64Array,
    first: Int64Array,
) -> npt.NDArray[np.int8]:
    """Fold the second readings of all keys into `rows`, then the third ones, and so on."""
    outcome = np.zeros(len(cells), dtype=np.int8)
    rank = np.arange(len(cells)) - first[row_of]
    for turn in range(1, int(rank.max()) + 1):
        which = np.flatnonzero(rank == turn)
        target = row_of[which]
        new, old = cells[which], rows[target]
        brought = new != NULL_INT
        clash = np.asarray((brought & (old != NULL_INT) & (new != old)).any(axis=1))
        fresh = brought & (old == NULL_INT) & ~clash[:, None]
        rows[target] = np.where(fresh, new, old)
        row_masks[target] |= np.where(clash, 0, masks[which])
        outcome[which] = np.select(
            [clash, fresh.any(axis=1)], [Outcome.CONFLICT, Outcome.MERGED], Outcome.DUPLICATE
        )
    return outcome
