"""State machine of pumps, and state of the tree monitor."""

import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.readings import RUNNING_ABSENT, empty_readings
from esp_diagnostics.detection.tree import PumpSpec, TreeMonitor, default_rules
from pump_readings import STEADY, readings, watch


def stopped(minutes, **more):
    quiet = {name: 0.0 for name in STEADY if name.startswith(("frequency", "motor_current", "current_"))}
    return readings(minutes, running=0, **quiet, **more)


@pytest.fixture
def monitor():
    return TreeMonitor([PumpSpec("P-1", "north", motor_rated_current_a=50.0)], default_rules())


def states(assessments):
    return [transition.state for each in assessments for transition in each.transitions]


def test_a_start_is_masked_before_running(monitor):
    seen = states(watch(monitor, stopped(range(5))))
    seen += states(watch(monitor, readings(range(5, 60))))

    assert seen == ["off", "starting", "running"]


def test_a_pump_first_seen_running_counts_no_start(monitor):
    [assessment] = watch(monitor, readings(range(5)))

    assert [t.state for t in assessment.transitions] == ["running"]
    assert assessment.features["starts_today"] == 0


def test_a_new_frequency_is_a_change_and_noise_is_not(monitor):
    watch(monitor, readings(range(30)))

    [steady] = watch(monitor, readings(range(30, 60), frequency_hz=50.3))
    [changed] = watch(monitor, readings(range(60, 70), frequency_hz=53.0))
    [settled] = watch(monitor, readings(range(70, 100), frequency_hz=53.0))

    assert (steady.state, changed.state, settled.state) == ("running", "changing", "running")


def test_a_new_choke_is_a_change(monitor):
    watch(monitor, readings(range(30)))

    [changed] = watch(monitor, readings(range(30, 40), choke_pct=40.0))

    assert changed.state == "changing"


def test_a_drive_without_running_flag_runs_by_frequency(monitor):
    [turning] = watch(monitor, readings(range(5), running=RUNNING_ABSENT))
    [still] = watch(monitor, readings(range(5, 10), running=RUNNING_ABSENT, frequency_hz=0.0))

    assert (turning.state, still.state) == ("running", "off")


def test_without_drive_data_the_state_becomes_unknown(monitor):
    watch(monitor, readings(range(10)))
    silent = {name: np.nan for name in STEADY if not name.endswith(("psi", "_c", "_g"))}

    [assessment] = watch(monitor, readings(range(10, 60), running=RUNNING_ABSENT, **silent))

    assert assessment.state == "unknown"


def test_a_first_reading_without_drive_data_starts_the_unknown_state(monitor):
    silent = {name: np.nan for name in STEADY if not name.endswith(("psi", "_c", "_g"))}
    first = readings([0], running=RUNNING_ABSENT, **silent)

    [assessment] = watch(monitor, first)
    [later] = watch(monitor, readings(range(1, 5), running=RUNNING_ABSENT, **silent))

    assert (assessment.state, later.state) == ("unknown", "unknown")
    assert assessment.state_since_us == later.state_since_us == first.time_us[0]


def test_a_stop_carries_the_trip_code(monitor):
    watch(monitor, readings(range(10)))

    [assessment] = watch(monitor, stopped(range(10, 12), trip=2))

    assert [(t.state, t.trip_code) for t in assessment.transitions] == [("off", 2)]


def test_starts_of_the_last_day_are_counted(monitor):
    for begin in range(0, 240, 60):
        watch(monitor, stopped(range(begin, begin + 30)))
        [assessment] = watch(monitor, readings(range(begin + 30, begin + 60)))

    assert assessment.features["starts_today"] == 4
    assert "cycling" in assessment.open


def test_late_readings_are_counted_and_ignored(monitor):
    watch(monitor, readings(range(10, 20)))
    before = monitor.snapshot(["P-1"])

    assert watch(monitor, stopped(range(5))) == []
    assert monitor.late == 5
    assert monitor.snapshot(["P-1"]) == before


def test_gauge_and_drive_readings_of_one_time_are_merged(monitor):
    gauge, drive = readings(range(10)), readings(range(10))
    for made, absent in (
        (gauge, ("motor", "frequency", "current", "active")),
        (drive, ("intake", "dis", "vib")),
    ):
        for name in STEADY:
            if name.startswith(absent) and name != "motor_temp_c":
                made.values[:, CHANNEL_INDEX[name]] = np.nan
    watch(monitor, gauge)

    [assessment] = watch(monitor, drive.take(np.arange(9, 10)))

    assert set(assessment.channels) == set(STEADY)


def test_readings_may_come_in_any_order():
    specs = [PumpSpec(name, "north") for name in ("P-1", "P-2")]
    ordered, mixed = TreeMonitor(specs, default_rules()), TreeMonitor(specs, default_rules())
    parts = [readings(range(30), pump="P-1"), readings(range(30), pump="P-2", frequency_hz=45.0)]
    both = empty_readings(60)
    for made, rows in zip(parts, (slice(0, 30), slice(30, 60)), strict=True):
        for name in ("pump_id", "time_us", "values", "running", "trip_code"):
            getattr(both, name)[rows] = getattr(made, name)
    shuffled = both.take(np.random.default_rng(1).permutation(60))

    for part in parts:
        watch(ordered, part)
    watch(mixed, shuffled)

    assert mixed.snapshot(["P-1", "P-2"]) == ordered.snapshot(["P-1", "P-2"])


def test_unknown_pumps_are_counted_and_ignored(monitor):
    assert watch(monitor, readings(range(3), pump="P-9")) == []
    assert monitor.unknown == 3


def test_a_restored_monitor_continues_unchanged(monitor):
    watch(monitor, stopped(range(5)))
    watch(monitor, readings(range(5, 20)))
    other = TreeMonitor([PumpSpec("P-1", "north", motor_rated_current_a=50.0)], default_rules())

    assert other.restore(monitor.snapshot(["P-1"])) == []

    following = readings(range(20, 60))
    assert watch(other, following) == watch(monitor, following)


@pytest.mark.parametrize("spoilt", [b"", b"{}\nnonsense", b"ESPDX1\n{}\n", None], ids=str)
def test_a_snapshot_of_another_layout_is_ignored_and_reported(monitor, spoilt):
    packed = spoilt if spoilt is not None else monitor.snapshot(["P-1"])["P-1"][:-1]
    before = monitor.snapshot(["P-1"])

    assert monitor.restore({"P-1": packed, "P-9": b""}) == ["P-1"]
    assert monitor.snapshot(["P-1"]) == before


def test_new_nameplates_keep_the_state_of_remaining_pumps(monitor):
    watch(monitor, readings(range(10)))
    before = monitor.snapshot(["P-1"])

    monitor.replace([PumpSpec("P-0", "north"), PumpSpec("P-1", "north", motor_rated_kw=80.0)])

    assert monitor.snapshot(["P-1"]) == before
    assert set(monitor.snapshot(["P-0", "P-1", "P-2"])) == {"P-0", "P-1"}


def test_each_reading_has_a_feature_row(monitor):
    watch(monitor, stopped(range(3)))
    made = readings(range(3, 300))

    watch(monitor, made)
    rows = monitor.features()

    assert rows.times_us.tolist() == made.time_us.tolist()
    assert rows.matrix.shape == (297, 21)
    assert not rows.steady[:120].any()
    assert rows.steady[-100:].all()
    assert len(set(rows.regime[-100:].tolist())) == 1
