"""Head, power and efficiency against a published example, and their invariants."""

import numpy as np
import pytest
from esp_diagnostics.physics.curve import Polynomial, PumpCurve, RateTable
from esp_diagnostics.physics.curves import an550
from esp_diagnostics.physics.fluids import pressure_psi
from esp_diagnostics.physics.operating_point import Thrust, operating_point
from esp_diagnostics.physics.pumps import (
    WATER,
    Correction,
    Installed,
    brake_hp,
    efficiency,
    head_ft,
    hydraulic_hp,
    stack,
)
from esp_diagnostics.physics.virtual_flow import virtual_flow
from hypothesis import given, settings
from hypothesis import strategies as st

TABLE = PumpCurve(
    "table",
    RateTable((0.0, 300.0, 600.0, 900.0, 1200.0), (31.0, 30.0, 27.0, 21.0, 10.0)),
    500,
    1000,
    brake_hp=RateTable((300.0, 600.0, 900.0, 1200.0), (0.17, 0.2, 0.22, 0.23)),
)
BARE = PumpCurve("bare", Polynomial((40.0, -1e-3, -1e-5)), 600, 1200, rated_frequency_hz=50.0)
CURVES = (an550(), TABLE, BARE)


def one(curve, stages=1, **factors):
    return stack([Installed(curve, stages, **factors)])


@pytest.fixture(scope="module")
def fleet():
    return stack([Installed(curve, 100 + 50 * place) for place, curve in enumerate(CURVES)])


def test_worked_example_of_the_an550():
    pumps = one(an550(), 250)

    head = head_ft(pumps, 55.0, 480.0)
    gain = pressure_psi(head, 0.92)

    assert head == pytest.approx([3299], abs=0.5)
    assert gain == pytest.approx([1314], abs=0.5)
    assert hydraulic_hp(480.0, gain) == pytest.approx([10.7], abs=0.05)
    assert brake_hp(pumps, 55.0, 480.0, 0.92) == pytest.approx([23.0], abs=0.05)
    assert virtual_flow(pumps, 55.0, head).rate_bpd == pytest.approx([480.0], abs=1e-6)


@given(
    curve=st.sampled_from(CURVES),
    ratio=st.floats(0.3, 3.0),
    share=st.floats(0.0, 1.0),
    stages=st.integers(1, 500),
)
def test_affinity_laws(curve, ratio, share, stages):
    pumps, rate, rated = one(curve, stages), share * curve.max_bpd, curve.rated_frequency_hz

    def near(values):
        return pytest.approx(values, rel=1e-9, nan_ok=True)

    assert head_ft(pumps, rated * ratio, rate * ratio) == near(head_ft(pumps, rated, rate) * ratio**2)
    assert brake_hp(pumps, rated * ratio, rate * ratio, 0.9) == near(
        brake_hp(pumps, rated, rate, 0.9) * ratio**3
    )
    assert efficiency(pumps, rated * ratio, rate * ratio) == near(efficiency(pumps, rated, rate))


@given(curve=st.sampled_from(CURVES), frequency=st.floats(20, 200))
def test_head_falls_along_the_falling_branch(curve, frequency):
    begins, ends = curve.falling_bpd
    rates = np.linspace(begins, ends, 200)[:, None] * frequency / curve.rated_frequency_hz

    assert (np.diff(head_ft(one(curve), frequency, rates[1:-1]), axis=0) < 0).all()


@settings(max_examples=25)
@given(data=st.data())
def test_columns_equal_single_evaluations(data):
    instants = data.draw(st.integers(1, 4))
    numbers = st.one_of(st.floats(-50, 1600), st.just(float("nan")))
    rates, frequencies = (
        np.array(data.draw(st.lists(each, min_size=3 * instants, max_size=3 * instants))).reshape(-1, 3)
        for each in (numbers, st.sampled_from([0.0, 35.0, 60.0, float("nan")]))
    )
    fleet = stack([Installed(curve, 100) for curve in CURVES])

    for compute in (
        lambda pumps, f, q: head_ft(pumps, f, q),
        lambda pumps, f, q: brake_hp(pumps, f, q, 0.95),
        lambda pumps, f, q: efficiency(pumps, f, q),
        lambda pumps, f, q: virtual_flow(pumps, f, q * 2.0).rate_bpd,
        lambda pumps, f, q: virtual_flow(pumps, f, q * 2.0).reason,
        lambda pumps, f, q: operating_point(pumps, f, q).thrust,
    ):
        together = compute(fleet, frequencies, rates)
        alone = [
            [compute(one(curve, 100), f, q)[0] for curve, f, q in zip(CURVES, *row, strict=True)]
            for row in zip(frequencies, rates, strict=True)
        ]
        assert together == pytest.approx(np.array(alone), rel=1e-9, nan_ok=True)


def test_take_selects_pumps_in_any_order(fleet):
    rows = np.array([2, 0, 0, 1, 2])
    rates = np.array([700.0, 500.0, 450.0, 800.0, 900.0])

    taken = head_ft(fleet.take(rows), 50.0, rates)

    assert taken == pytest.approx(
        [head_ft(fleet, 50.0, q)[pump] for pump, q in zip(rows, rates, strict=True)]
    )
    assert virtual_flow(fleet.take(rows), 50.0, taken).rate_bpd == pytest.approx(rates)


@pytest.mark.parametrize("rate", [-1.0, 1000.0])
def test_a_rate_beyond_the_curve_has_no_head(rate):
    assert np.isnan(head_ft(one(an550()), 60.0, rate)).all()
    assert np.isnan(brake_hp(one(an550()), 60.0, rate, 1.0)).all()


@pytest.mark.parametrize("frequency", [0.0, -60.0, float("nan")])
def test_a_stopped_pump_has_no_head(frequency):
    assert np.isnan(head_ft(one(an550()), frequency, 500.0)).all()
    assert operating_point(one(an550()), frequency, 500.0).thrust == [Thrust.UNKNOWN]


def test_power_is_nan_where_unpublished(fleet):
    assert np.isnan(brake_hp(fleet, 60.0, 200.0, 1.0)).tolist() == [False, True, True]
    assert np.isnan(brake_hp(fleet, 60.0, 600.0, 1.0)).tolist() == [False, False, True]


def test_nan_inputs_affect_only_their_own_results():
    pumps = stack([Installed(an550(), 250)] * 3)

    heads = head_ft(
        pumps, np.array([[55.0, np.nan, 55.0], [55.0, 55.0, 55.0]]), np.array([480.0, 480.0, np.nan])
    )

    assert np.isnan(heads).tolist() == [[False, True, True], [False, False, True]]


def test_corrections_scale_head_rate_and_power_and_multiply():
    pumps = one(an550(), 250)
    thick, gassy = Correction(head=0.9, rate=0.8, power=1.2), Correction(head=0.5)

    both = thick.times(gassy)

    assert head_ft(pumps, 60.0, 400.0, both) == pytest.approx(0.45 * head_ft(pumps, 60.0, 500.0))
    assert brake_hp(pumps, 60.0, 400.0, 1.0, both) == pytest.approx(1.2 * brake_hp(pumps, 60.0, 500.0, 1.0))
    assert both.times(WATER) == both


def test_well_test_factors_scale_a_pumps_own_curve():
    worn = one(an550(), 250, head_factor=0.9, flow_factor=0.95)

    assert head_ft(worn, 60.0, 475.0) == pytest.approx(0.9 * head_ft(one(an550(), 250), 60.0, 500.0))


def test_the_recommended_range_scales_with_frequency():
    pumps = stack([Installed(an550(), 250)] * 4)

    point = operating_point(pumps, 45.0, np.array([299.0, 301.0, 526.0, np.nan]))

    assert point.thrust.tolist() == [Thrust.DOWN, Thrust.BALANCED, Thrust.UP, Thrust.UNKNOWN]
    assert point.min_bpd == pytest.approx(300.0)
    assert point.max_bpd == pytest.approx(525.0)
    assert point.fraction_of_best == pytest.approx(
        np.array([299, 301, 526, np.nan]) / 420, rel=1e-3, nan_ok=True
    )


def test_thrust_is_known_where_best_efficiency_is_not():
    point = operating_point(one(BARE), 50.0, 700.0)

    assert np.isnan(point.fraction_of_best).all()
    assert point.thrust == [Thrust.BALANCED]
