"""Rules of the tree: shipped rules and validation."""

import pytest
from esp_diagnostics.detection.tree import RulesInvalid, default_rules, load_rules
from esp_diagnostics.detection.tree.parameters import parameters_of
from esp_gateway.simulator.faults import Fault

SHIPPED = default_rules()


def problems(before, after):
    assert before in SHIPPED.text
    with pytest.raises(RulesInvalid) as refused:
        load_rules(SHIPPED.text.replace(before, after, 1))
    return {problem["where"]: problem["what"] for problem in refused.value.fields}


def test_shipped_rules_cover_every_simulated_fault():
    assert {fault.value for fault in Fault} <= set(SHIPPED.conditions)


def test_every_condition_has_an_action():
    assert all(len(condition.action) > 20 for condition in SHIPPED.conditions.values())


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("indicator: lowest_phase", "indicator: lowest_phasor", "conditions.open_phase.require[0].indicator"),
        ("from: 75, to: 60", "from: 75, to: 75", "conditions.open_phase.require[0]"),
        ("$supply_swing_pct", "$no_such", "conditions.supply_fluctuation.require[0].to"),
        ("severity: critical", "severity: dreadful", "conditions.open_phase.severity"),
        ("delay_min: 1\n", "delay_min: soon\n", "conditions.open_phase.delay_min"),
        ("explains: [gas_interference]\n", "explains: [gremlins]\n", "conditions.insulation_fault.explains"),
        ("default: 12, unit: h", "default: .nan, unit: h", "parameters.baseline_h.default"),
        ("default: 12, unit: h", "default: 1000, unit: h", "parameters.baseline_h"),
        ("  smoothing_min:", "  smoothing_minutes:", "parameters.smoothing_min"),
        ("version:", "versions:", "version"),
    ],
)
def test_problems_are_reported_with_their_place(before, after, where):
    assert where in problems(before, after)


def test_all_problems_are_reported_at_once():
    text = SHIPPED.text.replace("stage: gauge", "stage: gouge").replace("from: 75, to: 60", "from: 75, to: x")

    with pytest.raises(RulesInvalid) as refused:
        load_rules(text)

    assert len(refused.value.fields) == 2


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "a: [", "version: '1'", "x" * 300_000, "[" * 1200, "a: &a [1]\nb: *a"],
    ids=["empty", "list", "broken", "bare", "long", "deep", "alias"],
)
def test_invalid_rules_are_rejected(text):
    with pytest.raises(RulesInvalid):
        load_rules(text)


def test_overrides_are_clamped_to_their_bounds():
    names = list(SHIPPED.parameters)
    table = parameters_of(SHIPPED, [{}, {"delay_min": 30.0}, {"delay_min": 1e9}, {"no_such": 1.0}])

    assert table[:, names.index("delay_min")].tolist() == [15.0, 30.0, 1440.0, 15.0]
