"""The pump's curve against the published worked example, and the laws it must keep."""

import numpy as np
import pytest
from esp_gateway.simulator.pump import (
    AN550,
    CATALOGUE,
    brake_hp,
    flow_bpd,
    head_ft,
    hydraulic_hp,
    pressure_psi,
)
from hypothesis import given
from hypothesis import strategies as st


def test_worked_example_of_the_an550():
    head = head_ft(AN550, 250, 55.0, 480.0)
    gain = pressure_psi(head, 0.92)

    assert float(head) == pytest.approx(3299, abs=1)
    assert float(gain) == pytest.approx(1314, abs=1)
    assert float(hydraulic_hp(480.0, gain)) == pytest.approx(10.7, abs=0.05)
    assert float(brake_hp(AN550, 250, 55.0, 480.0, 0.92)) == pytest.approx(23.0, abs=0.05)
    assert flow_bpd(AN550, 250, 55.0, float(head)) == pytest.approx(480.0, abs=0.01)


@given(
    curve=st.sampled_from(CATALOGUE),
    frequency=st.floats(35, 70),
    share=st.floats(0.4, 0.98),
    stages=st.integers(50, 500),
)
def test_inverting_the_curve_gives_the_rate_back(curve, frequency, share, stages):
    rate = share * curve.open_flow_bpd() * frequency / 60.0

    head = float(head_ft(curve, stages, frequency, rate))

    assert flow_bpd(curve, stages, frequency, head) == pytest.approx(rate, rel=1e-6)


@given(curve=st.sampled_from(CATALOGUE), ratio=st.floats(0.5, 1.3), share=st.floats(0.0, 1.0))
def test_affinity_laws(curve, ratio, share):
    rate = share * curve.max_bpd

    assert head_ft(curve, 1, 60 * ratio, rate * ratio) == pytest.approx(
        head_ft(curve, 1, 60, rate) * ratio**2
    )
    assert brake_hp(curve, 1, 60 * ratio, rate * ratio, 1.0) == pytest.approx(
        brake_hp(curve, 1, 60, rate, 1.0) * ratio**3
    )


@pytest.mark.parametrize("curve", CATALOGUE, ids=lambda curve: curve.model)
def test_curves_are_physical(curve):
    rates = np.linspace(0.3 * curve.open_flow_bpd(), curve.open_flow_bpd(), 50)
    heads = head_ft(curve, 1, 60.0, rates)
    efficiency = hydraulic_hp(rates, pressure_psi(heads, 1.0)) / brake_hp(curve, 1, 60.0, rates, 1.0)

    assert (np.diff(heads) < 0).all()
    assert 0.4 < efficiency.max() < 0.75
    assert curve.min_bpd < rates[efficiency.argmax()] < curve.max_bpd


def test_a_head_out_of_reach_is_refused():
    with pytest.raises(ValueError, match="cannot make"):
        flow_bpd(AN550, 100, 50.0, 5000.0)
