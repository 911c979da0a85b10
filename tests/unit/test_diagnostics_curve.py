"""Pump curves are checked before anything is judged by them."""

import numpy as np
import pytest
from esp_diagnostics.physics.curve import InvalidCurve, Polynomial, PumpCurve, Table
from esp_diagnostics.physics.curves import an550

FALLING = Polynomial((30.0, 0.0, -1e-4))


def test_an550_falls_from_its_maximum_to_no_head():
    begins, ends = an550().falling_bpd

    assert begins == pytest.approx(30.3, abs=0.1)
    assert ends == pytest.approx(898.4, abs=0.1)
    assert float(an550().head_ft.values(np.array(ends))) == pytest.approx(0.0, abs=1e-9)


def test_best_efficiency_comes_from_power():
    assert an550().best_bpd == pytest.approx(560.0, abs=0.5)
    assert float(an550().efficiency(np.array(560.0))) == pytest.approx(0.4695, abs=0.0005)


def test_a_declared_best_efficiency_wins():
    assert PumpCurve("x", FALLING, 200, 400, declared_best_bpd=310).best_bpd == 310


def test_best_efficiency_without_power_is_unknown():
    curve = PumpCurve("x", FALLING, 200, 400)

    assert np.isnan(curve.best_bpd)
    assert np.isnan(curve.efficiency(np.array([100.0, 300.0]))).all()


def test_a_falling_branch_ends_where_a_fitted_polynomial_turns_up_again():
    # 30 - 0.1 Q + 1e-4 Q²: lowest at 500 bpd, above zero.
    curve = PumpCurve("x", Polynomial((30.0, -0.1, 1e-4)), 200, 400)

    assert curve.falling_bpd == pytest.approx((0.0, 500.0))


def test_a_table_is_followed_at_its_rates_and_ends_with_them():
    rates, heads = (0.0, 100.0, 250.0, 400.0, 500.0), (30.0, 29.0, 24.0, 15.0, 8.0)

    curve = PumpCurve("x", Table(rates, heads), 150, 400)

    assert curve.head_ft.values(np.array(rates)) == pytest.approx(heads)
    assert curve.falling_bpd == (0.0, 500.0)


def test_a_tables_falling_branch_begins_at_its_highest_head():
    curve = PumpCurve("x", Table((0.0, 50.0, 200.0, 400.0), (28.0, 29.0, 25.0, 15.0)), 150, 350)

    assert curve.falling_bpd[0] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Polynomial((10.0, 0.01)), "head does not fall"),
        (Polynomial((30.0, -0.1)), "head is -10 ft"),
        (Table((0.0, 100.0, 200.0, 300.0), (30.0, 29.0, 27.0, 24.0)), "leaves out part"),
        (Table((0.0, 100.0, 250.0, 300.0, 500.0), (30.0, 29.0, 25.0, 25.0, 20.0)), "head does not fall"),
    ],
)
def test_heads_that_no_pump_has_are_refused(head, message):
    with pytest.raises(InvalidCurve, match=message) as refused:
        PumpCurve("x", head, 200, 400)

    assert refused.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_bpd": 400, "max_bpd": 200}, "no recommended range"),
        ({"min_bpd": -1}, "no recommended range"),
        ({"max_bpd": float("nan")}, "finite"),
        ({"rated_frequency_hz": 0.0}, "rated frequency"),
        ({"declared_best_bpd": 500.0}, "outside the recommended range"),
        ({"brake_hp": Polynomial((0.1, -1e-3))}, "power is -0.3 hp"),
        ({"brake_hp": Table((250.0, 300.0, 500.0), (0.1, 0.2, 0.3))}, "the power table runs from 250"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(InvalidCurve, match=message):
        PumpCurve(**{"model": "x", "head_ft": FALLING, "min_bpd": 200, "max_bpd": 400} | change)


@pytest.mark.parametrize("coefficients", [(), (1.0, float("nan")), (1.0, float("inf")), (1.0,) * 11])
def test_polynomials_are_finite_and_of_bounded_degree(coefficients):
    with pytest.raises(InvalidCurve):
        Polynomial(coefficients)


@pytest.mark.parametrize(
    ("rates", "values"),
    [
        ((0.0, 1.0), (1.0, 2.0)),
        ((0.0, 1.0, 2.0), (1.0, 2.0)),
        ((0.0, 2.0, 2.0), (3.0, 2.0, 1.0)),
        ((-1.0, 1.0, 2.0), (3.0, 2.0, 1.0)),
        ((0.0, 1.0, 2.0), (3.0, float("nan"), 1.0)),
    ],
)
def test_tables_have_rising_rates_and_a_finite_value_for_each(rates, values):
    with pytest.raises(InvalidCurve):
        Table(rates, values)
