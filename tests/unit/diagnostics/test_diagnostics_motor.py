"""Motor formulas against published values."""

import numpy as np
import pytest
from esp_diagnostics.physics import motor, winding
from hypothesis import given
from hypothesis import strategies as st


def test_load_is_relative_to_frequency():
    assert motor.load(50.0, 100.0, np.array([60.0, 50.0, 30.0]), 60.0) == pytest.approx([0.5, 0.6, 1.0])
    assert np.isnan(motor.load(50.0, 100.0, np.array([0.0, np.nan]), 60.0)).all()


def test_three_phase_power():
    assert motor.input_kw(2000.0, 30.0, 0.85) == pytest.approx(88.33, abs=0.01)
    assert motor.shaft_kw(100.0) == pytest.approx(74.57)


def test_induction_motors_draw_half_their_amps_at_a_third_of_their_load():
    shares = motor.induction_current_share(np.array([0.0, 0.3, 1.0]))

    assert 0.49 < shares[1] < 0.58
    assert shares[[0, 2]] == pytest.approx([0.47, 1.0])


def test_permanent_magnet_current_is_proportional_to_load():
    assert motor.permanent_magnet_current_share(np.array([0.0, 0.3, np.nan])) == pytest.approx(
        [0.0, 0.3, np.nan], nan_ok=True
    )


@given(low=st.floats(0.05, 1.2), step=st.floats(0.01, 0.3))
def test_current_rises_with_load(low, step):
    assert motor.induction_current_share(low + step) > motor.induction_current_share(low)


def test_efficiency_is_nameplate_at_full_load_and_zero_at_no_load():
    share = motor.efficiency_at_load(np.array([0.0, 0.3, 0.7, 1.0]), 0.86)

    assert share[[0, 3]] == pytest.approx([0.0, 0.86])
    assert share[1] < share[2]
    assert share[2] == pytest.approx(0.86, abs=0.02)


@pytest.mark.parametrize(
    ("pole_pairs", "frequency", "rpm"), [(1, 60.0, 3600), (2, 120.0, 3600), (4, 133.0, 1995)]
)
def test_synchronous_speed_depends_on_pole_pairs(pole_pairs, frequency, rpm):
    assert motor.synchronous_rpm(frequency, pole_pairs) == pytest.approx(rpm)


def test_curve_frequency_follows_shaft_speed():
    assert motor.curve_frequency_hz(motor.synchronous_rpm(120.0, 2)) == pytest.approx(61.71, abs=0.01)
    assert motor.curve_frequency_hz(motor.synchronous_rpm(60.0, 1, slip=100 / 3600)) == pytest.approx(60.0)


def test_cooling_velocity_of_the_formula():
    velocity = motor.cooling_velocity_ft_s(1000.0, np.array([6.276, 4.95, 4.95]), np.array([5.4, 4.56, 5.4]))

    assert velocity == pytest.approx([1.163, 3.209, np.nan], abs=0.001, nan_ok=True)


def test_cooling_velocity_is_rate_over_annulus():
    # 5.6146 ft³/bbl over 86,400 s/d and π/4·(ID² − OD²)/144 ft².
    area_ft2 = np.pi / 4 * (6.276**2 - 5.4**2) / 144

    assert motor.cooling_velocity_ft_s(1000.0, 6.276, 5.4) == pytest.approx(
        1000 * 5.6146 / 86400 / area_ft2, rel=0.002
    )


def test_unbalance_is_the_phase_furthest_from_the_mean():
    unbalance = motor.unbalance_pct(
        np.array([50.0, 55.0, 0.0, np.nan]),
        np.array([50.0, 50.0, 0.0, 50.0]),
        np.array([50.0, 45.0, 0.0, 50.0]),
    )

    assert unbalance == pytest.approx([0.0, 10.0, np.nan, np.nan], nan_ok=True)


def test_winding_covers_63_percent_of_a_step_in_one_lag():
    elapsed = np.array([0.0, 100.0, 700.0, 6100.0])
    heat = np.array([[10.0], [20.0], [20.0], [20.0]])

    warmed = winding.winding_c(elapsed, np.full((4, 1), 80.0), heat, 2.0, 600.0)

    assert warmed[:, 0] == pytest.approx([100.0, 100.0, 120 - 20 / np.e, 120.0], abs=0.01)


@given(cuts=st.lists(st.floats(1, 999), max_size=8, unique=True))
def test_winding_temperature_does_not_depend_on_step_size(cuts):
    elapsed = np.array([0.0, *sorted(cuts), 1000.0])
    target = winding.settled_c(80.0, 20.0, 2.0)

    once = winding.step_c(100.0, target, 1000.0, 600.0)
    seen = 100.0
    for step in np.diff(elapsed):
        seen = winding.step_c(seen, target, step, 600.0)

    assert seen == pytest.approx(once)


def test_nan_instants_affect_only_themselves():
    temperature = np.array([[np.nan, 80.0], [80.0, np.nan], [80.0, 80.0], [80.0, 80.0]])

    warmed = winding.winding_c(
        np.arange(4) * 600.0, temperature, np.full((4, 2), 10.0), np.full(2, 2.0), 600.0
    )

    assert np.isnan(warmed).tolist() == [[True, False], [False, True], [False, False], [False, False]]
    assert warmed[1:, 0] == pytest.approx(100.0)
    assert warmed[2:, 1] == pytest.approx(100.0)


def test_an_empty_series_is_accepted():
    assert winding.winding_c(np.array([]), np.empty((0, 3)), np.empty((0, 3)), 2.0, 600.0).shape == (0, 3)


def test_resistance_is_fitted_from_complete_readings():
    heat = np.array([[5.0, np.nan], [10.0, np.nan], [np.nan, 8.0], [0.0, np.nan]])
    intake = np.array([[80.0, 80.0], [82.0, 80.0], [80.0, np.nan], [80.0, 80.0]])

    fitted = winding.fit_resistance_c_per_kw(intake, winding.settled_c(intake, heat, 2.5), heat)

    assert fitted == pytest.approx([2.5, np.nan], nan_ok=True)


def test_heat_loss_is_input_less_shaft_power():
    assert winding.loss_kw(50.0, 0.86) == pytest.approx(7.0)
