"""Virtual flow rate: inversion, uncertainty, and reasons of missing rates."""

import numpy as np
import pytest
from esp_diagnostics.physics.arrays import Reason
from esp_diagnostics.physics.curve import Polynomial, PumpCurve, RateTable
from esp_diagnostics.physics.curves import an550
from esp_diagnostics.physics.pumps import Correction, Installed, head_ft, stack
from esp_diagnostics.physics.virtual_flow import virtual_flow
from hypothesis import given
from hypothesis import strategies as st

CURVES = (
    an550(),
    PumpCurve("parabola", Polynomial((36.0, -1.2e-3, -2.15e-6)), 1600, 3000),
    PumpCurve("line", Polynomial((30.0, -0.03)), 300, 700, rated_frequency_hz=50.0),
    PumpCurve(
        "table", RateTable((0.0, 300.0, 600.0, 900.0, 1200.0), (30.0, 31.0, 27.0, 21.0, 10.0)), 500, 1000
    ),
    PumpCurve("from 200", RateTable((200.0, 300.0, 600.0, 800.0), (30.0, 29.0, 15.0, 0.0)), 250, 700),
)


@given(
    curve=st.sampled_from(CURVES),
    frequency=st.floats(20, 200),
    share=st.floats(0.02, 0.999),
    stages=st.integers(1, 600),
    factor=st.floats(0.5, 1.1),
)
def test_inversion_recovers_the_rate_on_the_falling_branch(curve, frequency, share, stages, factor):
    begins, ends = curve.falling_bpd
    rate = (begins + share * (ends - begins)) * frequency / curve.rated_frequency_hz
    pumps = stack([Installed(curve, stages, head_factor=factor)])
    rate *= factor
    correction = Correction(rate=factor)

    flow = virtual_flow(pumps, frequency, head_ft(pumps, frequency, rate, correction), correction=correction)

    assert flow.rate_bpd == pytest.approx([rate], rel=1e-5)
    assert flow.reason == [Reason.OK]


@given(share=st.lists(st.floats(0.02, 0.99), min_size=5, max_size=5), frequency=st.floats(35, 70))
def test_a_mixed_fleet_is_inverted_in_one_call(share, frequency):
    pumps = stack([Installed(curve, 200) for curve in CURVES])
    rates = pumps.falling_from_bpd + np.array(share) * (pumps.ends_at_bpd - pumps.falling_from_bpd)
    rates *= frequency / pumps.rated_frequency_hz

    flow = virtual_flow(pumps, frequency, np.stack([head_ft(pumps, frequency, rates)] * 3))

    assert flow.rate_bpd == pytest.approx(np.stack([rates] * 3), rel=1e-5)


@given(frequency=st.floats(35, 70), low=st.floats(0.1, 0.9), step=st.floats(0.01, 0.1))
def test_flow_falls_with_head(frequency, low, step):
    pumps = stack([Installed(curve, 200) for curve in CURVES])
    top, bottom = pumps.head.value(pumps.falling_from_bpd), pumps.head.value(pumps.ends_at_bpd)
    speed = frequency / pumps.rated_frequency_hz
    heads = [200 * speed**2 * (bottom + share * (top - bottom)) for share in (low, min(low + step, 0.99))]

    less, more = (virtual_flow(pumps, frequency, head).rate_bpd for head in heads)

    assert (more < less).all()


@pytest.mark.parametrize(("fraction", "relative_pct"), [(0.5, 5.1), (0.7, 2.8), (1.0, 1.0), (1.2, 0.5)])
def test_uncertainty_of_one_percent_of_head(fraction, relative_pct):
    pumps = stack([Installed(an550(), 250)])
    rate = fraction * pumps.best_bpd

    flow = virtual_flow(pumps, 60.0, head_ft(pumps, 60.0, rate), relative_head_sigma=0.01)

    assert 100 * flow.sigma_bpd / flow.rate_bpd == pytest.approx([relative_pct], abs=0.06)


def test_uncertainty_equals_the_effect_of_a_head_error():
    pumps = stack([Installed(curve, 100) for curve in CURVES])
    rates = 0.8 * pumps.max_bpd
    head = head_ft(pumps, pumps.rated_frequency_hz, rates)

    flow = virtual_flow(pumps, pumps.rated_frequency_hz, head, relative_head_sigma=1e-4)
    off = virtual_flow(pumps, pumps.rated_frequency_hz, head * (1 - 1e-4))

    assert flow.sigma_bpd == pytest.approx(off.rate_bpd - rates, rel=0.01)


def test_a_flat_curve_has_unbounded_uncertainty():
    pumps = stack([Installed(an550(), 1)])

    flow = virtual_flow(pumps, 60.0, pumps.head.value(pumps.falling_from_bpd))

    assert flow.rate_bpd == pytest.approx(pumps.falling_from_bpd, abs=0.01)
    assert flow.sigma_bpd == pytest.approx(pumps.ends_at_bpd - pumps.falling_from_bpd, rel=0.5)


@pytest.mark.parametrize(
    ("frequency", "head", "correction", "reason"),
    [
        (60.0, 6000.0, Correction(), Reason.ABOVE_CURVE),
        (60.0, -10.0, Correction(), Reason.BELOW_CURVE),
        (0.0, 3000.0, Correction(), Reason.STOPPED),
        (0.0, np.nan, Correction(), Reason.STOPPED),
        (np.nan, 3000.0, Correction(), Reason.MISSING),
        (60.0, np.nan, Correction(), Reason.MISSING),
        (60.0, 3000.0, Correction(head=0.0), Reason.NO_HEAD),
        (60.0, 3000.0, Correction(rate=np.nan), Reason.MISSING),
    ],
)
def test_missing_rates_have_a_reason(frequency, head, correction, reason):
    pumps = stack([Installed(an550(), 250)] * 2)

    flow = virtual_flow(
        pumps,
        np.array([frequency, 60.0]),
        np.array([head, 4000.0]),
        correction=Correction(*map(beside, correction)),
    )

    assert np.isnan(flow.rate_bpd).tolist() == [True, False]
    assert np.isnan(flow.sigma_bpd).tolist() == [True, False]
    assert flow.reason.tolist() == [reason, Reason.OK]


def beside(factor):
    return np.array([factor, 1.0])


def test_an_empty_fleet_is_accepted():
    pumps = stack([Installed(an550(), 250)]).take(np.array([], dtype=np.intp))

    assert virtual_flow(pumps, 60.0, np.array([])).rate_bpd.shape == (0,)
