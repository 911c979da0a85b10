"""Anomaly detection: what a pump's own healthy past makes improbable.

Features of healthy, steady running train a `Detector` of one pump; a `Watch` judges the readings of many.
"""

from esp_diagnostics.detection.anomaly.model import Detector, DetectorInvalid, Learning, Settings
from esp_diagnostics.detection.anomaly.monitor import AnomalyVerdict, Watch
from esp_diagnostics.detection.anomaly.training import train

__all__ = ["AnomalyVerdict", "Detector", "DetectorInvalid", "Learning", "Settings", "Watch", "train"]
