"""Liquids, gas and viscosity against published values."""

import numpy as np
import pytest
from esp_diagnostics.physics import fluids, gas, viscosity
from esp_diagnostics.physics.curves import an550
from esp_diagnostics.physics.pumps import Installed, brake_hp, efficiency, head_ft, stack
from hypothesis import given
from hypothesis import strategies as st

WELL = gas.Produced(water_cut_pct=50.0, oil_api=32.0, gas_oil_ratio_scf=400.0, separator_efficiency=0.7)


def test_oil_of_ten_degrees_api_is_water():
    assert fluids.oil_gravity(10.0) == pytest.approx(1.0)
    assert fluids.oil_gravity(35.0) == pytest.approx(0.8498, abs=1e-4)


def test_liquid_gravity_is_mixed_by_volume():
    assert fluids.liquid_gravity(np.array([0.0, 25.0, 100.0]), 0.85, 1.05) == pytest.approx([0.85, 0.9, 1.05])


@given(head=st.floats(-1e4, 1e4), gravity=st.floats(0.1, 1.5))
def test_head_and_pressure_are_each_others_inverse(head, gravity):
    assert fluids.head_ft(fluids.pressure_psi(head, gravity), gravity) == pytest.approx(head)


def test_a_nonpositive_gravity_has_no_head():
    assert np.isnan(fluids.head_ft(1000.0, np.array([0.0, -1.0, np.nan]))).all()


def test_friction_of_the_published_formula():
    # 100 gpm in a bore of 2.441 inches, C 120, by hand: 2.083*0.7137*5011.9/76.82 ft a 1000 ft.
    loss = fluids.friction_ft(100.0 / fluids.GPM_PER_BPD, 1000.0, 2.441)

    assert loss == pytest.approx(97.0, rel=0.01)
    assert np.isnan(fluids.friction_ft(-1.0, 1000.0, 2.441))


def test_total_dynamic_head_sums_lift_friction_and_wellhead():
    lift = fluids.vertical_lift_ft(6000.0, 433.0, 1.0)

    assert lift == pytest.approx(5000.0)
    assert fluids.total_dynamic_head_ft(lift, 100.0, 86.6, 1.0) == pytest.approx(5300.0)


def test_standings_chart_example():
    # Standing's charts print: 350 cu ft/bbl, gas 0.75, 30 °API, 200 °F: bubble point 1930 psia, 1.22 bbl/bbl.
    oil = fluids.oil_gravity(30.0)

    assert gas.solution_gas_scf(1930.0, 200.0, 30.0, 0.75) == pytest.approx(350.0, rel=0.03)
    assert gas.oil_volume_factor(350.0, 200.0, oil, 0.75) == pytest.approx(1.22, abs=0.01)


def test_compressibility_is_within_two_percent_of_the_standing_katz_chart():
    # The chart as Dranchuk and Abou-Kassem (1975) fit it, at Tpr 1.5, 1.7 and 2.0.
    chart = np.array(
        [[0.951, 0.903, 0.821, 0.776], [0.968, 0.939, 0.891, 0.864], [0.982, 0.967, 0.946, 0.943]]
    )
    critical_psia, critical_rankine = 756.8 - 131 * 0.7 - 3.6 * 0.49, 169.2 + 349.5 * 0.7 - 74 * 0.49
    psia = np.array([0.5, 1.0, 2.0, 4.0]) * critical_psia
    fahrenheit = np.array([[1.5], [1.7], [2.0]]) * critical_rankine - 459.67

    assert gas.compressibility(psia, fahrenheit, 0.7) == pytest.approx(chart, rel=0.02)


def test_all_gas_is_dissolved_at_high_pressure():
    intake = gas.at_intake(WELL, 4000.0, 80.0)

    assert intake.gas_void_fraction == 0
    assert intake.mixture_gravity == intake.liquid_gravity
    assert intake.pump_volume == intake.liquid_volume


def test_gas_at_the_intake_worked_by_hand():
    # 500 psi gauge, 80 °C: Rs 86.7 scf/stb, Bo 1.089, z 0.9385, Bg 0.00584 bbl/scf; half the liquid is oil.
    intake = gas.at_intake(WELL, 500.0, 80.0)

    ratio = 0.5 * (400 - 86.7) * 0.3 * 0.00584 / (0.5 + 0.5 * 1.089)
    assert intake.gas_liquid_ratio == pytest.approx(ratio, rel=0.002)
    assert intake.gas_void_fraction == pytest.approx(ratio / (1 + ratio), rel=0.002)
    assert intake.mixture_gravity < intake.liquid_gravity


@given(
    pressure=st.floats(50, 3000),
    temperature=st.floats(30, 140),
    water_cut=st.floats(0, 100),
    ratio=st.floats(0, 2000),
    efficiency=st.floats(0, 1),
)
def test_less_gas_with_pressure_water_and_separation(pressure, temperature, water_cut, ratio, efficiency):
    well = gas.Produced(water_cut, 32.0, ratio, separator_efficiency=efficiency)
    more_water = well._replace(water_cut_pct=water_cut + (100 - water_cut) / 2)
    better = well._replace(separator_efficiency=efficiency + (1 - efficiency) / 2)

    void = gas.at_intake(well, pressure, temperature).gas_void_fraction

    assert 0 <= void < 1
    assert gas.at_intake(well, pressure + 50, temperature).gas_void_fraction <= void + 1e-12
    assert gas.at_intake(more_water, pressure, temperature).gas_void_fraction <= void + 1e-12
    assert gas.at_intake(better, pressure, temperature).gas_void_fraction <= void + 1e-12


def test_nan_inputs_affect_only_their_own_intake():
    pressures = np.array([[500.0, np.nan], [-20.0, 700.0]])

    intake = gas.at_intake(WELL, pressures, np.array([80.0, 80.0]))

    for column in intake:
        assert np.isnan(column).tolist() == [[False, True], [True, False]]


def test_turpin_and_dunbar_of_their_formulas():
    assert gas.turpin(0.5, 500 - gas.ATMOSPHERE_PSI) == pytest.approx(2 / 3)
    assert gas.dunbar_minimum_psi(1.0) + gas.ATMOSPHERE_PSI == pytest.approx(935.0)
    assert gas.dunbar_minimum_psi(0.5) + gas.ATMOSPHERE_PSI == pytest.approx(935.0 * 0.5**1.724)


def test_gas_handlers_lose_less_head_and_head_is_never_negative():
    void = np.array([0.0, 0.1, 0.3, 0.5, 0.9, np.nan])

    standard, handler = gas.head_factor(void), gas.head_factor(void, gas_handler=np.full(6, True))

    assert standard == pytest.approx([1.0, 0.97, 0.37, 0.0, 0.0, np.nan], nan_ok=True)
    assert handler == pytest.approx([1.0, 0.985, 0.835, 0.525, 0.0, np.nan], nan_ok=True)


def test_viscosity_example_of_the_hydraulic_institute():
    # Its worked example: 750 gpm and 100 ft at best efficiency, 1000 SSU (220 cSt); the chart reads
    # 0.95, 0.92 and 0.635. The fit is within 4 points; with plain gpm it would be 23 off in efficiency.
    q_star = viscosity.corrected_rate(220.0, 100.0, 750.0 / fluids.GPM_PER_BPD)

    rate, head, efficiency_ = viscosity.factors(q_star)

    assert q_star == pytest.approx(13.35, abs=0.02)
    assert rate == pytest.approx(0.95, abs=0.04)
    assert head == pytest.approx(0.92, abs=0.02)
    assert efficiency_ == pytest.approx(0.635, abs=0.03)


def test_published_factors_of_a_known_q_star():
    # The example of Turzo, Takacs and Zsuga (Oil & Gas Journal): a head factor of 0.981 at q* 2.698.
    assert viscosity.factors(2.698)[1] == pytest.approx(0.9810, abs=5e-5)


def test_viscosity_correction_is_continuous_and_strongest_on_efficiency():
    pumps = stack([Installed(an550(), 250)])
    thin, chart, thick = (viscosity.correction(pumps, 60.0, cst) for cst in (1.0, 5.0, 50.0))

    assert (thin.head, thin.rate, thin.power) == (1.0, 1.0, 1.0)
    assert thick.head < chart.head < 1
    assert thick.power > chart.power > 1
    water = efficiency(pumps, 60.0, 500.0)
    assert efficiency(pumps, 60.0, 500.0 * thick.rate, thick) < 0.6 * water
    near = [viscosity.correction(pumps, 60.0, cst).power for cst in (4.999, 5.001)]
    assert near[0] == pytest.approx(near[1], rel=1e-3)


def test_corrected_power_follows_from_rate_head_and_efficiency():
    pumps = stack([Installed(an550(), 250)])
    thick = viscosity.correction(pumps, 60.0, 30.0)
    rate = 500.0 * thick.rate

    useful = 7.37e-6 * rate * head_ft(pumps, 60.0, rate, thick)
    lost = viscosity.factors(
        viscosity.corrected_rate(30.0, pumps.head.value(pumps.best_bpd), pumps.best_bpd)
    )[2]

    expected = lost * efficiency(pumps, 60.0, 500.0)
    assert useful / brake_hp(pumps, 60.0, rate, 1.0, thick) == pytest.approx(expected)


def test_slower_pumps_lose_more_and_the_chart_end_is_nan():
    pumps = stack([Installed(an550(), 250)])

    assert viscosity.correction(pumps, 40.0, 30.0).head < viscosity.correction(pumps, 60.0, 30.0).head
    assert np.isnan(viscosity.correction(pumps, 60.0, 5000.0).head).all()
    assert np.isnan(viscosity.correction(pumps, 60.0, np.nan).head).all()
