"""The tree on a pump that is made up: gauge first, delays and hysteresis, what is missing, and why."""

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


def test_until_the_baseline_is_learnt_the_answer_is_insufficient_data():
    monitor = TreeMonitor([PumpSpec("P-1", "north", overrides=QUICK)], RULES)

    [assessment] = watch(monitor, readings(range(HOUR)))

    assert [h.condition for h in assessment.hypotheses] == ["insufficient_data"]
    assert assessment.raised == ()
    assert assessment.hypotheses[0].missing


def test_a_finding_waits_for_its_delay():
    monitor = learnt()

    hot = {"motor_temp_c": 150.0}
    [early] = watch(monitor, readings(range(600, 610), **hot))
    [due] = watch(monitor, readings(range(610, 640), **hot))

    assert early.raised == ()
    assert "lost_cooling" in [h.condition for h in early.hypotheses]
    assert due.raised == ("lost_cooling",)


def test_a_finding_ends_after_it_has_been_gone_for_a_while():
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


def test_a_finding_stays_while_the_pump_is_off():
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
def test_a_failed_gauge_is_the_gauge_s_fault_and_no_well_s(spoilt):
    monitor = learnt()

    [assessment] = watch(monitor, readings(range(600, 660), **spoilt))

    assert assessment.open == ("gauge_failure",)
    assert assessment.gauge_fault
    assert assessment.path[0] == "gauge: not to be believed"


def test_a_gauge_that_repeats_itself_to_the_digit_has_failed():
    monitor = learnt()
    frozen = readings(range(600, 660))
    for name in (*GAUGE, "vibration_x_g", "vibration_y_g"):
        frozen.values[:, CHANNEL_INDEX[name]] = STEADY[name]

    [assessment] = watch(monitor, frozen)

    assert assessment.open == ("gauge_failure",)


def test_one_code_alone_is_not_believed_and_makes_no_bad_gauge():
    monitor = learnt()

    [assessment] = watch(monitor, readings(range(600, 601), intake_pressure_psi=94906.9))

    assert not assessment.gauge_fault
    assert assessment.channels["intake_pressure_psi"][0] < 1000
    assert assessment.open == ()


def test_what_ingest_masked_is_not_believed():
    monitor = learnt()
    made = readings(range(600, 660), intake_pressure_psi=3.0)
    mask = np.full(len(made), 1 << CHANNEL_INDEX["intake_pressure_psi"], dtype=np.int32)

    [assessment] = monitor.observe(made, mask, np.zeros_like(mask))

    assert assessment.open == ("gauge_failure",)


def test_a_good_gauge_is_believed_again():
    monitor = learnt()
    watch(monitor, readings(range(600, 630), **dict.fromkeys(GAUGE, 0.0)))

    [assessment] = watch(monitor, readings(range(630, 780)))

    assert not assessment.gauge_fault
    assert assessment.open == ()


def test_what_is_missing_lowers_the_confidence_and_is_named():
    known, lacking = learnt(), learnt()
    slow = {"motor_temp_c": 150.0}

    [full] = watch(known, readings(range(600, 640), **slow))
    [part] = watch(lacking, readings(range(600, 640), discharge_pressure_psi=np.nan, **slow))

    sure, unsure = (each.hypotheses[0] for each in (full, part))
    assert sure.condition == unsure.condition == "lost_cooling"
    assert unsure.confidence < sure.confidence
    assert "pressure_gain" in {evidence.signal for evidence in unsure.missing}


def test_a_hypothesis_says_what_speaks_for_it_and_what_to_do():
    [assessment] = watch(learnt(), lost_phase(range(600, 620)))

    found = assessment.hypotheses[0]
    assert (found.condition, found.severity) == ("open_phase", "critical")
    assert "Stop" in found.action
    phase = next(evidence for evidence in found.evidence_for if evidence.signal == "lowest_phase")
    assert (phase.value, phase.unit, phase.threshold) == (0.0, "%", 60.0)
    assert any(step.startswith("electrical: open_phase") for step in assessment.path)


def test_a_pump_s_own_threshold_counts_for_it_alone():
    patient = PumpSpec("P-2", "north", overrides={**QUICK, "delay_min": 120.0})
    monitor = TreeMonitor([SPEC, patient], RULES)
    known = ten_hours()["P-1"]
    monitor.restore({"P-1": known, "P-2": known})
    for pump in ("P-1", "P-2"):
        watch(monitor, readings(range(600, 640), pump=pump, motor_temp_c=150.0))

    assert monitor.open_findings("P-1") == ("lost_cooling",)
    assert monitor.open_findings("P-2") == ()


def test_a_finding_ends_where_a_new_frequency_has_become_normal():
    monitor = learnt()
    watch(monitor, readings(range(600, 640), motor_temp_c=150.0))
    assert monitor.open_findings("P-1") == ("lost_cooling",)

    watch(monitor, readings(range(640, 700), motor_temp_c=130.0, frequency_hz=44.0))
    kept = monitor.open_findings("P-1")
    watch(monitor, readings(range(700, 1300), motor_temp_c=130.0, frequency_hz=44.0))

    assert kept == ("lost_cooling",)
    assert monitor.open_findings("P-1") == ()


def test_changed_rules_keep_what_was_learnt_and_found():
    monitor = learnt()
    watch(monitor, lost_phase(range(600, 610)))
    rules = default_rules()

    monitor.replace([PumpSpec("P-1", "north", overrides=QUICK)], rules)
    [assessment] = watch(monitor, lost_phase(range(610, 615)))

    assert assessment.learning == 1.0
    assert "open_phase" in assessment.open
    assert assessment.raised == ()


def test_an_alarmed_detector_is_a_hypothesis_of_its_own():
    class Alarmed:
        alarmed, score, threshold = True, 9.0, 3.0

    monitor = learnt()
    made = readings(range(600, 610))
    none = np.zeros(len(made), dtype=np.int32)

    [assessment] = monitor.observe(made, none, none, {"P-1": Alarmed()})

    assert assessment.raised == ("anomaly",)


def test_unbalance_is_the_same_however_often_noisy_phases_are_reported():
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


def test_a_refused_channel_is_missing_at_once_and_never_normal():
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
