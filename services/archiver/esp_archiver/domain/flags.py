"""Flags of channels: as bit masks where they are computed with, as lists of names in files."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from esp_common.contracts.channels import CHANNEL_NAMES, MASK_BIT

Masks = npt.NDArray[np.int32]
_NAMES: Final = pa.array(CHANNEL_NAMES, pa.string())


def names_of(masks: Masks) -> pa.Array:
    """Return for each mask the names of the channels whose bits are set."""
    known, of = np.unique(masks, return_inverse=True)
    names = [[name for bit, name in enumerate(CHANNEL_NAMES) if mask >> bit & 1] for mask in known.tolist()]
    return pa.array(names, pa.list_(pa.string())).take(pa.array(of))


def bits_of(column: Any) -> Masks:
    """Return a column of masks, 0 for null."""
    return np.asarray(column.combine_chunks().fill_null(0).to_numpy(zero_copy_only=False), np.int32)


def column_of(masks: Masks) -> pa.Array:
    """Return masks as a column, null for 0."""
    return pa.array(masks, pa.int32(), mask=masks == 0)


def present_in(table: pa.Table) -> Masks:
    """Return for each row of readings the mask of the channels and states that have a value."""
    present = np.zeros(table.num_rows, np.int32)
    for name in (name for name in table.column_names if name in MASK_BIT):
        present |= np.where(table.column(name).is_valid().to_numpy(), 1 << MASK_BIT[name], 0).astype(np.int32)
    return present


def masks_of(lists: Any) -> Masks:
    """Return for each list of names (null: none) the mask of their channels."""
    masks = np.zeros(len(lists), np.int32)
    bits = pc.index_in(pc.list_flatten(lists), value_set=_NAMES)
    rows = pc.list_parent_indices(lists).to_numpy()
    known = bits.is_valid().to_numpy(zero_copy_only=False)
    np.bitwise_or.at(masks, rows[known], np.left_shift(1, bits.drop_null().to_numpy()).astype(np.int32))
    return masks
