"""Decision tree on a synthetic pump: gauge faults, delays, hysteresis, missing data, evidence."""

from functools import cache

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_diagnostics.detection.tree import FEATURES, PumpSpec, TreeMonitor, default_rules
from pump_readings import STEADY, readings, watch

HOUR = 60
QUICK = {"baseline_h": 2.0}
GAUGE = ("intake_pressure_psi", "discharge_pressure_psi", "intake_temp_c", "motor_temp_c")


RULES = default_rules()
SPEC = PumpSpec("P-1", "north", motor_rated_current_a=50.0, overrides=QUICK)


@cache
def ten_hours():
    """Return what a monitor remembers of P-1 after ten healthy hours."""
    monitor = TreeMonitor([SPEC], RULES)
    watch(monitor, readings(range(10 * HOUR)))
    return monitor.snapshot(["P-1"])


def learnt():
    """Return a monitor that knows what is normal for P-1."""
    monitor = TreeMonitor([SPEC], RULES)
    assert monitor.restore(ten_hours()) == []
    return monitor


def lost_phase(minutes):
    return readings(minutes, current_a_a=0.0, current_b_a=70.0, current_c_a=70.0)


def test_a_healthy_pump_has_no_hypothesis():
    monitor = learnt()

    [assessment] = watch(monitor, readings(range(10 * HOUR, 11 * HOUR)))

    assert assessment.hypotheses == ()
    assert assessment.open == ()
    assert assessment.learning == 1.0


def test_without_a_baseline_data_are_insufficient():
    monitor = TreeMonitor([PumpSpec("P-1", "north", overrides=QUICK)], RULES)

    [assessment] = watch(monitor, readings(range(HOUR)))

    assert [h.condition for h in assessment.hypotheses] == ["insufficient_data"]
    assert assessment.raised == ()
    assert assessment.hypotheses[0].missing


def test_a_finding_is_raised_after_its_delay():
    monitor = learnt()

    hot = {"motor_temp_c": 150.0}
    [early] = watch(monitor, readings(range(600, 610), **hot))
    [due] = watch(monitor, readings(range(610, 640), **hot))

    assert early.raised == ()
    assert "lost_cooling" in [h.condition for h in early.hypotheses]
    assert due.raised == ("lost_cooling",)


def test_a_finding_clears_after_its_clear_delay():
    monitor = learnt()
    watch(monitor, lost_phase(range(600, 610)))

    [soon] = watch(monitor, readings(range(610, 620)))
    [later] = watch(monitor, readings(range(620, 720)))

    assert "open_phase" in soon.open
    assert later.cleared == ("open_phase",)
    assert later.open == ()


def test_a_finding_is_raised_once():
    monitor = learnt()

    raised = [watch(monitor, lost_phase([minute]))[0].raised for minute in range(600, 640)]

    assert sum("open_phase" in each for each in raised) == 1


def test_a_finding_persists_while_the_pump_is_off():
    monitor = learnt()
    watch(monitor, lost_phase(range(600, 610)))

    [assessment] = watch(monitor, readings(range(610, 800), running=0, frequency_hz=0.0))

    assert assessment.state == "off"
    assert "open_phase" in assessment.open
    assert assessment.cleared == ()


@pytest.mark.parametrize(
    "spoilt",
    [
        dict.fromkeys(GAUGE[:2], 94906.9),
        dict.fromkeys(GAUGE, 0.0),
        {"intake_temp_c": 0.0, "motor_temp_c": 0.0},
        {"intake_pressure_psi": -0.000002, "discharge_pressure_psi": -0.000002},
        dict.fromkeys((*GAUGE, "vibration_x_g", "vibration_y_g"), np.nan),
    ],
    ids=["over-range", "zero", "freezing-point", "minus-zero", "silent"],
)
def test_a_failed_gauge_raises_only_a_gauge_failure(spoilt):
    monitor = learnt()

    [assessment] = watch(monitor, readings(range(600, 660), **spoilt))

    assert assessment.open == ("gauge_failure",)
    assert assessment.gauge_fault
    assert assessment.path[0] == "gauge: unreliable"


def test_a_frozen_gauge_has_failed():
    monitor = learnt()
    frozen = readings(range(600, 660))
    for name in (*GAUGE, "vibration_x_g", "vibration_y_g"):
        frozen.values[:, CHANNEL_INDEX[name]] = STEADY[name]

    [assessment] = watch(monitor, frozen)

    assert assessment.open == ("gauge_failure",)


def test_a_single_error_code_is_ignored_without_gauge_failure():
    monitor = learnt()

    [assessment] = watch(monitor, readings(range(600, 601), intake_pressure_psi=94906.9))

    assert not assessment.gauge_fault
    assert assessment.channels["intake_pressure_psi"][0] < 1000
    assert assessment.open == ()


def test_values_masked_by_ingest_are_ignored():
    monitor = learnt()
    made = readings(range(600, 660), intake_pressure_psi=3.0)
    mask = np.full(len(made), 1 << CHANNEL_INDEX["intake_pressure_psi"], dtype=np.int32)

    [assessment] = monitor.observe(made, mask, np.zeros_like(mask))

    assert assessment.open == ("gauge_failure",)


def test_a_recovered_gauge_is_used_again():
    monitor = learnt()
    watch(monitor, readings(range(600, 630), **dict.fromkeys(GAUGE, 0.0)))

    [assessment] = watch(monitor, readings(range(630, 780)))

    assert not assessment.gauge_fault
    assert assessment.open == ()


def test_missing_signals_lower_the_confidence_and_are_listed():
    known, lacking = learnt(), learnt()
    slow = {"motor_temp_c": 150.0}

    [full] = watch(known, readings(range(600, 640), **slow))
    [part] = watch(lacking, readings(range(600, 640), discharge_pressure_psi=np.nan, **slow))

    sure, unsure = (each.hypotheses[0] for each in (full, part))
    assert sure.condition == unsure.condition == "lost_cooling"
    assert unsure.confidence < sure.confidence
    assert "pressure_gain" in {evidence.signal for evidence in unsure.missing}


def test_a_hypothesis_has_evidence_and_an_action():
    [assessment] = watch(learnt(), lost_phase(range(600, 620)))

    found = assessment.hypotheses[0]
    assert (found.condition, found.severity) == ("open_phase", "critical")
    assert "Stop" in found.action
    phase = next(evidence for evidence in found.evidence_for if evidence.signal == "lowest_phase")
    assert (phase.value, phase.unit, phase.threshold) == (0.0, "%", 60.0)
    assert any(step.startswith("electrical: open_phase") for step in assessment.path)


def test_an_override_applies_to_its_pump_only():
    patient = PumpSpec("P-2", "north", overrides={**QUICK, "delay_min": 120.0})
    monitor = TreeMonitor([SPEC, patient], RULES)
    known = ten_hours()["P-1"]
    monitor.restore({"P-1": known, "P-2": known})
    for pump in ("P-1", "P-2"):
        watch(monitor, readings(range(600, 640), pump=pump, motor_temp_c=150.0))

    assert monitor.open_findings("P-1") == ("lost_cooling",)
    assert monitor.open_findings("P-2") == ()


def test_a_finding_clears_once_a_new_frequency_is_learnt():
    monitor = learnt()
    watch(monitor, readings(range(600, 640), motor_temp_c=150.0))
    assert monitor.open_findings("P-1") == ("lost_cooling",)

    watch(monitor, readings(range(640, 700), motor_temp_c=130.0, frequency_hz=44.0))
    kept = monitor.open_findings("P-1")
    watch(monitor, readings(range(700, 1300), motor_temp_c=130.0, frequency_hz=44.0))

    assert kept == ("lost_cooling",)
    assert monitor.open_findings("P-1") == ()


def test_changed_rules_keep_baselines_and_findings():
    monitor = learnt()
    watch(monitor, lost_phase(range(600, 610)))
    rules = default_rules()

    monitor.replace([PumpSpec("P-1", "north", overrides=QUICK)], rules)
    [assessment] = watch(monitor, lost_phase(range(610, 615)))

    assert assessment.learning == 1.0
    assert "open_phase" in assessment.open
    assert assessment.raised == ()


def test_an_anomaly_alarm_is_a_hypothesis():
    class Alarmed:
        alarmed, score, threshold = True, 9.0, 3.0

    monitor = learnt()
    made = readings(range(600, 610))
    none = np.zeros(len(made), dtype=np.int32)

    [assessment] = monitor.observe(made, none, none, {"P-1": Alarmed()})

    assert assessment.raised == ("anomaly",)


def test_unbalance_does_not_depend_on_the_reporting_interval():
    every = readings(np.arange(0, 4 * HOUR, 1 / 6), current_a_a=40.0)
    random = np.random.default_rng(3)
    phases = [CHANNEL_INDEX[f"current_{phase}_a"] for phase in "abc"]
    every.values[:, phases] = 40.0 + random.standard_normal((len(every), 3))
    minutes = every.take(np.arange(0, len(every), 6))
    minutes.values[:, phases] = every.values[:, phases].reshape(-1, 6, 3).mean(axis=1)
    seen = []
    for made in (every, minutes):
        monitor = TreeMonitor([SPEC], RULES)
        watch(monitor, made)
        rows = monitor.features()
        seen.append(float(rows.matrix[len(rows.matrix) // 2 :, FEATURES.index("unbalance")].mean()))

    assert seen[0] == pytest.approx(seen[1], rel=0.15)


def test_a_rejected_channel_is_missing_at_once():
    """Its last value stood for minutes more: a report by exception looks the same but for the mask."""
    monitor = TreeMonitor([PumpSpec("P-1", "north")], default_rules())
    watch(monitor, readings(range(30)))
    made = readings([30], intake_pressure_psi=np.nan)
    none = np.zeros(1, dtype=np.int32)
    refused = np.full(1, 1 << CHANNEL_INDEX["intake_pressure_psi"], dtype=np.int32)

    [silent] = monitor.observe(made, none, none)
    [after] = monitor.observe(made, none, none, refused_mask=refused)

    assert "intake_pressure_psi" in silent.channels
    assert "intake_pressure_psi" not in after.channels
    lacking = {h.condition: h.missing for h in after.hypotheses}["insufficient_data"]
    assert "intake_pressure" in {evidence.signal for evidence in lacking}
