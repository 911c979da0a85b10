"""The life of an alarm: what signals, people and time do to it, and who is told."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNELS
from esp_common.contracts.readings import Readings, empty_readings
from esp_common.errors import Conflict, InvalidInput
from esp_diagnostics.alerts import lifecycle
from esp_diagnostics.alerts.lifecycle import Alarm, Handling, Notice, Signal, State, What
from esp_diagnostics.alerts.limit_signals import limit_signal
from esp_diagnostics.alerts.rules import (
    AlertRulesInvalid,
    limits_of,
    load_alert_rules,
    shipped_alert_rules,
    shipped_text,
    suppression,
)
from esp_diagnostics.alerts.statistics import load, per_operator_hour, shares
from esp_diagnostics.detection.limits import LimitWatch
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
COLUMN = {channel.name: position for position, channel in enumerate(CHANNELS)}
AT_ONCE = Handling("medium")
DELAYED = Handling("medium", on_delay_s=60, off_delay_s=120)
NEVER_S = 1e9


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def signal(active: bool, seconds: float = 0, **other: Any) -> Signal:
    given = {"severity": "medium", "title": "Gas lock", "source": "finding", **other}
    return Signal("P-1", "north", "gas_lock", active=active, time=at(seconds), **given)


def after(
    alarm: Alarm | None, said: Signal, handling: Handling = AT_ONCE, now: datetime | None = None
) -> Alarm:
    found = lifecycle.signalled(alarm, said, handling, alert_id=uuid4(), now=now or said.time)
    assert found is not None
    return found


@pytest.fixture
def active() -> Alarm:
    return after(None, signal(True))


@pytest.fixture
def cleared(active: Alarm) -> Alarm:
    return after(active, signal(False, 100))


# --- signals ----------------------------------------------------------------------------------------------


def test_a_condition_raises_an_unacknowledged_alarm_and_people_are_told(active: Alarm) -> None:
    assert active.state is State.ACTIVE_UNACKNOWLEDGED
    assert (active.raised_at, active.occurrences) == (NOON, 1)
    assert lifecycle.changes(None, active) == [What.RAISED]
    assert lifecycle.notice(None, active) is Notice.RAISED


def test_an_unacknowledged_alarm_that_clears_waits_for_its_acknowledgement(
    active: Alarm, cleared: Alarm
) -> None:
    assert cleared.state is State.CLEARED_UNACKNOWLEDGED
    assert cleared.cleared_at == at(100)
    assert lifecycle.changes(active, cleared) == [What.CLEARED]
    assert lifecycle.notice(active, cleared) is Notice.CLEARED
    seen = lifecycle.acknowledge(cleared, "ann", at(200))
    assert seen.state is State.NORMAL
    assert (seen.acknowledged_by, seen.acknowledged_at) == ("ann", at(200))


def test_an_alarm_that_comes_back_is_the_same_once_more_and_unacknowledged(cleared: Alarm) -> None:
    seen = lifecycle.acknowledge(cleared, "ann", at(200))
    again = after(seen, signal(True, 300))
    assert again.alert_id == cleared.alert_id
    assert (again.occurrences, again.raised_at, again.last_raised_at) == (2, NOON, at(300))
    assert again.state is State.ACTIVE_UNACKNOWLEDGED
    assert again.acknowledged_by == "ann"
    assert lifecycle.changes(seen, again) == [What.RAISED]


@pytest.mark.parametrize("times", [(0,), (0, 50), (-10,)], ids=["the-same", "later", "older"])
def test_a_signal_that_says_nothing_new_changes_nothing(times: tuple[int, ...], active: Alarm) -> None:
    again = active
    for seconds in times:
        again = after(again, signal(True, seconds))
    assert again == active


def test_signals_replayed_after_the_alarm_cleared_change_nothing(cleared: Alarm) -> None:
    assert after(after(cleared, signal(True, 0)), signal(False, 100)) == cleared


@pytest.mark.parametrize("said", [signal(True), signal(False, 100)], ids=["raised", "cleared"])
def test_signals_replayed_after_the_alarm_was_closed_open_no_other(said: Signal, cleared: Alarm) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    assert after(closed, said) == closed


def test_after_its_end_a_condition_that_comes_back_is_another_alarm(cleared: Alarm) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    again = after(closed, signal(True, 300))
    assert again.alert_id != closed.alert_id
    assert again.occurrences == 1


def test_a_graver_condition_escalates_and_people_are_told_once(active: Alarm) -> None:
    graver = after(active, signal(True, 10, severity="high"), Handling("high"))
    assert lifecycle.changes(active, graver) == [What.CHANGED]
    assert lifecycle.notice(active, graver) is Notice.ESCALATED
    milder = after(graver, signal(True, 20))
    assert lifecycle.changes(graver, milder) == [What.CHANGED]
    assert lifecycle.notice(graver, milder) is None


def test_a_condition_that_was_not_there_clears_nothing() -> None:
    assert lifecycle.signalled(None, signal(False), AT_ONCE, alert_id=uuid4(), now=NOON) is None


# --- delays -----------------------------------------------------------------------------------------------


def test_a_condition_must_last_before_it_is_an_alarm() -> None:
    waiting = after(None, signal(True), DELAYED)
    assert waiting.state is State.PENDING
    assert lifecycle.changes(None, waiting) == []
    assert lifecycle.after_time(waiting, at(59), rest_s=NEVER_S) == waiting
    raised = lifecycle.after_time(waiting, at(60), rest_s=NEVER_S)
    assert (raised.state, raised.last_raised_at) == (State.ACTIVE_UNACKNOWLEDGED, NOON)


def test_a_condition_that_goes_before_its_delay_was_never_an_alarm() -> None:
    waiting = after(None, signal(True), DELAYED)
    gone = lifecycle.signalled(waiting, signal(False, 30), DELAYED, alert_id=uuid4(), now=at(30))
    assert gone is None


def test_a_condition_must_be_gone_for_long_before_the_alarm_clears(active: Alarm) -> None:
    going = after(active, signal(False, 100), DELAYED)
    assert going.active
    back = after(going, signal(True, 150), DELAYED)
    assert (back.active, back.due_at, back.occurrences) == (True, None, 1)
    gone = lifecycle.after_time(going, at(220), rest_s=NEVER_S)
    assert (gone.active, gone.cleared_at) == (False, at(100))


def test_a_delay_runs_from_the_first_signal_not_from_its_repetition() -> None:
    waiting = after(None, signal(True), DELAYED)
    waiting = after(waiting, signal(True, 40), DELAYED)
    assert waiting.due_at == at(60)
    assert after(waiting, signal(True, 60), DELAYED).active


def test_a_condition_that_lasted_before_anybody_said_so_is_an_alarm_at_once() -> None:
    assert after(None, signal(True), DELAYED, now=at(3600)).active


# --- what hides an alarm ----------------------------------------------------------------------------------


def test_a_suppressed_alarm_is_told_when_its_suppression_ends() -> None:
    hidden = after(None, signal(True, suppressed_by="state starting"))
    assert hidden.state is State.SUPPRESSED
    assert lifecycle.changes(None, hidden) == [What.RAISED, What.SUPPRESSED]
    assert lifecycle.notice(None, hidden) is None
    shown = after(hidden, signal(True, 60))
    assert lifecycle.changes(hidden, shown) == [What.UNSUPPRESSED]
    assert lifecycle.notice(hidden, shown) is Notice.RAISED


def test_what_was_suppressed_to_its_end_needs_no_acknowledgement() -> None:
    hidden = after(None, signal(True, suppressed_by="state starting"))
    gone = after(hidden, signal(False, 60))
    assert gone.state is State.NORMAL
    assert lifecycle.changes(hidden, gone) == [What.CLEARED]
    assert lifecycle.notice(hidden, gone) is None


def test_a_shelved_alarm_comes_back_by_itself(active: Alarm) -> None:
    shelved = lifecycle.shelve(active, "ann", at(600), "gauge is changed", NOON, longest_s=3600)
    assert (shelved.state, shelved.shelved_by) == (State.SHELVED, "ann")
    assert lifecycle.changes(active, shelved) == [What.SHELVED]
    assert lifecycle.after_time(shelved, at(599), rest_s=NEVER_S) == shelved
    back = lifecycle.after_time(shelved, at(600), rest_s=NEVER_S)
    assert back == active
    assert lifecycle.notice(shelved, back) is Notice.RAISED


def test_a_condition_that_comes_and_goes_while_shelved_disturbs_nobody(active: Alarm) -> None:
    shelved = lifecycle.shelve(active, "ann", at(600), "known", NOON, longest_s=3600)
    gone = after(shelved, signal(False, 10))
    back = after(gone, signal(True, 20))
    assert (gone.state, back.state) == (State.SHELVED, State.SHELVED)
    assert lifecycle.notice(shelved, gone) is None
    assert lifecycle.notice(gone, back) is None


def test_an_acknowledged_alarm_is_not_told_again_when_unshelved(active: Alarm) -> None:
    seen = lifecycle.acknowledge(active, "ann", NOON)
    shelved = lifecycle.shelve(seen, "ann", at(600), "known", NOON, longest_s=3600)
    assert lifecycle.notice(shelved, lifecycle.unshelve(shelved)) is None


@pytest.mark.parametrize("seconds", [0, -1, 3601], ids=["now", "past", "too-long"])
def test_shelving_ends_in_the_future_and_soon(seconds: int, active: Alarm) -> None:
    with pytest.raises(InvalidInput):
        lifecycle.shelve(active, "ann", at(seconds), "why", NOON, longest_s=3600)


def test_out_of_service_ends_a_shelving_and_lasts_until_it_is_ended(active: Alarm) -> None:
    shelved = lifecycle.shelve(active, "ann", at(600), "why", NOON, longest_s=3600)
    idle = lifecycle.take_out_of_service(shelved, "bob", "workover")
    assert idle.state is State.OUT_OF_SERVICE
    assert set(lifecycle.changes(shelved, idle)) == {What.UNSHELVED, What.OUT_OF_SERVICE}
    assert lifecycle.after_time(idle, at(1e9), rest_s=1) == idle
    back = lifecycle.return_to_service(idle)
    assert back == active
    with pytest.raises(Conflict):
        lifecycle.shelve(idle, "ann", at(600), "why", NOON, longest_s=3600)


# --- its end ----------------------------------------------------------------------------------------------


def test_an_alarm_at_rest_ends_by_itself(cleared: Alarm) -> None:
    seen = lifecycle.acknowledge(cleared, "ann", at(200))
    assert lifecycle.after_time(seen, at(299), rest_s=100) == seen
    closed = lifecycle.after_time(seen, at(300), rest_s=100)
    assert closed.state is State.CLOSED
    assert closed.closed_by is None
    assert lifecycle.changes(seen, closed) == [What.CLOSED]


def test_an_alarm_nobody_has_seen_does_not_end_by_itself(cleared: Alarm) -> None:
    assert lifecycle.after_time(cleared, at(1e8), rest_s=1) == cleared


def test_closing_a_cleared_alarm_acknowledges_it(cleared: Alarm) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    assert (closed.state, closed.acknowledged_by, closed.closed_by) == (State.CLOSED, "ann", "ann")
    assert lifecycle.changes(cleared, closed) == [What.ACKNOWLEDGED, What.CLOSED]
    assert lifecycle.notice(cleared, closed) is None


def test_a_pumps_active_alarm_cannot_be_closed_but_a_platforms_can(active: Alarm) -> None:
    with pytest.raises(Conflict):
        lifecycle.close(active, "ann", at(1))
    closed = lifecycle.close(replace(active, source="platform"), "ann", at(1))
    assert (closed.state, closed.active) == (State.CLOSED, False)


ACTS = {
    "acknowledge": lambda alarm: lifecycle.acknowledge(alarm, "ann", at(300)),
    "unacknowledge": lifecycle.unacknowledge,
    "shelve": lambda alarm: lifecycle.shelve(alarm, "ann", at(600), "why", at(300), longest_s=3600),
    "unshelve": lifecycle.unshelve,
    "out-of-service": lambda alarm: lifecycle.take_out_of_service(alarm, "ann", "why"),
    "in-service": lifecycle.return_to_service,
    "assign": lambda alarm: lifecycle.assign(alarm, "ann"),
    "close": lambda alarm: lifecycle.close(alarm, "ann", at(300)),
}


@pytest.mark.parametrize("act", ACTS)
def test_nothing_can_be_done_to_a_closed_alarm(act: str, cleared: Alarm) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    with pytest.raises(Conflict):
        ACTS[act](closed)


@pytest.mark.parametrize("act", ["unshelve", "in-service"])
def test_what_is_not_hidden_cannot_be_shown(act: str, active: Alarm) -> None:
    with pytest.raises(Conflict):
        ACTS[act](active)


def test_an_acknowledgement_keeps_the_name_of_who_was_first(active: Alarm) -> None:
    first = lifecycle.acknowledge(active, "ann", at(1))
    assert lifecycle.acknowledge(first, "bob", at(2)) == first
    assert lifecycle.changes(first, lifecycle.unacknowledge(first)) == [What.UNACKNOWLEDGED]


STEPS = st.lists(
    st.tuples(st.sampled_from(["on", "off", "tick", *ACTS]), st.integers(1, 500)), min_size=1, max_size=30
)


@given(STEPS)
def test_whatever_happens_the_state_fits_the_alarm_and_people_are_told_only_of_what_shows(
    steps: list[tuple[str, int]],
) -> None:
    alarm: Alarm | None = None
    seconds = 0
    for what, pause in steps:
        seconds += pause
        before = alarm
        try:
            alarm = _step(alarm, what, seconds)
        except (Conflict, InvalidInput):
            alarm = before
        if alarm is None:
            continue
        if before is not None and before.alert_id != alarm.alert_id:
            before = None
        told = lifecycle.notice(before, alarm)
        assert (told in (Notice.RAISED, Notice.ESCALATED)) <= alarm.annunciated
        assert (alarm != before) or not lifecycle.changes(before, alarm)
        assert alarm.annunciated == (alarm.state in (State.ACTIVE_ACKNOWLEDGED, State.ACTIVE_UNACKNOWLEDGED))
        assert alarm.cleared_at is None or alarm.cleared_at >= alarm.raised_at


def _step(alarm: Alarm | None, what: str, seconds: int) -> Alarm | None:
    now = at(seconds)
    if what in ("on", "off"):
        said = signal(what == "on", seconds)
        return lifecycle.signalled(alarm, said, DELAYED, alert_id=uuid4(), now=now)
    if alarm is None:
        return None
    return lifecycle.after_time(alarm, now, rest_s=900) if what == "tick" else ACTS[what](alarm)


# --- floods and statistics --------------------------------------------------------------------------------


def test_a_flood_begins_above_ten_and_lasts_until_fewer_than_five() -> None:
    counts = [9, 10, 11, 9, 6, 5, 4, 6]
    found, flooded = [], False
    for count in counts:
        flooded = lifecycle.in_flood(count, was_in_flood=flooded, begins_above=10, ends_below=5)
        found.append(flooded)
    assert found == [False, False, True, True, True, True, False, False]


def test_the_load_of_an_operator_is_judged_as_the_standard_does() -> None:
    assert [load(rate) for rate in (0, 6, 6.1, 12, 12.1)] == [
        "acceptable",
        "acceptable",
        "manageable",
        "manageable",
        "overload",
    ]
    assert per_operator_hour(288, 86_400, 2) == 6
    assert shares({"low": 8, "high": 2}) == {"low": 0.8, "medium": 0, "high": 0.2, "critical": 0}
    assert set(shares({}).values()) == {0}


# --- rules ------------------------------------------------------------------------------------------------


def test_the_shipped_rules_read_as_they_are_written() -> None:
    rules = shipped_alert_rules()
    assert rules.handling("pump_wear", "low") == Handling("low")
    assert rules.handling("pump_wear", "info") is None
    assert rules.handling("gas_lock", "medium") == Handling("critical")
    assert rules.handling("insufficient_data", "high") is None
    assert rules.handling("cycling", "high") == Handling("high", off_delay_s=3600)
    assert rules.handling("limit_motor_temp_high", "low") == Handling("high")
    assert load_alert_rules(shipped_text()) == rules


def test_a_condition_is_suppressed_by_the_pumps_state_or_by_what_explains_it() -> None:
    rules = shipped_alert_rules()
    assert suppression(rules, "limit_motor_overload", "starting", []) == "state starting"
    assert suppression(rules, "limit_motor_overload", "running", []) is None
    assert suppression(rules, "limit_intake_pressure_low", "off", []) == "state off"
    because = suppression(rules, "limit_motor_temp_high", "running", ["gauge_failure", "scale"])
    assert because == "condition gauge_failure"


BAD_RULES = """
version: bad version
by_severity: {info: none, low: low, medium: urgent, high: high}
default: {on_delay_s: -1}
conditions:
  Gas Lock: {}
  scale: {delay: 3}
limits:
  - {name: a, channel: pressure, high: 1, title: x}
  - {name: b, channel: motor_temp_c, title: x}
  - {name: c, channel: motor_temp_c, high: .nan, title: x}
flood: {begins_above: 3, ends_below: 9}
rest_s: soon
"""


def test_every_problem_of_rules_is_told_with_its_place() -> None:
    with pytest.raises(AlertRulesInvalid) as refused:
        load_alert_rules(BAD_RULES)
    places = {".".join(problem["where"]) for problem in refused.value.fields or []}
    assert places >= {
        "version",
        "by_severity.medium",
        "default.on_delay_s",
        "conditions.Gas Lock.[key]",
        "conditions.scale.delay",
        "limits.0.channel",
        "limits.1",
        "limits.2.high",
        "flood",
        "rest_s",
    }


@pytest.mark.parametrize(
    "text", ["", "[]", "version: [", "a: &a [*a]", "x" * 300_000, "!!python/object:os.x {}", "\x00"]
)
def test_what_is_no_rules_is_refused(text: str) -> None:
    with pytest.raises(AlertRulesInvalid):
        load_alert_rules(text)


def test_a_bare_off_in_yaml_is_the_state_off() -> None:
    text = shipped_text().replace("'off'", "off")
    assert load_alert_rules(text) == shipped_alert_rules()


def test_limits_follow_the_nameplate_and_the_pumps_own_word() -> None:
    rules = shipped_alert_rules()
    found = limits_of(rules, "P-1", "north", {"motor_rated_current_a": 40}, {"motor_temp_high": 150})
    assert found["motor_overload"] == pytest.approx(46)
    assert found["motor_temp_high"] == 150
    bare = limits_of(rules, "P-1", "north", {}, {"intake_pressure_low": None})
    assert "motor_overload" not in bare
    assert "intake_pressure_low" not in bare


def test_limits_may_be_for_some_pumps_only() -> None:
    rules = shipped_alert_rules()
    first, second, *_ = rules.limits
    narrow = rules.model_copy(
        update={
            "limits": (
                first.model_copy(update={"pumps": frozenset({"P-2"})}),
                second.model_copy(update={"fields": frozenset({"south"}), "of": None}),
            )
        }
    )
    assert limits_of(narrow, "P-1", "north", {}, {}) == {}
    assert limits_of(narrow, "P-2", "south", {}, {}).keys() == {first.name, second.name}


# --- limits -----------------------------------------------------------------------------------------------

LIMIT_RULES = """
version: limits
by_severity: {info: none, low: low, medium: medium, high: high, critical: critical}
limits:
  - {name: hot, channel: motor_temp_c, high: 150, deadband: 3, on_delay_s: 20, off_delay_s: 30, title: Hot}
  - {name: dry, channel: intake_pressure_psi, low: 100, deadband: 10, title: Dry}
"""


def rows(*given: tuple[str, float, float | None, float | None]) -> Readings:
    """Readings of (pump, seconds, motor temperature, intake pressure)."""
    readings = empty_readings(len(given))
    for row, (pump_id, seconds, hot, pressure) in enumerate(given):
        readings.pump_id[row] = pump_id
        readings.time_us[row] = int(seconds * 1e6)
        for name, value in (("motor_temp_c", hot), ("intake_pressure_psi", pressure)):
            if value is not None:
                readings.values[row, COLUMN[name]] = value
    return readings


@pytest.fixture
def watch() -> LimitWatch:
    rules = load_alert_rules(LIMIT_RULES)
    return LimitWatch(rules.limits, {pump: limits_of(rules, pump, None, {}, {}) for pump in ("A", "B")})


def seen(watch: LimitWatch, *given: tuple[str, float, float | None, float | None]) -> list[tuple[Any, ...]]:
    return [
        (change.pump_id, change.limit.name, change.active, change.time_us / 1e6)
        for change in watch.observe(rows(*given))
    ]


def test_a_limit_is_passed_after_its_delay_and_respected_below_its_deadband(watch: LimitWatch) -> None:
    assert seen(watch, ("A", 0, 149, None), ("A", 10, 151, None), ("A", 20, 152, None)) == []
    assert seen(watch, ("A", 30, 152, None)) == [("A", "hot", True, 10)]
    assert seen(watch, ("A", 40, 148, None), ("A", 90, 147.5, None)) == []
    assert seen(watch, ("A", 100, 146, None), ("A", 120, 146, None)) == []
    assert seen(watch, ("A", 130, 146, None)) == [("A", "hot", False, 100)]


def test_a_short_excursion_is_no_alarm(watch: LimitWatch) -> None:
    given = [("A", 10.0 * i, 151 if i % 2 else 149, None) for i in range(20)]
    assert seen(watch, *given) == []


def test_low_limits_and_pumps_are_told_apart_in_one_batch_in_any_order(watch: LimitWatch) -> None:
    found = seen(watch, ("B", 20, None, 111), ("A", 10, None, 99), ("B", 10, None, 90), ("C", 1, 999, 0))
    assert found == [("A", "dry", True, 10), ("B", "dry", True, 10), ("B", "dry", False, 20)]
    assert watch.active("A") == ["limit_dry"]
    assert watch.active("B") == []


def test_a_missing_value_neither_passes_nor_respects_a_limit(watch: LimitWatch) -> None:
    assert seen(watch, ("A", 0, 151, None), ("A", 10, None, None)) == []
    assert seen(watch, ("A", 20, 151, None)) == [("A", "hot", True, 0)]
    assert seen(watch, ("A", 100, None, None)) == []


def test_a_value_marked_unfit_is_not_used(watch: LimitWatch) -> None:
    readings = rows(("A", 0, None, 0.0))
    unfit = np.ones(readings.values.shape, dtype=bool)
    assert watch.observe(readings, unfit) == []
    assert [change.active for change in watch.observe(rows(("A", 1, None, 0.0)))] == [True]


def test_late_readings_are_not_used(watch: LimitWatch) -> None:
    assert seen(watch, ("A", 100, None, 120)) == []
    assert seen(watch, ("A", 50, None, 20), ("A", 100, None, 20)) == []


def test_a_watch_goes_on_where_its_snapshot_ends(watch: LimitWatch) -> None:
    seen(watch, ("A", 0, None, 50), ("A", 10, 151, 50))
    rules = load_alert_rules(LIMIT_RULES)
    other = LimitWatch(rules.limits, {"A": {"hot": 150, "dry": 100}})
    other.restore(watch.snapshot(["A", "B"]))
    assert other.active("A") == ["limit_dry"]
    assert seen(other, ("A", 10, None, 500)) == []
    assert seen(other, ("A", 30, 151, 115)) == [("A", "hot", True, 10), ("A", "dry", False, 30)]


def test_a_limit_that_no_longer_holds_for_a_pump_is_no_longer_passed(watch: LimitWatch) -> None:
    seen(watch, ("A", 10, None, 50), ("B", 10, None, 50))
    gone = watch.replace(
        load_alert_rules(LIMIT_RULES).limits, {"A": {"hot": 150}, "B": {"hot": 150, "dry": 100}}
    )
    assert [(change.pump_id, change.limit.name, change.active) for change in gone] == [("A", "dry", False)]
    assert watch.active("B") == ["limit_dry"]
    assert seen(watch, ("B", 20, None, 111)) == [("B", "dry", False, 20)]


def test_a_passed_limit_signals_what_it_saw(watch: LimitWatch) -> None:
    rules = load_alert_rules(LIMIT_RULES)
    (change,) = watch.observe(rows(("A", 10, None, 50)))
    said = limit_signal(change, rules, "north", "running", [])
    assert (said.key, said.source, said.active) == (("A", "limit_dry", ""), "limit", True)
    assert said.time == datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC)
    assert said.title == "Dry (50 psi, below 100)"
