"""Well, fluid and motor: published anchors, and a pressure balance that closes."""

import numpy as np
import pytest
from esp_gateway.simulator import gas, inflow, motor, viscosity
from esp_gateway.simulator.faults import Causes
from esp_gateway.simulator.field import build_field
from esp_gateway.simulator.operation import Drive, operate
from hypothesis import given, settings
from hypothesis import strategies as st


def test_motors_draw_half_their_amps_at_a_third_of_their_load():
    assert 0.49 < float(motor.current_ratio(np.array(0.3), np.array(1.0))) < 0.58


def test_gas_takes_head_and_handlers_lose_less():
    voids = np.array([0.0, 0.1, 0.2, 0.3])

    assert gas.head_factor(voids, handler=False) == pytest.approx(1 + 0.6 * voids - 9 * voids**2)
    assert gas.head_factor(voids, handler=True) == pytest.approx(1 + 0.05 * voids - 2 * voids**2)


def test_cooling_velocity_of_the_worked_formula():
    assert motor.cooling_velocity_ft_s(np.array(1000.0), np.array(6.276), np.array(5.40)) == pytest.approx(
        1.165, abs=0.01
    )


def test_viscosity_is_faded_in_and_takes_efficiency_first():
    thin, chart, thick = (
        viscosity.correction(np.array(cst), np.array(15.0), np.array(550.0)) for cst in (1.0, 10.0, 50.0)
    )

    assert (thin.rate, thin.head, thin.efficiency) == (1.0, 1.0, 1.0)
    assert thick.efficiency < chart.efficiency < 1.0
    assert thick.efficiency < thick.rate < thick.head * 1.05


@given(reservoir=st.floats(800, 4000), bubble=st.floats(300, 3000), share=st.floats(0.05, 0.95))
def test_inflow_is_continuous_and_falls_with_bottomhole_pressure(reservoir, bubble, share):
    one, pr, pb = np.array(1.0), np.array(reservoir), np.array(bubble)
    low, high = np.array(share * reservoir - 1), np.array(share * reservoir + 1)

    step = inflow.inflow_bpd(low, pr, one, pb) - inflow.inflow_bpd(high, pr, one, pb)

    assert 0 < step < 4
    assert inflow.inflow_bpd(pr, pr, one, pb) == pytest.approx(0)


@settings(max_examples=40, deadline=None)
@given(
    frequency=st.floats(0, 70),
    intake=st.floats(100, 2500),
    leak=st.floats(0, 0.6),
    valve=st.floats(0, 1),
    clearance=st.floats(0, 0.5),
    dead=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
)
def test_pressures_balance_at_every_operating_point(
    small_field, frequency, intake, leak, valve, clearance, dead
):
    model, wells = small_field._model, small_field.wells
    n = len(wells.stages)
    slow = model._slow._replace(intake_psi=np.full(n, intake))
    on, off = np.full(n, True), np.full(n, False)
    drive = Drive(on, off, off, np.full(n, frequency))

    seen = operate(
        wells, slow, drive, Causes(leak=leak, closed_valve=valve, clearance=clearance, dead_stages=dead)
    )

    back_pressure = seen.wellhead_psi + slow.gradient_psi_ft * wells.depth_ft
    flowing = seen.surface_rate_bpd > 1.0
    friction = (seen.discharge_psi - back_pressure)[flowing]
    assert (friction > -0.5).all()
    assert (friction < 400).all()
    assert (seen.discharge_psi[~flowing] < back_pressure[~flowing] + 1.0).all()
    assert (seen.surface_rate_bpd >= 0).all()


def test_wells_settle_where_they_were_designed(small_field):
    seen = small_field._model._seen

    assert seen.surface_rate_bpd == pytest.approx(small_field.wells.design_rate_bpd, rel=0.01)
    assert small_field._model._slow.intake_psi == pytest.approx(small_field.wells.design_intake_psi, rel=0.01)


@pytest.fixture(scope="module")
def small_field():
    return build_field(5, pumps=8)
