"""Live readings told apart from those of the past, and whose turn it is."""

import numpy as np
import pytest
from esp_common.contracts.readings import Readings, empty_readings
from esp_diagnostics.monitoring.backlog import (
    CHUNK_READINGS,
    MAX_LIVE_READINGS,
    MAX_SPAN_US,
    Backlog,
    Backlogs,
    chunks,
    divide,
    live_span_us,
)
from hypothesis import given
from hypothesis import strategies as st

MINUTE_US = 60_000_000
NOW_US = 1_000 * MINUTE_US


def readings(*rows: tuple[str, int]) -> Readings:
    made = empty_readings(len(rows))
    made.pump_id[:] = [pump_id for pump_id, _ in rows]
    made.time_us[:] = [time_us for _, time_us in rows]
    return made


def divided(of: Readings, *, behind: set[str] = frozenset(), through_us: int = 0):
    division = divide(of, behind, lambda _: through_us, lambda _: NOW_US - MINUTE_US)
    return of.take(division.live), division.past


def test_few_readings_are_judged_at_once_however_old():
    few = readings(*(("P-1", number) for number in range(MAX_LIVE_READINGS)))
    live, past = divided(few)
    assert (len(live), past) == (MAX_LIVE_READINGS, {})


def test_many_readings_of_one_pump_wait_but_for_the_newest_and_do_not_delay_another():
    times = [NOW_US - number * MINUTE_US // 2 for number in range(100)]
    live, past = divided(readings(*(("P-1", time_us) for time_us in times), ("P-2", NOW_US)))
    assert sorted(zip(live.pump_id.tolist(), live.time_us.tolist(), strict=True)) == [
        *(("P-1", time_us) for time_us in sorted(times[:3])),
        ("P-2", NOW_US),
    ]
    assert past == {"P-1": (times[-1], times[3])}


def test_old_readings_of_a_pump_with_a_backlog_join_it():
    live, past = divided(readings(("P-1", 5), ("P-1", NOW_US), ("P-2", 5)), behind={"P-1"})
    assert sorted(live.time_us.tolist()) == [5, NOW_US]
    assert past == {"P-1": (5, 5)}


def test_readings_older_than_what_is_judged_make_no_backlog():
    late = readings(*(("P-1", number) for number in range(10 * MAX_LIVE_READINGS)))
    live, past = divided(late, through_us=NOW_US)
    assert (len(live), past) == (len(late), {})


def test_no_readings_and_unknown_pumps_divide():
    assert divided(readings())[1] == {}
    many = readings(*(("P-9", number) for number in range(100)))
    assert divide(many, (), lambda _: None, lambda _: 0).live.all()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 10 * MINUTE_US)), unique=True, max_size=80)
)
def test_chunks_hold_few_readings_of_a_minute_and_keep_each_pumps_order(rows):
    rows = sorted(rows, key=lambda row: row[1])
    of = readings(*rows)
    numbers = chunks(of.pump_id, of.time_us)
    for pump_id in ("a", "b"):
        mine = of.pump_id == pump_id
        assert (np.diff(numbers[mine]) >= 0).all()
        assert sorted(set(numbers[mine].tolist())) == list(range(len(set(numbers[mine].tolist()))))
        for number in set(numbers[mine].tolist()):
            times = of.time_us[mine & (numbers == number)]
            assert len(times) <= CHUNK_READINGS
            assert len(set((times // MINUTE_US).tolist())) == 1


def test_a_backlog_is_read_in_full_slices_and_an_empty_stretch_soon_passed():
    backlog = Backlog("P-1", 0, 0, 10 * 365 * 86_400_000_000)
    reads = 0
    while backlog.pending:
        backlog.advance(min(backlog.judged_us + backlog.span_us, backlog.until_us), None, 0, 300)
        reads += 1
    assert reads < 150
    assert backlog.span_us == MAX_SPAN_US
    full = Backlog("P-1", 0, 0, NOW_US, span_us=NOW_US)
    full.advance(NOW_US, 5 * MINUTE_US, 300, 300)
    assert (full.judged_us, full.pending, full.span_us) == (5 * MINUTE_US, True, NOW_US // 2)


def test_backlog_with_many_live_readings_to_go_is_not_judged_to_its_end_in_one_turn():
    backlog = Backlog("P-1", 0, 100, 100)
    assert not backlog.meet(200, MAX_LIVE_READINGS)
    assert (backlog.judged_us, backlog.until_us, backlog.pending) == (100, 200, True)
    assert backlog.meet(300, MAX_LIVE_READINGS - 1)
    assert (backlog.judged_us, backlog.pending) == (300, False)


def test_pumps_take_turns_and_one_that_is_judged_settles_before_it_is_over():
    backlogs = Backlogs(settle_s=10)
    for number in range(3):
        backlogs.add(Backlog(f"P-{number}", number, 0, 100, served_at_s=-number))
    assert [each.pump_id for each in backlogs.due({0, 1, 2}, 2)] == ["P-2", "P-1"]
    assert [each.pump_id for each in backlogs.due({0}, 2)] == ["P-0"]
    backlogs.get("P-0").judged_us = 100
    assert backlogs.settled({0}, now_s=9) == []
    assert backlogs.settled({0}, now_s=10) == [backlogs.get("P-0")]
    backlogs.extend("P-0", 100, 200, now_s=9)
    assert backlogs.settled({0}, now_s=30) == []
    assert "P-0" in {each.pump_id for each in backlogs.due({0}, 1)}


@pytest.mark.parametrize(("interval_s", "span_s"), [(1, 10), (10, 50), (3600, 1800), (None, 1800)], ids=str)
def test_a_reading_is_live_for_a_few_intervals(interval_s, span_s):
    assert live_span_us(interval_s, 600) == span_s * 1_000_000
