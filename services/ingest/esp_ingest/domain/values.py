"""Which values can be measurements: hard limits, their tolerance, and numbers that stand for no value."""

from typing import Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_NAMES, CHANNELS, MASK_BIT, RUNNING, TRIP_CODE
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT, FloatMatrix, Int32Array

from esp_ingest.domain.blocks import Columns
from esp_ingest.domain.codes import SENTINELS, fault_codes, pack_mask, sentinels
from esp_ingest.domain.columns import Mask
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.verdicts import Refusal, Verdicts

_LOW: Final = np.array([channel.low for channel in CHANNELS])
_HIGH: Final = np.array([channel.high for channel in CHANNELS])
_LOWEST: Final = _LOW - np.array([channel.tolerance for channel in CHANNELS])
_HIGHEST: Final = _HIGH + np.array([channel.tolerance_above for channel in CHANNELS])
_BITS: Final = np.arange(len(CHANNELS), dtype=np.int32)
_ROOMY: Final = [
    i for i, c in enumerate(CHANNELS) if any(c.low <= sentinel <= c.high for sentinel in SENTINELS)
]
"""Channels whose limits let sentinels pass."""


def judge_values(columns: Columns, verdicts: Verdicts) -> tuple[Int32Array, Int32Array]:
    """Refuse and take out what cannot be a measurement; return the masks of gauge codes and clamped values.

    Values within tolerance of a physical limit become the limit, in place.
    """
    values = columns.values
    if verdicts.refused_mask.any():
        _take_out(columns, verdicts.refused_mask)
    codes = fault_codes(values)
    if columns.raw_codes.any():
        codes |= (columns.raw_codes[:, None] >> _BITS & 1).astype(np.bool_) & ~np.isnan(values)
    before = verdicts.refused_mask.copy()
    for channel in _ROOMY:
        _refuse(columns, channel, sentinels(values[:, channel]), verdicts)
    beyond = ((values < _LOW) | (values > _HIGH)) & ~codes
    clamped = np.zeros_like(verdicts.refused_mask)
    if beyond.any():
        near = beyond & (values >= _LOWEST) & (values <= _HIGHEST)
        clamped = pack_mask(near)
        np.copyto(values, np.clip(values, _LOW, _HIGH), where=near)
        far = beyond & ~near
        for channel in np.flatnonzero(far.any(axis=0)).tolist():
            _refuse(columns, channel, far[:, channel], verdicts)
    if not np.array_equal(before, verdicts.refused_mask):
        _take_out(columns, verdicts.refused_mask)
    empty = (columns.running == RUNNING_ABSENT) & (columns.trip_code == TRIP_CODE_ABSENT)
    empty[empty] = np.isnan(values[empty]).all(axis=1)
    verdicts.refuse_empty(empty)
    return pack_mask(codes), clamped & ~verdicts.refused_mask


def _refuse(columns: Columns, channel: int, where: Mask, verdicts: Verdicts) -> None:
    numbers = np.flatnonzero(where)
    if not len(numbers):
        return
    values, found = columns.values, sentinels(columns.values[numbers, channel])

    def refusal(position: int) -> Refusal:
        value = values[numbers[position], channel]
        if found[position]:
            detail = f"{CHANNEL_NAMES[channel]} = {value:.9g} is a sentinel, not a value"
            return Refusal(Reason.SENTINEL_VALUE, detail)
        return Refusal(Reason.OUT_OF_RANGE, _limit_detail(values, int(numbers[position]), channel))

    verdicts.refuse_channel(numbers, CHANNEL_NAMES[channel], refusal)


def _take_out(columns: Columns, refused_mask: Int32Array) -> None:
    """Set refused channels to not measured."""
    rows = np.flatnonzero(refused_mask)
    flags = (refused_mask[rows, None] >> _BITS & 1).astype(np.bool_)
    columns.values[rows] = np.where(flags, np.nan, columns.values[rows])
    columns.running[refused_mask >> MASK_BIT[RUNNING] & 1 == 1] = RUNNING_ABSENT
    columns.trip_code[refused_mask >> MASK_BIT[TRIP_CODE] & 1 == 1] = TRIP_CODE_ABSENT


def _limit_detail(values: FloatMatrix, number: int, channel: int) -> str:
    known = CHANNELS[channel]
    return (
        f"{known.name} = {values[number, channel]:.6g} is beyond {known.low:g} to {known.high:g} {known.unit}"
    )
