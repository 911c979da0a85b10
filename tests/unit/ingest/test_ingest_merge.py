from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNELS, MASK_BIT
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_ingest.domain.merge import Masks, Merged, Outcome, merge
from esp_ingest.domain.scaling import NULL_INT, RESOLUTIONS, to_scaled, to_units
from hypothesis import given
from hypothesis import strategies as st

Row = tuple[int, int, dict[int, int], int, set[int]]


def mask_of(bits: Iterable[int]) -> int:
    return sum(1 << bit for bit in bits)


def merged(rows: Sequence[Row]) -> Merged:
    """Merge rows (pump, time, values by channel, running, refused channels).

    The fault mask has the bits of odd values, the clamped mask of values above 10.
    """
    scaled = np.full((len(rows), CHANNEL_COUNT), NULL_INT, dtype=np.int32)
    for number, (_, _, values, _, _) in enumerate(rows):
        for channel, value in values.items():
            scaled[number, channel] = value
    masks = Masks(
        np.array([mask_of(c for c, v in row[2].items() if v % 2) for row in rows], dtype=np.int32),
        np.array([mask_of(row[4]) for row in rows], dtype=np.int32),
        np.array([mask_of(c for c, v in row[2].items() if v > 10) for row in rows], dtype=np.int32),
    )
    return merge(
        np.array([row[0] for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int64),
        scaled,
        np.array([row[3] for row in rows], dtype=np.int8),
        np.full(len(rows), TRIP_CODE_ABSENT, dtype=np.int32),
        masks,
    )


def test_identical_is_duplicate_other_channels_merge_and_only_contradicting_channels_are_not_taken() -> None:
    outcome = merged(
        [
            (2, 5, {0: 10}, RUNNING_ABSENT, set()),
            (1, 5, {0: 1}, 1, set()),
            (2, 5, {0: 10}, RUNNING_ABSENT, set()),
            (2, 5, {1: 11}, 0, set()),
            (2, 5, {0: 10, 1: 13, 2: 12}, RUNNING_ABSENT, set()),
            (2, 5, {1: 11}, 1, set()),
            (2, 5, {1: 13}, RUNNING_ABSENT, set()),
            (2, 5, {0: 10, 1: 11}, RUNNING_ABSENT, set()),
        ]
    )
    expected = [
        Outcome.FIRST,
        Outcome.FIRST,
        Outcome.DUPLICATE,
        Outcome.MERGED,
        Outcome.MERGED,
        Outcome.MERGED,
        Outcome.DUPLICATE,
        Outcome.DUPLICATE,
    ]
    assert outcome.outcome.tolist() == expected
    assert outcome.conflicts.tolist() == [0, 0, 0, 0, 1 << 1, 1 << MASK_BIT["running"], 1 << 1, 0]
    assert outcome.row.tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
    assert outcome.pump_no.tolist() == [1, 2]
    assert outcome.scaled[1, :4].tolist() == [10, 11, 12, NULL_INT]
    assert outcome.running.tolist() == [1, 0]
    assert outcome.masks.fault.tolist() == [1, 1 << 1]
    assert outcome.masks.clamped.tolist() == [0, mask_of([1, 2])]
    assert outcome.masks.refused.tolist() == [0, mask_of([1, MASK_BIT["running"]])]


def test_nothing_merges_to_nothing() -> None:
    assert len(merged([]).time_us) == 0


@pytest.mark.parametrize("turn", [1, -1])
def test_a_refused_channel_is_filled_by_another_reading_whichever_came_first(turn: int) -> None:
    rows: list[Row] = [(1, 1, {0: 4}, RUNNING_ABSENT, {3}), (1, 1, {3: 8}, RUNNING_ABSENT, set())]
    outcome = merged(rows[::turn])
    assert outcome.scaled[0, [0, 3]].tolist() == [4, 8]
    assert outcome.masks.refused.tolist() == [0]
    assert outcome.outcome.tolist() == [Outcome.FIRST, Outcome.MERGED]


ROWS = st.tuples(
    st.integers(1, 3),
    st.integers(0, 2),
    st.dictionaries(st.integers(0, 3), st.integers(0, 2), min_size=1),
    st.sampled_from([RUNNING_ABSENT, 0, 1]),
    st.sets(st.integers(0, 5)),
).map(lambda row: (*row[:4], row[4] - row[2].keys()))


@given(st.lists(ROWS, max_size=12))
def test_merging_agrees_with_doing_it_one_by_one(rows: list[Row]) -> None:
    outcome = merged(rows)
    state = MASK_BIT["running"]
    kept: dict[tuple[int, int], dict[int, int]] = {}
    marks: dict[tuple[int, int], set[int]] = {}
    for number, (pump, time, values, running, refused) in enumerate(rows):
        cells = values | ({state: running} if running != RUNNING_ABSENT else {})
        known, marked = kept.setdefault((pump, time), {}), marks.setdefault((pump, time), set())
        first = not known and not marked
        clash = {cell for cell, value in cells.items() if known.get(cell, value) != value}
        fresh = cells.keys() - known.keys()
        known.update({cell: cells[cell] for cell in fresh})
        after = (marked - fresh) | (refused - known.keys()) | clash
        changed = bool(fresh) or after != marked
        marks[pump, time] = after
        expected = Outcome.FIRST if first else Outcome.MERGED if changed else Outcome.DUPLICATE
        assert outcome.outcome[number] == expected
        assert outcome.conflicts[number] == mask_of(clash)
    keys = list(zip(outcome.pump_no.tolist(), outcome.time_us.tolist(), strict=True))
    assert keys == sorted(kept)
    for row, key in enumerate(keys):
        stored = {c: int(v) for c, v in enumerate(outcome.scaled[row]) if v != NULL_INT}
        assert stored == {c: v for c, v in kept[key].items() if c != state}
        assert outcome.running[row] == kept[key].get(state, RUNNING_ABSENT)
        assert outcome.masks.refused[row] == mask_of(marks[key])
        assert outcome.masks.fault[row] == mask_of(c for c, v in stored.items() if v % 2)


@given(st.integers(0, CHANNEL_COUNT - 1), st.floats(0, 1))
def test_scaling_loses_less_than_half_a_resolution(channel: int, share: float) -> None:
    known = CHANNELS[channel]
    value = known.low + share * (known.high - known.low)
    values = np.full((1, CHANNEL_COUNT), np.nan)
    values[0, channel] = value
    back = to_units(to_scaled(values))
    assert abs(back[0, channel] - value) <= RESOLUTIONS[channel] * (0.5 + 1e-6)
    assert np.isnan(np.delete(back[0], channel)).all()
