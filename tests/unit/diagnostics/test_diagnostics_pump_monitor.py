"""A backlog yields the same findings and states as live readings."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.readings import Readings, empty_readings
from esp_diagnostics.alerts.rules import shipped_alert_rules
from esp_diagnostics.detection.tree import default_rules
from esp_diagnostics.monitoring.catch_up import chunks_of
from esp_diagnostics.monitoring.effects import Effects, FoundSpan
from esp_diagnostics.monitoring.pump_monitor import OpenFinding, Past, PumpMonitor, Rulebook
from esp_diagnostics.monitoring.store.replay import Batch
from esp_diagnostics.pumps.store import KnownPump
from pump_readings import BEGIN_US, readings

RULEBOOK = Rulebook(default_rules(), shipped_alert_rules())
PLATE = (
    *("model", "stages", "curve", "motor_rated_kw", "motor_rated_current_a", "motor_rated_voltage_v"),
    *("motor_rated_frequency_hz", "setting_depth_ft", "expected_interval_s"),
)
SILENT = range(40, 60)


def pump(pump_id: str, **nameplate: Any) -> KnownPump:
    return KnownPump(
        pump_id=pump_id,
        field_id="north",
        well_id=f"W-{pump_id}",
        nameplate={**dict.fromkeys(PLATE), "expected_interval_s": 30.0, **nameplate},
        extras={},
        curve=None,
        head_factor=None,
        flow_factor=None,
        calibrated_at=None,
        in_service=True,
        overrides={},
    )


PUMPS = {
    "P-1": pump("P-1", motor_rated_current_a=50.0),
    "P-2": pump("P-2"),
    "P-3": pump("P-3", motor_rated_current_a=50.0),
}


def judge(pasts: Mapping[str, Past] | None = None) -> PumpMonitor:
    made = PumpMonitor(RULEBOOK)
    made.admit(PUMPS, {pump_id: Past() for pump_id in PUMPS} | dict(pasts or {}))
    return made


def batch(of: Readings) -> Batch:
    return Batch(of, *(np.zeros(len(of), dtype=np.int32) for _ in range(3)))


def history() -> Batch:
    """Return two hours: a pump with an open phase for a while, a healthy one, one that gets hot and trips."""
    minutes = np.arange(0, 120, 0.5)
    ill, well, hot = (readings(minutes, pump=pump_id) for pump_id in PUMPS)
    ill.values[(minutes >= 20) & (minutes < 30), CHANNEL_INDEX["current_a_a"]] = 2.0
    hot.values[(minutes >= 50) & (minutes < 70), CHANNEL_INDEX["motor_temp_c"]] = 190.0
    hot.running[minutes >= 60] = 0
    hot.trip_code[minutes >= 60] = 2
    hot.running[minutes >= 80] = 1
    well = well.take(~np.isin(minutes, SILENT))
    parts = (ill, well, hot)
    joined = empty_readings(sum(map(len, parts)))
    for name in ("pump_id", "time_us", "values", "running", "trip_code"):
        getattr(joined, name)[:] = np.concatenate([getattr(part, name) for part in parts])
    return batch(joined.take(np.argsort(joined.time_us, kind="stable")))


def joined(effects: list[Effects]) -> Effects:
    return Effects(
        **{
            name: [each for one in effects for each in getattr(one, name)]
            for name in ("raised", "changed", "cleared", "spells", "statuses", "signals")
        }
    )


def judged_live(of: PumpMonitor, history: Batch) -> Effects:
    """Judge chunk by chunk as if each had come just now."""
    return joined([of.judge(chunk.batch, 10.0 * n) for n, chunk in enumerate(chunks_of(history))])


def judged_later(of: PumpMonitor, history: Batch) -> Effects:
    """Judge chunk by chunk as a backlog."""
    return joined(
        [
            of.judge(chunk.batch, 10.0 * n, replaying=True, shown=chunk.ending)
            for n, chunk in enumerate(chunks_of(history))
        ]
    )


def without_ids(effects: Effects) -> dict[str, list[Any]]:
    """Return what goes on record, findings named by pump and condition instead of their random ids."""
    names = {found.finding_id: (found.pump_id, found.condition) for found in effects.raised}
    return {
        "raised": [found[1:] for found in effects.raised],
        "changed": [(names[change.finding_id], *change[1:]) for change in effects.changed],
        "cleared": [(names[over.finding_id], over.cleared_at) for over in effects.cleared],
        "spells": effects.spells,
        "signals": [
            (each.pump_id, each.condition, each.active, each.severity, each.time, each.suppressed_by)
            for each in effects.signals
        ],
    }


def at(minute: float) -> datetime:
    return datetime.fromtimestamp(BEGIN_US / 1e6, UTC) + timedelta(minutes=minute)


def test_a_backlog_yields_the_results_of_live_readings():
    live, later = judge(), judge()
    expected, found = judged_live(live, history()), judged_later(later, history())

    assert without_ids(found) == without_ids(expected)
    assert later.snapshots(list(PUMPS)) == live.snapshots(list(PUMPS))
    assert [(raised.pump_id, raised.condition, raised.onset) for raised in found.raised] == [
        ("P-1", "open_phase", at(20)),
    ]
    assert [over.cleared_at for over in found.cleared] == [at(60.5)]
    assert {signal.condition for signal in found.signals} >= {"open_phase", "limit_motor_temp_high"}
    assert [(spell.pump_id, spell.state) for spell in found.spells if spell.pump_id == "P-3"] == [
        ("P-3", state) for state in ("running", "off", "starting", "running")
    ]


def test_a_backlog_ends_with_the_status_of_its_last_reading():
    expected, found = (
        {status.pump_id: status for status in effects.statuses}
        for effects in (judged_live(judge(), history()), judged_later(judge(), history()))
    )

    assert found == expected
    assert {status.time for status in found.values()} == {at(119.5)}


def test_single_readings_yield_the_same_state():
    one_by_one, later = judge(), judge()
    some = history().take(np.arange(200))
    for number in range(len(some)):
        one_by_one.judge(some.take(np.array([number])), float(number))
    judged_later(later, some)

    assert later.snapshots(list(PUMPS)) == one_by_one.snapshots(list(PUMPS))


def test_a_pump_without_findings_writes_one_status_per_backlog():
    statuses = judged_later(judge(), history()).statuses

    # The first reading begins a spell, which is a change; what follows is not, up to the last.
    assert [status.time for status in statuses if status.pump_id == "P-2"] == [at(0.5), at(119.5)]


def test_live_judge_leaves_a_finding_of_the_backlog_to_the_judge_of_the_backlog():
    """After a restart, with the backlog judged up to a finding that its later readings end."""
    live, later = judge(), judge()
    live.judge(batch(readings([115], pump="P-1")), 0.0)
    later_part = history().take(slice(0, 3 * 50))
    [raised] = judged_later(later, later_part).raised
    finding = OpenFinding(
        "open_phase", raised.finding_id, *["critical"] * 2, 1.0, raised.onset, raised.raised_at
    )
    (body, through_us) = live.snapshots(["P-1"])["P-1"]
    past = {"P-1": Past(findings=[finding], snapshot=body, through_us=through_us)}
    healthy = batch(readings([116], pump="P-1"))

    beside, alone = PumpMonitor(RULEBOOK), PumpMonitor(RULEBOOK)
    beside.admit({"P-1": PUMPS["P-1"]}, past, behind=["P-1", "P-9"])
    alone.admit({"P-1": PUMPS["P-1"]}, past)

    assert beside.judge(healthy, 1.0).cleared == []
    assert [over.finding_id for over in alone.judge(healthy, 1.0).cleared] == [raised.finding_id]


def test_live_judge_clears_its_own_finding_beside_a_backlog():
    live, minutes = judge(), np.arange(0, 5, 0.5)
    ill = batch(readings(minutes, pump="P-1", current_a_a=2.0))
    [raised] = live.judge(ill, 0.0).raised
    finding = OpenFinding(
        "open_phase", raised.finding_id, *["critical"] * 2, 1.0, raised.onset, raised.raised_at
    )
    (body, through_us) = live.snapshots(["P-1"])["P-1"]
    beside = PumpMonitor(RULEBOOK)
    beside.admit(
        {"P-1": PUMPS["P-1"]}, {"P-1": Past([finding], None, None, body, through_us)}, behind=["P-1"]
    )

    effects = beside.judge(batch(readings(np.arange(5, 40, 0.5), pump="P-1")), 1.0)

    assert [over.finding_id for over in effects.cleared] == [raised.finding_id]


def test_a_backlog_does_not_repeat_live_findings():
    onset_us = BEGIN_US + 20 * 60_000_000
    over = FoundSpan("open_phase", onset_us, onset_us + 3_600_000_000)
    past = {"P-1": Past(later=[over])}

    assert judged_later(judge(past), history()).raised == []
    earlier = {"P-1": Past(later=[over._replace(until_us=onset_us)])}
    assert [found.onset for found in judged_later(judge(earlier), history()).raised] == [at(20)]
    other = {"P-1": Past(later=[over._replace(condition="overload", until_us=None)])}
    assert [found.onset for found in judged_later(judge(other), history()).raised] == [at(20)]
