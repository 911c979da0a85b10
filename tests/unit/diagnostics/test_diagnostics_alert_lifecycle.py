"""Life cycle of alerts: signals, operator actions, time, notices, rules and limits."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNELS
from esp_common.contracts.readings import Readings, empty_readings
from esp_common.errors import Conflict, InvalidInput
from esp_diagnostics.alerts import comparison, lifecycle
from esp_diagnostics.alerts.limit_signals import limit_signal
from esp_diagnostics.alerts.model import Alert, AlertState, Handling, Notice, Signal, TransitionKind
from esp_diagnostics.alerts.rules import (
    AlertRulesInvalid,
    limits_of,
    load_alert_rules,
    shipped_alert_rules,
    shipped_text,
    suppression,
)
from esp_diagnostics.alerts.statistics import load, per_operator_hour, shares
from esp_diagnostics.detection.limits import LimitMonitor
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
    alert: Alert | None, new: Signal, handling: Handling = AT_ONCE, now: datetime | None = None
) -> Alert:
    found = lifecycle.signalled(alert, new, handling, alert_id=uuid4(), now=now or new.time)
    assert found is not None
    return found


@pytest.fixture
def active() -> Alert:
    return after(None, signal(True))


@pytest.fixture
def cleared(active: Alert) -> Alert:
    return after(active, signal(False, 100))


def test_a_new_condition_raises_an_unacknowledged_alert_and_notifies(active: Alert) -> None:
    assert active.state is AlertState.ACTIVE_UNACKNOWLEDGED
    assert (active.raised_at, active.occurrences) == (NOON, 1)
    assert comparison.changes(None, active) == [TransitionKind.RAISED]
    assert comparison.notice(None, active) is Notice.RAISED


def test_a_cleared_alert_stays_open_until_acknowledged(active: Alert, cleared: Alert) -> None:
    assert cleared.state is AlertState.CLEARED_UNACKNOWLEDGED
    assert cleared.cleared_at == at(100)
    assert comparison.changes(active, cleared) == [TransitionKind.CLEARED]
    assert comparison.notice(active, cleared) is Notice.CLEARED
    seen = lifecycle.acknowledge(cleared, "ann", at(200))
    assert seen.state is AlertState.NORMAL
    assert (seen.acknowledged_by, seen.acknowledged_at) == ("ann", at(200))


def test_a_recurring_condition_adds_an_unacknowledged_occurrence(cleared: Alert) -> None:
    seen = lifecycle.acknowledge(cleared, "ann", at(200))
    again = after(seen, signal(True, 300))
    assert again.alert_id == cleared.alert_id
    assert (again.occurrences, again.raised_at, again.last_raised_at) == (2, NOON, at(300))
    assert again.state is AlertState.ACTIVE_UNACKNOWLEDGED
    assert again.acknowledged_by == "ann"
    assert comparison.changes(seen, again) == [TransitionKind.RAISED]


@pytest.mark.parametrize("times", [(0,), (0, 50), (-10,)], ids=["the-same", "later", "older"])
def test_repeated_and_older_signals_change_nothing(times: tuple[int, ...], active: Alert) -> None:
    again = active
    for seconds in times:
        again = after(again, signal(True, seconds))
    assert again == active


def test_replayed_signals_change_nothing_after_clearing(cleared: Alert) -> None:
    assert after(after(cleared, signal(True, 0)), signal(False, 100)) == cleared


@pytest.mark.parametrize("new", [signal(True), signal(False, 100)], ids=["raised", "cleared"])
def test_replayed_signals_open_no_alert_after_closing(new: Signal, cleared: Alert) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    assert after(closed, new) == closed


def test_a_condition_that_recurs_after_closing_raises_a_new_alert(cleared: Alert) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    again = after(closed, signal(True, 300))
    assert again.alert_id != closed.alert_id
    assert again.occurrences == 1


def test_a_higher_priority_escalates_and_a_lower_one_does_not_notify(active: Alert) -> None:
    graver = after(active, signal(True, 10, severity="high"), Handling("high"))
    assert comparison.changes(active, graver) == [TransitionKind.CHANGED]
    assert comparison.notice(active, graver) is Notice.ESCALATED
    milder = after(graver, signal(True, 20))
    assert comparison.changes(graver, milder) == [TransitionKind.CHANGED]
    assert comparison.notice(graver, milder) is None


def test_a_clear_signal_without_an_alert_is_ignored() -> None:
    assert lifecycle.signalled(None, signal(False), AT_ONCE, alert_id=uuid4(), now=NOON) is None


def test_an_alert_is_pending_until_its_on_delay_is_over() -> None:
    waiting = after(None, signal(True), DELAYED)
    assert waiting.state is AlertState.PENDING
    assert comparison.changes(None, waiting) == []
    assert lifecycle.after_time(waiting, at(59), rest_s=NEVER_S) == waiting
    raised = lifecycle.after_time(waiting, at(60), rest_s=NEVER_S)
    assert (raised.state, raised.last_raised_at) == (AlertState.ACTIVE_UNACKNOWLEDGED, NOON)


def test_a_condition_that_clears_within_its_on_delay_raises_no_alert() -> None:
    waiting = after(None, signal(True), DELAYED)
    gone = lifecycle.signalled(waiting, signal(False, 30), DELAYED, alert_id=uuid4(), now=at(30))
    assert gone is None


def test_an_alert_clears_after_its_off_delay(active: Alert) -> None:
    going = after(active, signal(False, 100), DELAYED)
    assert going.active
    back = after(going, signal(True, 150), DELAYED)
    assert (back.active, back.due_at, back.occurrences) == (True, None, 1)
    gone = lifecycle.after_time(going, at(220), rest_s=NEVER_S)
    assert (gone.active, gone.cleared_at) == (False, at(100))


def test_a_delay_runs_from_the_first_signal() -> None:
    waiting = after(None, signal(True), DELAYED)
    waiting = after(waiting, signal(True, 40), DELAYED)
    assert waiting.due_at == at(60)
    assert after(waiting, signal(True, 60), DELAYED).active


def test_a_condition_older_than_its_delay_raises_the_alert_at_once() -> None:
    assert after(None, signal(True), DELAYED, now=at(3600)).active


def test_an_alert_notifies_when_its_suppression_ends() -> None:
    hidden = after(None, signal(True, suppressed_by="state starting"))
    assert hidden.state is AlertState.SUPPRESSED
    assert comparison.changes(None, hidden) == [TransitionKind.RAISED, TransitionKind.SUPPRESSED]
    assert comparison.notice(None, hidden) is None
    shown = after(hidden, signal(True, 60))
    assert comparison.changes(hidden, shown) == [TransitionKind.UNSUPPRESSED]
    assert comparison.notice(hidden, shown) is Notice.RAISED


def test_an_alert_that_clears_while_suppressed_needs_no_acknowledgement() -> None:
    hidden = after(None, signal(True, suppressed_by="state starting"))
    gone = after(hidden, signal(False, 60))
    assert gone.state is AlertState.NORMAL
    assert comparison.changes(hidden, gone) == [TransitionKind.CLEARED]
    assert comparison.notice(hidden, gone) is None


def test_shelving_ends_at_its_time(active: Alert) -> None:
    shelved = lifecycle.shelve(active, "ann", at(600), "gauge is changed", NOON, max_s=3600)
    assert (shelved.state, shelved.shelved_by) == (AlertState.SHELVED, "ann")
    assert comparison.changes(active, shelved) == [TransitionKind.SHELVED]
    assert lifecycle.after_time(shelved, at(599), rest_s=NEVER_S) == shelved
    back = lifecycle.after_time(shelved, at(600), rest_s=NEVER_S)
    assert back == active
    assert comparison.notice(shelved, back) is Notice.RAISED


def test_a_shelved_alert_sends_no_notices(active: Alert) -> None:
    shelved = lifecycle.shelve(active, "ann", at(600), "known", NOON, max_s=3600)
    gone = after(shelved, signal(False, 10))
    back = after(gone, signal(True, 20))
    assert (gone.state, back.state) == (AlertState.SHELVED, AlertState.SHELVED)
    assert comparison.notice(shelved, gone) is None
    assert comparison.notice(gone, back) is None


def test_unshelving_an_acknowledged_alert_does_not_notify(active: Alert) -> None:
    seen = lifecycle.acknowledge(active, "ann", NOON)
    shelved = lifecycle.shelve(seen, "ann", at(600), "known", NOON, max_s=3600)
    assert comparison.notice(shelved, lifecycle.unshelve(shelved)) is None


@pytest.mark.parametrize("seconds", [0, -1, 3601], ids=["now", "past", "too-long"])
def test_shelving_rejects_times_past_or_too_far_ahead(seconds: int, active: Alert) -> None:
    with pytest.raises(InvalidInput):
        lifecycle.shelve(active, "ann", at(seconds), "why", NOON, max_s=3600)


def test_out_of_service_ends_shelving_and_lasts_until_returned(active: Alert) -> None:
    shelved = lifecycle.shelve(active, "ann", at(600), "why", NOON, max_s=3600)
    idle = lifecycle.take_out_of_service(shelved, "bob", "workover")
    assert idle.state is AlertState.OUT_OF_SERVICE
    assert set(comparison.changes(shelved, idle)) == {TransitionKind.UNSHELVED, TransitionKind.OUT_OF_SERVICE}
    assert lifecycle.after_time(idle, at(1e9), rest_s=1) == idle
    back = lifecycle.return_to_service(idle)
    assert back == active
    with pytest.raises(Conflict):
        lifecycle.shelve(idle, "ann", at(600), "why", NOON, max_s=3600)


def test_a_normal_alert_closes_after_its_rest_time(cleared: Alert) -> None:
    seen = lifecycle.acknowledge(cleared, "ann", at(200))
    assert lifecycle.after_time(seen, at(299), rest_s=100) == seen
    closed = lifecycle.after_time(seen, at(300), rest_s=100)
    assert closed.state is AlertState.CLOSED
    assert closed.closed_by is None
    assert comparison.changes(seen, closed) == [TransitionKind.CLOSED]


def test_an_unacknowledged_alert_does_not_close_by_itself(cleared: Alert) -> None:
    assert lifecycle.after_time(cleared, at(1e8), rest_s=1) == cleared


def test_closing_a_cleared_alert_acknowledges_it(cleared: Alert) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    assert (closed.state, closed.acknowledged_by, closed.closed_by) == (AlertState.CLOSED, "ann", "ann")
    assert comparison.changes(cleared, closed) == [TransitionKind.ACKNOWLEDGED, TransitionKind.CLOSED]
    assert comparison.notice(cleared, closed) is None


def test_an_active_pump_alert_cannot_be_closed_but_a_platform_alert_can(active: Alert) -> None:
    with pytest.raises(Conflict):
        lifecycle.close(active, "ann", at(1))
    closed = lifecycle.close(replace(active, source="platform"), "ann", at(1))
    assert (closed.state, closed.active) == (AlertState.CLOSED, False)


ACTS = {
    "acknowledge": lambda alert: lifecycle.acknowledge(alert, "ann", at(300)),
    "unacknowledge": lifecycle.unacknowledge,
    "shelve": lambda alert: lifecycle.shelve(alert, "ann", at(600), "why", at(300), max_s=3600),
    "unshelve": lifecycle.unshelve,
    "out-of-service": lambda alert: lifecycle.take_out_of_service(alert, "ann", "why"),
    "in-service": lifecycle.return_to_service,
    "assign": lambda alert: lifecycle.assign(alert, "ann"),
    "close": lambda alert: lifecycle.close(alert, "ann", at(300)),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_closed_alert_rejects_every_action(act: str, cleared: Alert) -> None:
    closed = lifecycle.close(cleared, "ann", at(200))
    with pytest.raises(Conflict):
        ACTS[act](closed)


@pytest.mark.parametrize("act", ["unshelve", "in-service"])
def test_unshelving_and_returning_reject_alerts_that_are_not_hidden(act: str, active: Alert) -> None:
    with pytest.raises(Conflict):
        ACTS[act](active)


def test_the_first_acknowledgement_is_kept(active: Alert) -> None:
    first = lifecycle.acknowledge(active, "ann", at(1))
    assert lifecycle.acknowledge(first, "bob", at(2)) == first
    assert comparison.changes(first, lifecycle.unacknowledge(first)) == [TransitionKind.UNACKNOWLEDGED]


STEPS = st.lists(
    st.tuples(st.sampled_from(["on", "off", "tick", *ACTS]), st.integers(1, 500)), min_size=1, max_size=30
)


@given(STEPS)
def test_state_and_notices_are_consistent_under_any_sequence_of_steps(
    steps: list[tuple[str, int]],
) -> None:
    alert: Alert | None = None
    seconds = 0
    for what, pause in steps:
        seconds += pause
        before = alert
        try:
            alert = _step(alert, what, seconds)
        except (Conflict, InvalidInput):
            alert = before
        if alert is None:
            continue
        if before is not None and before.alert_id != alert.alert_id:
            before = None
        notice = comparison.notice(before, alert)
        assert (notice in (Notice.RAISED, Notice.ESCALATED)) <= alert.annunciated
        assert (alert != before) or not comparison.changes(before, alert)
        assert alert.annunciated == alert.state.startswith("active_")
        assert alert.cleared_at is None or alert.cleared_at >= alert.raised_at


def _step(alert: Alert | None, what: str, seconds: int) -> Alert | None:
    now = at(seconds)
    if what in ("on", "off"):
        new = signal(what == "on", seconds)
        return lifecycle.signalled(alert, new, DELAYED, alert_id=uuid4(), now=now)
    if alert is None:
        return None
    return lifecycle.after_time(alert, now, rest_s=900) if what == "tick" else ACTS[what](alert)


def test_a_flood_begins_above_ten_and_lasts_until_fewer_than_five() -> None:
    counts = [9, 10, 11, 9, 6, 5, 4, 6]
    found, flooded = [], False
    for count in counts:
        flooded = comparison.in_flood(count, was_in_flood=flooded, begins_above=10, ends_below=5)
        found.append(flooded)
    assert found == [False, False, True, True, True, True, False, False]


def test_operator_load_is_classified_after_isa_18_2() -> None:
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


def test_the_shipped_rules_parse_to_their_documented_handling() -> None:
    rules = shipped_alert_rules()
    assert rules.handling("pump_wear", "low") == Handling("low")
    assert rules.handling("pump_wear", "info") is None
    assert rules.handling("gas_lock", "medium") == Handling("critical")
    assert rules.handling("insufficient_data", "high") is None
    assert rules.handling("cycling", "high") == Handling("high", off_delay_s=3600)
    assert rules.handling("limit_motor_temp_high", "low") == Handling("high")
    assert load_alert_rules(shipped_text()) == rules


def test_suppression_by_pump_state_or_explaining_condition() -> None:
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


def test_validation_reports_every_problem_with_its_place() -> None:
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
def test_invalid_rule_files_are_rejected(text: str) -> None:
    with pytest.raises(AlertRulesInvalid):
        load_alert_rules(text)


def test_unquoted_yaml_off_is_the_pump_state_off() -> None:
    text = shipped_text().replace("'off'", "off")
    assert load_alert_rules(text) == shipped_alert_rules()


def test_limits_come_from_nameplate_and_pump_settings() -> None:
    rules = shipped_alert_rules()
    found = limits_of(rules, "P-1", "north", {"motor_rated_current_a": 40}, {"motor_temp_high": 150})
    assert found["motor_overload"] == pytest.approx(46)
    assert found["motor_temp_high"] == 150
    bare = limits_of(rules, "P-1", "north", {}, {"intake_pressure_low": None})
    assert "motor_overload" not in bare
    assert "intake_pressure_low" not in bare


def test_limits_apply_to_selected_pumps_and_fields() -> None:
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
def watch() -> LimitMonitor:
    rules = load_alert_rules(LIMIT_RULES)
    return LimitMonitor(rules.limits, {pump: limits_of(rules, pump, None, {}, {}) for pump in ("A", "B")})


def seen(watch: LimitMonitor, *given: tuple[str, float, float | None, float | None]) -> list[tuple[Any, ...]]:
    return [
        (change.pump_id, change.limit.name, change.active, change.time_us / 1e6)
        for change in watch.observe(rows(*given))
    ]


def test_a_limit_change_needs_delay_and_deadband(watch: LimitMonitor) -> None:
    assert seen(watch, ("A", 0, 149, None), ("A", 10, 151, None), ("A", 20, 152, None)) == []
    assert seen(watch, ("A", 30, 152, None)) == [("A", "hot", True, 10)]
    assert seen(watch, ("A", 40, 148, None), ("A", 90, 147.5, None)) == []
    assert seen(watch, ("A", 100, 146, None), ("A", 120, 146, None)) == []
    assert seen(watch, ("A", 130, 146, None)) == [("A", "hot", False, 100)]


def test_short_excursions_do_not_exceed_a_limit(watch: LimitMonitor) -> None:
    given = [("A", 10.0 * i, 151 if i % 2 else 149, None) for i in range(20)]
    assert seen(watch, *given) == []


def test_a_batch_may_mix_pumps_and_limits_in_any_order(watch: LimitMonitor) -> None:
    found = seen(watch, ("B", 20, None, 111), ("A", 10, None, 99), ("B", 10, None, 90), ("C", 1, 999, 0))
    assert found == [("A", "dry", True, 10), ("B", "dry", True, 10), ("B", "dry", False, 20)]
    assert watch.active("A") == ["limit_dry"]
    assert watch.active("B") == []


def test_a_missing_value_changes_no_limit(watch: LimitMonitor) -> None:
    assert seen(watch, ("A", 0, 151, None), ("A", 10, None, None)) == []
    assert seen(watch, ("A", 20, 151, None)) == [("A", "hot", True, 0)]
    assert seen(watch, ("A", 100, None, None)) == []


def test_unfit_values_are_ignored(watch: LimitMonitor) -> None:
    readings = rows(("A", 0, None, 0.0))
    unfit = np.ones(readings.values.shape, dtype=bool)
    assert watch.observe(readings, unfit) == []
    assert [change.active for change in watch.observe(rows(("A", 1, None, 0.0)))] == [True]


def test_late_readings_are_ignored(watch: LimitMonitor) -> None:
    assert seen(watch, ("A", 100, None, 120)) == []
    assert seen(watch, ("A", 50, None, 20), ("A", 100, None, 20)) == []


def test_limit_state_survives_snapshot_and_restore(watch: LimitMonitor) -> None:
    seen(watch, ("A", 0, None, 50), ("A", 10, 151, 50))
    rules = load_alert_rules(LIMIT_RULES)
    other = LimitMonitor(rules.limits, {"A": {"hot": 150, "dry": 100}})
    other.restore(watch.snapshot(["A", "B"]))
    assert other.active("A") == ["limit_dry"]
    assert seen(other, ("A", 10, None, 500)) == []
    assert seen(other, ("A", 30, 151, 115)) == [("A", "hot", True, 10), ("A", "dry", False, 30)]


def test_dropping_a_limit_of_a_pump_reports_its_end(watch: LimitMonitor) -> None:
    seen(watch, ("A", 10, None, 50), ("B", 10, None, 50))
    gone = watch.replace(
        load_alert_rules(LIMIT_RULES).limits, {"A": {"hot": 150}, "B": {"hot": 150, "dry": 100}}
    )
    assert [(change.pump_id, change.limit.name, change.active) for change in gone] == [("A", "dry", False)]
    assert watch.active("B") == ["limit_dry"]
    assert seen(watch, ("B", 20, None, 111)) == [("B", "dry", False, 20)]


def test_a_limit_change_becomes_a_signal_with_value_and_threshold(watch: LimitMonitor) -> None:
    rules = load_alert_rules(LIMIT_RULES)
    (change,) = watch.observe(rows(("A", 10, None, 50)))
    new = limit_signal(change, rules, "north", "running", [])
    assert (new.key, new.source, new.active) == (("A", "limit_dry", ""), "limit", True)
    assert new.time == datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC)
    assert new.title == "Dry (50 psi, below 100)"
