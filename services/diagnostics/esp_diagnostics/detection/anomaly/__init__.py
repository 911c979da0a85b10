"""Anomaly detection: deviation of a pump from its own healthy history.

Healthy, steady running trains the `Detector` of one pump; an `AnomalyMonitor` scores the readings of many.
"""

from esp_diagnostics.detection.anomaly.model import Detector, DetectorInvalid, Learning, Settings
from esp_diagnostics.detection.anomaly.monitor import AnomalyMonitor
from esp_diagnostics.detection.anomaly.state import AnomalyVerdict
from esp_diagnostics.detection.anomaly.training import train

__all__ = ["AnomalyMonitor", "AnomalyVerdict", "Detector", "DetectorInvalid", "Learning", "Settings", "train"]
