"""Part of the tree evaluation: key faults on independent wells, and healthy days."""

import pytest
from esp_diagnostics.detection.tree import default_rules
from esp_gateway.simulator.faults import Fault
from evaluation import tree

pytestmark = pytest.mark.slow

KEY = (
    Fault.GAS_LOCK,
    Fault.BROKEN_SHAFT,
    Fault.TUBING_HOLE,
    Fault.DEADHEAD,
    Fault.OVERLOAD,
    Fault.LOST_COOLING,
    Fault.INFLOW_LOSS,
    Fault.GAUGE_FAILURE,
)


@pytest.fixture(scope="module")
def scores():
    return tree.judge_faults((201, 202), default_rules(), KEY, quick=True)


@pytest.mark.parametrize("fault", KEY, ids=str)
def test_the_tree_finds_key_faults(scores, fault):
    answers = [outcome.final for outcome in scores.outcomes if outcome.case.fault is fault]

    assert answers == [fault.value] * 2


def test_a_gauge_fault_raises_no_well_condition(scores):
    assert scores.gauge_as_well() == 0


def test_healthy_days_raise_no_findings():
    healthy = tree.judge_healthy((201, 202), default_rules(), days=1.5, wells=2, busy=10.0)

    assert healthy.gauge_windows > 0
    assert healthy.false == []
