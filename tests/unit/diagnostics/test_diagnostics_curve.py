"""Validation of pump curves."""

import numpy as np
import pytest
from esp_diagnostics.physics.curve import InvalidCurve, Polynomial, PumpCurve, RateTable
from esp_diagnostics.physics.curves import an550

FALLING = Polynomial((30.0, 0.0, -1e-4))


def test_falling_branch_of_the_an550():
    begins, ends = an550().falling_bpd

    assert begins == pytest.approx(30.3, abs=0.1)
    assert ends == pytest.approx(898.4, abs=0.1)
    assert float(an550().head_ft.values(np.array(ends))) == pytest.approx(0.0, abs=1e-9)


def test_best_efficiency_is_computed_from_power():
    assert an550().best_bpd == pytest.approx(560.0, abs=0.5)
    assert float(an550().efficiency(np.array(560.0))) == pytest.approx(0.4695, abs=0.0005)


def test_declared_best_efficiency_takes_precedence():
    assert PumpCurve("x", FALLING, 200, 400, declared_best_bpd=310).best_bpd == 310


def test_best_efficiency_without_power_is_unknown():
    curve = PumpCurve("x", FALLING, 200, 400)

    assert np.isnan(curve.best_bpd)
    assert np.isnan(curve.efficiency(np.array([100.0, 300.0]))).all()


def test_falling_branch_ends_where_a_polynomial_rises_again():
    # 30 - 0.1 Q + 1e-4 Q²: lowest at 500 bpd, above zero.
    curve = PumpCurve("x", Polynomial((30.0, -0.1, 1e-4)), 200, 400)

    assert curve.falling_bpd == pytest.approx((0.0, 500.0))


def test_a_table_interpolates_and_ends_at_its_rates():
    rates, heads = (0.0, 100.0, 250.0, 400.0, 500.0), (30.0, 29.0, 24.0, 15.0, 8.0)

    curve = PumpCurve("x", RateTable(rates, heads), 150, 400)

    assert curve.head_ft.values(np.array(rates)) == pytest.approx(heads)
    assert curve.falling_bpd == (0.0, 500.0)


def test_falling_branch_of_a_table_starts_at_its_maximum():
    curve = PumpCurve("x", RateTable((0.0, 50.0, 200.0, 400.0), (28.0, 29.0, 25.0, 15.0)), 150, 350)

    assert curve.falling_bpd[0] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Polynomial((10.0, 0.01)), "head does not fall"),
        (Polynomial((30.0, -0.1)), "head is -10 ft"),
        (RateTable((0.0, 100.0, 200.0, 300.0), (30.0, 29.0, 27.0, 24.0)), "misses part"),
        (RateTable((0.0, 100.0, 250.0, 300.0, 500.0), (30.0, 29.0, 25.0, 25.0, 20.0)), "head does not fall"),
    ],
)
def test_implausible_head_curves_are_rejected(head, message):
    with pytest.raises(InvalidCurve, match=message) as refused:
        PumpCurve("x", head, 200, 400)

    assert refused.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_bpd": 400, "max_bpd": 200}, "not a valid recommended range"),
        ({"min_bpd": -1}, "not a valid recommended range"),
        ({"max_bpd": float("nan")}, "finite"),
        ({"rated_frequency_hz": 0.0}, "rated frequency"),
        ({"declared_best_bpd": 500.0}, "outside the recommended range"),
        ({"brake_hp": Polynomial((0.1, -1e-3))}, "power is -0.3 hp"),
        ({"brake_hp": RateTable((250.0, 300.0, 500.0), (0.1, 0.2, 0.3))}, "the power table spans 250"),
    ],
)
def test_invalid_curves_are_rejected(change, message):
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
        RateTable(rates, values)
