"""The decision tree: what a pump does, how far it is from its own healthy past, and what that means.

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
from esp_diagnostics.detection.tree.monitor import Monitor, Verdict
from esp_diagnostics.detection.tree.rules import Parameter, Rules, RulesInvalid, default_rules, load_rules
from esp_diagnostics.detection.tree.signals import FEATURES
from esp_diagnostics.detection.tree.spec import PumpSpec

__all__ = [
    "FEATURES",
    "SEVERITIES",
    "Assessment",
    "Evidence",
    "FeatureRows",
    "Hypothesis",
    "Monitor",
    "Parameter",
    "PumpSpec",
    "Rules",
    "RulesInvalid",
    "State",
    "Transition",
    "Verdict",
    "default_rules",
    "load_rules",
]
