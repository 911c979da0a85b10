from collections.abc import Sequence

import numpy as np
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNELS
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_ingest.domain.merge import Merged, Outcome, merge
from esp_ingest.domain.scaling import NULL_INT, RESOLUTIONS, to_scaled, to_units
from hypothesis import given
from hypothesis import strategies as st

Row = tuple[int, int, dict[int, int], int]


def merged(rows: Sequence[Row]) -> Merged:
    """Merge rows (pump, time, values by channel, running); bit i of the fault mask for each odd value."""
    scaled = np.full((len(rows), CHANNEL_COUNT), NULL_INT, dtype=np.int32)
    for number, (_, _, values, _) in enumerate(rows):
        for channel, value in values.items():
            scaled[number, channel] = value
    faults = [sum(1 << c for c, v in values.items() if v % 2) for _, _, values, _ in rows]
    return merge(
        np.array([row[0] for row in rows], dtype=np.int32),
        np.array([row[1] for row in rows], dtype=np.int64),
        scaled,
        np.array([row[3] for row in rows], dtype=np.int8),
        np.full(len(rows), TRIP_CODE_ABSENT, dtype=np.int32),
        np.array(faults, dtype=np.int32),
    )


def test_identical_is_duplicate_other_channels_merge_and_contradictions_are_not_taken() -> None:
    outcome = merged(
        [
            (2, 5, {0: 10}, RUNNING_ABSENT),
            (1, 5, {0: 1}, 1),
            (2, 5, {0: 10}, RUNNING_ABSENT),
            (2, 5, {1: 11}, 0),
            (2, 5, {0: 10, 1: 12, 2: 13}, RUNNING_ABSENT),
            (2, 5, {1: 11}, 1),
            (2, 5, {0: 10, 1: 11}, RUNNING_ABSENT),
        ]
    )
    expected = [
        Outcome.FIRST,
        Outcome.FIRST,
        Outcome.DUPLICATE,
        Outcome.MERGED,
        Outcome.CONFLICT,
        Outcome.CONFLICT,
        Outcome.DUPLICATE,
    ]
    assert outcome.outcome.tolist() == expected
    assert outcome.row.tolist() == [1, 0, 1, 1, 1, 1, 1]
    assert outcome.pump_no.tolist() == [1, 2]
    assert outcome.scaled[1, :3].tolist() == [10, 11, NULL_INT]
    assert outcome.running.tolist() == [1, 0]
    assert outcome.fault_mask.tolist() == [1, 2]


def test_nothing_merges_to_nothing() -> None:
    assert len(merged([]).time_us) == 0


ROWS = st.tuples(
    st.integers(1, 3),
    st.integers(0, 2),
    st.dictionaries(st.integers(0, 3), st.integers(0, 2), min_size=1),
    st.sampled_from([RUNNING_ABSENT, 0, 1]),
)


@given(st.lists(ROWS, max_size=12))
def test_merging_agrees_with_doing_it_one_by_one(rows: list[Row]) -> None:
    outcome = merged(rows)
    kept: dict[tuple[int, int], dict[int, int]] = {}
    for number, (pump, time, values, running) in enumerate(rows):
        cells = values | ({99: running} if running != RUNNING_ABSENT else {})
        known = kept.get((pump, time))
        if known is None:
            expected = Outcome.FIRST
        elif any(known.get(cell, value) != value for cell, value in cells.items()):
            expected = Outcome.CONFLICT
        else:
            expected = Outcome.MERGED if cells.keys() - known.keys() else Outcome.DUPLICATE
        if expected is not Outcome.CONFLICT:
            kept.setdefault((pump, time), {}).update(cells)
        assert outcome.outcome[number] == expected
    assert [
        (p, t) for p, t in zip(outcome.pump_no.tolist(), outcome.time_us.tolist(), strict=True)
    ] == sorted(kept)
    for row, key in enumerate(sorted(kept)):
        stored = {c: int(v) for c, v in enumerate(outcome.scaled[row]) if v != NULL_INT}
        assert stored == {c: v for c, v in kept[key].items() if c != 99}
        assert outcome.running[row] == kept[key].get(99, RUNNING_ABSENT)


@given(st.integers(0, CHANNEL_COUNT - 1), st.floats(0, 1))
def test_scaling_loses_less_than_half_a_resolution(channel: int, share: float) -> None:
    known = CHANNELS[channel]
    value = known.low + share * (known.high - known.low)
    values = np.full((1, CHANNEL_COUNT), np.nan)
    values[0, channel] = value
    back = to_units(to_scaled(values))
    assert abs(back[0, channel] - value) <= RESOLUTIONS[channel] * (0.5 + 1e-6)
    assert np.isnan(np.delete(back[0], channel)).all()
