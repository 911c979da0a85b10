"""Residuals: zero for a healthy pump, known signs for faults, a reason where missing."""

import numpy as np
import pytest
from esp_diagnostics.physics import fluids, gas, motor
from esp_diagnostics.physics.arrays import Reason
from esp_diagnostics.physics.curve import PumpCurve
from esp_diagnostics.physics.curves import an550
from esp_diagnostics.physics.pumps import Correction, Installed, brake_hp, head_ft, stack
from esp_diagnostics.physics.residuals import Measured, Pumped, residuals
from hypothesis import given, settings
from hypothesis import strategies as st

PUMPS = stack([Installed(an550(), 250)] * 3)
PUMPED = Pumped(mixture_gravity=0.88, pump_volume=1.12, drive_efficiency=0.8)
NAMES = ("head", "power", "power_at_virtual_flow", "flow")


def healthy(frequency=55.0, rate=430.0, pumps=PUMPS, pumped=PUMPED):
    """Return what is measured of pumps that do as their curve says."""
    through = rate * pumped.pump_volume
    head = head_ft(pumps, frequency, through, pumped.correction)
    shaft = brake_hp(pumps, frequency, through, pumped.mixture_gravity, pumped.correction)
    return Measured(
        frequency_hz=np.full(3, frequency),
        intake_pressure_psi=np.full(3, 400.0),
        discharge_pressure_psi=400.0 + fluids.pressure_psi(head, pumped.mixture_gravity),
        flow_rate_bpd=np.full(3, rate),
        active_power_kw=motor.shaft_kw(shaft) / pumped.drive_efficiency,
    )


@given(
    frequency=st.floats(40, 65),
    share=st.floats(0.5, 1.25),
    head=st.floats(0.5, 1.0),
    rate=st.floats(0.8, 1.0),
)
def test_a_healthy_pump_has_zero_residuals(frequency, share, head, rate):
    pumped = PUMPED._replace(correction=Correction(head=head, rate=rate, power=1.1))
    measured = healthy(frequency, share * 560 * frequency / 60 * rate / 1.12, pumped=pumped)

    found = residuals(PUMPS, measured, pumped)

    for name in NAMES:
        assert getattr(found, name).value == pytest.approx(0.0, abs=1e-6), name
        assert (getattr(found, name).reason == Reason.OK).all()


def test_a_worn_pump_has_less_head():
    measured = healthy()
    gain = measured.discharge_pressure_psi - 400.0

    found = residuals(PUMPS, measured._replace(discharge_pressure_psi=400.0 + 0.9 * gain), PUMPED)

    assert found.head.value == pytest.approx(-0.1)
    assert (found.flow.value > 0.05).all()


def test_calibration_removes_the_residuals():
    measured = healthy()
    gain = measured.discharge_pressure_psi - 400.0
    tested = measured._replace(discharge_pressure_psi=400.0 + 0.93 * gain)

    left = residuals(PUMPS, tested, PUMPED).head.value
    found = residuals(stack([Installed(an550(), 250, head_factor=1.0 + left[0])] * 3), tested, PUMPED)

    assert found.head.value == pytest.approx(0.0)
    assert found.flow.value == pytest.approx(0.0)


def test_a_tubing_leak_shows_in_flow_but_not_in_power_at_virtual_flow():
    measured = healthy()._replace(flow_rate_bpd=np.full(3, 330.0))

    found = residuals(PUMPS, measured, PUMPED)

    assert found.flow.value == pytest.approx(100 / 330)
    assert found.power_at_virtual_flow.value == pytest.approx(0.0, abs=1e-6)
    assert (found.head.value < -0.05).all()


def test_a_rubbing_pump_takes_more_power():
    measured = healthy()

    found = residuals(PUMPS, measured._replace(active_power_kw=1.15 * measured.active_power_kw), PUMPED)

    assert found.power.value == pytest.approx(0.15)
    assert found.head.value == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("frequency_hz", set(NAMES)),
        ("intake_pressure_psi", {"head", "power_at_virtual_flow", "flow"}),
        ("discharge_pressure_psi", {"head", "power_at_virtual_flow", "flow"}),
        ("flow_rate_bpd", {"head", "power", "flow"}),
        ("active_power_kw", {"power", "power_at_virtual_flow"}),
    ],
)
def test_nan_inputs_affect_only_the_residuals_that_need_them(missing, gone):
    measured = healthy()
    measured = measured._replace(**{missing: getattr(measured, missing) * np.array([1.0, np.nan, 1.0])})

    found = residuals(PUMPS, measured, PUMPED)

    for name in NAMES:
        residual = getattr(found, name)
        expected = [Reason.OK, Reason.MISSING if name in gone else Reason.OK, Reason.OK]
        assert residual.reason.tolist() == expected, name
        assert np.isnan(residual.value).tolist() == [reason != Reason.OK for reason in expected], name


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"frequency_hz": 0.0}, dict.fromkeys(NAMES, Reason.STOPPED)),
        ({"flow_rate_bpd": 0.0}, {"flow": Reason.STOPPED, "head": Reason.OK, "power": Reason.OK}),
        ({"flow_rate_bpd": 900.0}, {"head": Reason.BEYOND_CURVE, "power": Reason.BEYOND_CURVE}),
        ({"flow_rate_bpd": -5.0}, {"head": Reason.BEYOND_CURVE, "flow": Reason.STOPPED}),
        (
            {"discharge_pressure_psi": 6000.0},
            {"flow": Reason.ABOVE_CURVE, "power_at_virtual_flow": Reason.ABOVE_CURVE},
        ),
        ({"discharge_pressure_psi": 300.0}, {"flow": Reason.BELOW_CURVE}),
    ],
)
def test_missing_residuals_have_a_reason(change, reasons):
    found = residuals(PUMPS, healthy()._replace(**change), PUMPED)

    for name, reason in reasons.items():
        assert (getattr(found, name).reason == reason).all(), name
        assert (np.isnan(getattr(found, name).value) == (reason != Reason.OK)).all()


def test_a_gas_locked_pump_has_no_head_residual():
    locked = PUMPED._replace(correction=Correction(head=gas.head_factor(0.5)))

    found = residuals(PUMPS, healthy(), locked)

    assert (found.head.reason == Reason.NO_HEAD).all()
    assert (found.flow.reason == Reason.NO_HEAD).all()


def test_without_a_power_curve_or_an_efficiency_power_is_missing():
    bare = stack([Installed(PumpCurve("bare", an550().head_ft, 400, 700), 250)] * 3)

    assert (residuals(bare, healthy(), PUMPED).power.reason == Reason.MISSING).all()
    assert (
        residuals(PUMPS, healthy(), PUMPED._replace(drive_efficiency=np.nan)).power.reason == Reason.MISSING
    ).all()
    assert residuals(bare, healthy(), PUMPED).head.value == pytest.approx(0.0)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_columns_equal_single_evaluations(seed):
    random = np.random.default_rng(seed)
    shape = (2, 3)
    measured = Measured(
        frequency_hz=random.choice([0.0, 45.0, 55.0, np.nan], shape),
        intake_pressure_psi=random.uniform(100, 900, shape),
        discharge_pressure_psi=random.uniform(800, 2500, shape),
        flow_rate_bpd=random.choice([0.0, 300.0, 480.0, 1200.0, np.nan], shape),
        active_power_kw=random.uniform(5, 30, shape),
    )
    one = PUMPS.take(np.array([0]))

    together = residuals(PUMPS, measured, PUMPED)

    for place in np.ndindex(shape):
        alone = residuals(one, Measured(*(column[place] for column in measured)), PUMPED)
        for name in NAMES:
            there, here = getattr(together, name), getattr(alone, name)
            assert there.value[place] == pytest.approx(here.value[0], nan_ok=True)
            assert there.reason[place] == here.reason[0]
