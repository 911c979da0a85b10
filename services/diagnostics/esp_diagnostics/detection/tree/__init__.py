"""Decision tree: pump state, deviation from the pump's own healthy baseline, and conditions.

Order: gauge, state, electrical, no flow, residuals, trends. The rules are data (`rules.yaml`).
"""

from esp_diagnostics.detection.tree.findings import (
    SEVERITIES,
    Assessment,
    Evidence,
    FeatureRows,
    Hypothesis,
    State,
    Transition,
)
from esp_diagnostics.detection.tree.monitor import TreeMonitor, Verdict
from esp_diagnostics.detection.tree.rule_parser import default_rules, load_rules
from esp_diagnostics.detection.tree.rules import Parameter, Rules, RulesInvalid
from esp_diagnostics.detection.tree.signals import FEATURES
from esp_diagnostics.detection.tree.spec import PumpSpec

__all__ = [
    "FEATURES",
    "SEVERITIES",
    "Assessment",
    "Evidence",
    "FeatureRows",
    "Hypothesis",
    "Parameter",
    "PumpSpec",
    "Rules",
    "RulesInvalid",
    "State",
    "Transition",
    "TreeMonitor",
    "Verdict",
    "default_rules",
    "load_rules",
]
