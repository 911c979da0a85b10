"""Operating point, prediction and calibration of one well."""

import json
from dataclasses import replace

import numpy as np
import pytest
from esp_diagnostics.physics.calibration import Adjusted, UnusableWellTest, calibrate
from esp_diagnostics.physics.curve_files import parse_csv, parse_json, to_document
from esp_diagnostics.physics.curves import an550
from esp_diagnostics.physics.pumps import Installed
from esp_diagnostics.physics.well import (
    Fluid,
    Present,
    Well,
    curves_of,
    fluid_of,
    point_of,
    shown_frequencies_hz,
)
from esp_diagnostics.physics.what_if import InsufficientData, Setting, WhatIfResult, what_if
from hypothesis import given
from hypothesis import strategies as st

FLUID = Fluid(gravity=0.92, pump_volume=1.0, gas_void_fraction=float("nan"), assumptions=())
FACTS = {
    "productivity_index_bpd_psi": 0.8,
    "flowline_pressure_psi": 100.0,
    "tubing_bore_in": 2.441,
    "min_intake_pressure_psi": 300.0,
    "max_frequency_hz": 62.0,
}
WELL = Well(Installed(an550(), stages=250), FACTS, 40.0, 60.0, 6000.0)
# The published duty: 250 stages at 55 Hz and 480 bpd of gravity 0.92 make 1314 psi and take 23.0 hp.
PRESENT = Present(
    frequency_hz=55.0,
    intake_pressure_psi=500.0,
    discharge_pressure_psi=1814.2,
    flow_rate_bpd=480.0,
    wellhead_pressure_psi=200.0,
    choke_pct=50.0,
    active_power_kw=21.0,
)

TABLE = """# model: Example 70
# rated_frequency_hz: 50
# min_rate: 50
# max_rate: 95
rate [m3/d],head [m],power [kW]
0,5.1,
40,4.9,0.052
70,4.3,0.060
100,3.2,0.065
130,1.6,0.066
"""


def asked(frequency_hz: float = 55.0, choke_pct: float = 50.0, well: Well = WELL) -> WhatIfResult:
    return what_if(well, PRESENT, FLUID, point_of(well, PRESENT, FLUID), Setting(frequency_hz, choke_pct))


def test_operating_point_of_the_published_duty() -> None:
    point = point_of(WELL, PRESENT, FLUID)
    assert (point.source, point.thrust) == ("measured", "balanced")
    assert point.virtual_rate_bpd == pytest.approx(480, abs=1)
    assert point.brake_hp == pytest.approx(23.0, abs=0.05)
    assert point.virtual_sigma_bpd == pytest.approx(480 * 0.03 * 1.3, rel=0.3)
    assert point.motor_load == pytest.approx(23.0 * 0.7457 / (40 * 55 / 60), rel=0.01)


def test_the_virtual_rate_replaces_a_missing_measured_rate() -> None:
    point = point_of(WELL, replace(PRESENT, flow_rate_bpd=float("nan")), FLUID)
    assert (point.source, point.rate_bpd) == ("virtual", point.virtual_rate_bpd)
    blind = replace(PRESENT, flow_rate_bpd=float("nan"), intake_pressure_psi=float("nan"))
    nowhere = point_of(WELL, blind, FLUID)
    assert (nowhere.source, nowhere.reason, nowhere.thrust) == ("none", "missing", "unknown")


def test_the_curve_at_each_frequency_follows_affinity() -> None:
    at_30, at_60 = curves_of(WELL, [30.0, 60.0], FLUID)
    np.testing.assert_allclose(at_60.rate_bpd, 2 * at_30.rate_bpd)
    np.testing.assert_allclose(at_60.head_ft, 4 * at_30.head_ft)
    np.testing.assert_allclose(at_60.brake_hp, 8 * at_30.brake_hp)
    assert (at_60.min_bpd, at_60.max_bpd) == (400, 700)
    assert not np.isnan(at_60.head_ft).any()
    assert at_60.head_ft[0] > at_60.min_head_ft > at_60.max_head_ft > 0


@pytest.mark.parametrize(
    ("present", "first", "last"), [(47.3, 35, 70), (float("nan"), 35, 70), (120.0, 72, 144)], ids=str
)
def test_curves_are_shown_around_the_present_frequency(present: float, first: float, last: float) -> None:
    shown = shown_frequencies_hz(present, 60.0)
    assert (shown[0], shown[-1]) == (first, last)
    assert np.isnan(present) or present in shown


def test_the_fluid_lists_its_assumptions() -> None:
    bare = fluid_of(replace(WELL, facts={}), PRESENT)
    assert (bare.gravity, len(bare.assumptions)) == (0.92, 2)
    wet = fluid_of(
        replace(WELL, facts={"oil_api": 30.0, "water_cut_pct": 100.0}), replace(PRESENT, intake_temp_c=60.0)
    )
    assert wet.gravity == pytest.approx(1.02, abs=0.001)
    assert wet.pump_volume == pytest.approx(1.0, abs=0.001)
    told = fluid_of(replace(WELL, facts={"mixture_gravity": 0.8}), PRESENT)
    assert told.gravity == 0.8


def test_the_present_setting_gives_the_present_point() -> None:
    answer = asked()
    assert answer.then.rate_bpd == pytest.approx(answer.now.rate_bpd, rel=1e-3)
    assert answer.now.discharge_pressure_psi == pytest.approx(PRESENT.discharge_pressure_psi, abs=0.5)
    assert answer.now.active_power_kw == PRESENT.active_power_kw
    assert answer.warnings == ()


@given(st.floats(53, 60), st.floats(0.1, 2))
def test_a_higher_frequency_raises_rate_drawdown_and_power(frequency_hz: float, more_hz: float) -> None:
    slow, fast = asked(frequency_hz).then, asked(frequency_hz + more_hz).then
    assert fast.rate_bpd > slow.rate_bpd
    assert fast.intake_pressure_psi < slow.intake_pressure_psi
    assert fast.brake_hp > slow.brake_hp
    assert fast.wellhead_pressure_psi > slow.wellhead_pressure_psi


@given(st.floats(25, 50), st.floats(1.02, 2))
def test_a_wider_choke_raises_rate_and_lowers_wellhead_pressure(choke_pct: float, wider: float) -> None:
    narrow, wide = asked(choke_pct=choke_pct).then, asked(choke_pct=min(choke_pct * wider, 100.0)).then
    assert wide.rate_bpd > narrow.rate_bpd
    assert wide.wellhead_pressure_psi < narrow.wellhead_pressure_psi
    assert wide.intake_pressure_psi < narrow.intake_pressure_psi


def test_pressures_balance_at_the_new_rate() -> None:
    then = asked(60.0).then
    gain = then.discharge_pressure_psi - then.intake_pressure_psi
    assert gain == pytest.approx(0.433 * 0.92 * then.head_ft, rel=1e-6)
    drawn = PRESENT.intake_pressure_psi - then.intake_pressure_psi
    assert drawn == pytest.approx((then.rate_bpd - 480) / 0.8, rel=1e-6)


def test_warnings_name_exceeded_limits() -> None:
    assert "above the configured maximum of 62 Hz" in asked(63.0).warnings
    weak = replace(WELL, motor_rated_kw=15.0)
    assert any("of its rating" in words for words in asked(60.0, well=weak).warnings)
    assert any(words.endswith("downthrust") for words in asked(53.0, 10.0).warnings)


def test_missing_well_data_are_listed_as_assumptions() -> None:
    bare = replace(WELL, facts={})
    answer = asked(57.0, well=bare)
    assert answer.then.intake_pressure_psi == PRESENT.intake_pressure_psi
    assert len(answer.assumptions) == 3


def test_a_frequency_too_low_for_the_well_is_rejected() -> None:
    with pytest.raises(InsufficientData, match="does not reach the required"):
        asked(35.0, well=replace(WELL, facts={}))


def test_a_rate_beyond_the_curve_is_rejected() -> None:
    facts = {"productivity_index_bpd_psi": 50.0, "flowline_pressure_psi": 100.0}
    short = Well(Installed(parse_csv(TABLE), stages=100), facts)
    present = replace(PRESENT, frequency_hz=50.0, discharge_pressure_psi=1036.0)
    with pytest.raises(InsufficientData, match="beyond the end of its curve"):
        what_if(short, present, FLUID, point_of(short, present, FLUID), Setting(100.0, 100.0))


def test_prediction_without_measurements_is_rejected() -> None:
    with pytest.raises(InsufficientData, match="missing"):
        what_if(WELL, Present(), FLUID, point_of(WELL, Present(), FLUID), Setting(60.0, 50.0))


@pytest.mark.parametrize("adjusted", list(Adjusted))
def test_the_calibrated_curve_passes_through_the_test(adjusted: Adjusted) -> None:
    worn = replace(PRESENT, discharge_pressure_psi=1700.0)
    found = calibrate(WELL, worn, FLUID, adjusted)
    assert found.residual_before == pytest.approx(1200 / 1314.2 - 1, abs=1e-3)
    fitted = Installed(an550(), 250, found.head_factor, found.flow_factor)
    assert calibrate(replace(WELL, installed=fitted), worn, FLUID, adjusted).residual_before == pytest.approx(
        0, abs=1e-6
    )
    assert point_of(replace(WELL, installed=fitted), worn, FLUID).virtual_rate_bpd == pytest.approx(
        480, abs=0.5
    )


@pytest.mark.parametrize(
    "test",
    [
        replace(PRESENT, flow_rate_bpd=float("nan")),
        replace(PRESENT, frequency_hz=0.0),
        replace(PRESENT, discharge_pressure_psi=900.0),
        replace(PRESENT, flow_rate_bpd=5000.0),
    ],
    ids=["no-rate", "stopped", "implausible", "beyond-the-curve"],
)
def test_an_unusable_well_test_is_rejected(test: Present) -> None:
    with pytest.raises(UnusableWellTest):
        calibrate(WELL, test, FLUID, Adjusted.HEAD)


def test_a_curve_survives_its_document() -> None:
    for curve in (an550(), parse_csv(TABLE)):
        assert parse_json(json.dumps(to_document(curve))) == curve
