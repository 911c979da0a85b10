from collections.abc import Sequence

import numpy as np
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX
from esp_common.contracts.readings import RUNNING_ABSENT
from esp_ingest.domain.frozen import FrozenTracker
from esp_ingest.domain.scaling import NULL_INT
from hypothesis import given
from hypothesis import strategies as st

PRESSURE = CHANNEL_INDEX["intake_pressure_psi"]
FREQUENCY = CHANNEL_INDEX["frequency_hz"]
BIT = 1 << PRESSURE
MINUTE_US = 60_000_000


def judge(
    tracker: FrozenTracker,
    minutes: Sequence[int],
    values: Sequence[int | None],
    running: Sequence[int] | int = RUNNING_ABSENT,
    pump_no: int = 1,
    frequency: int = NULL_INT,
) -> list[bool]:
    scaled = np.full((len(minutes), CHANNEL_COUNT), NULL_INT, dtype=np.int32)
    scaled[:, PRESSURE] = [NULL_INT if value is None else value for value in values]
    scaled[:, FREQUENCY] = frequency
    states = (
        np.full(len(minutes), running, dtype=np.int8)
        if isinstance(running, int)
        else np.array(running, np.int8)
    )
    times = np.array(minutes, dtype=np.int64) * MINUTE_US
    return [
        bool(mask & BIT)
        for mask in tracker.judge(np.full(len(minutes), pump_no, dtype=np.int32), times, scaled, states)
    ]


def test_a_value_that_stands_still_for_an_hour_and_30_readings_is_frozen() -> None:
    flags = judge(FrozenTracker(), range(0, 80, 2), [7] * 40)
    assert flags == [minute >= 60 for minute in range(0, 80, 2)]


def test_few_readings_in_an_hour_prove_nothing() -> None:
    assert not any(judge(FrozenTracker(), range(0, 290, 10), [7] * 29))


def test_noise_is_never_frozen() -> None:
    assert not any(judge(FrozenTracker(), range(200), [7 + n % 2 for n in range(200)]))


def test_a_change_ends_the_run() -> None:
    flags = judge(FrozenTracker(), range(100), [7] * 70 + [8] * 30)
    assert flags[60:70] == [True] * 10
    assert not any(flags[70:])


def test_a_stopped_pump_may_stand_still() -> None:
    assert not any(judge(FrozenTracker(), range(100), [7] * 100, running=0))
    assert not any(judge(FrozenTracker(), range(100), [7] * 100, frequency=0))


def test_the_run_starts_over_after_a_stop_and_readings_without_state_go_by_the_one_before() -> None:
    tracker = FrozenTracker()
    states = [1] * 50 + [0] + [RUNNING_ABSENT] * 49
    assert not any(judge(tracker, range(100), [7] * 100, running=states))
    assert not any(judge(tracker, range(100, 110), [7] * 10))
    assert judge(tracker, range(110, 180), [7] * 70, running=1)[-1]


def test_gaps_and_other_pumps_do_not_end_a_run() -> None:
    tracker = FrozenTracker()
    assert not any(judge(tracker, range(40), [7 if n % 3 else None for n in range(40)]))
    assert not any(judge(tracker, range(40), range(40), pump_no=500))
    flags = judge(tracker, range(40, 80), [7] * 40)
    assert flags == [minute - 1 >= 60 for minute in range(40, 80)]


def test_what_comes_late_leaves_the_run_alone_and_is_judged_by_it() -> None:
    tracker = FrozenTracker()
    judge(tracker, range(90), [7] * 90)
    assert judge(tracker, [10, 20, 70, 80], [9, 7, 7, 9]) == [False, False, True, False]
    assert judge(tracker, [90], [7]) == [True]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=60), st.lists(st.integers(1, 20)))
def test_how_readings_are_cut_into_flushes_does_not_matter(
    rows: list[tuple[int, int]], cuts: list[int]
) -> None:
    minutes = [5 * n for n in range(len(rows))]
    values = [value for _, value in rows]
    whole = judge(FrozenTracker(), minutes, values)
    tracker, parts, at = FrozenTracker(), [], 0
    for cut in [*cuts, len(rows)]:
        parts += (
            judge(tracker, minutes[at : at + cut], values[at : at + cut]) if minutes[at : at + cut] else []
        )
        at += cut
    assert parts == whole
