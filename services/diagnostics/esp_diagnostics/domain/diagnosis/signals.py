"""Signals: what a reading says of a pump, in quantities that a pump's own baseline is kept of."""

from typing import Final

SIGNALS: Final[dict[str, str]] = {
    "intake_pressure": "psi",
    "discharge_pressure": "psi",
    "pressure_gain": "psi",
    "current": "A",
    "active_power": "kW",
    "winding_rise": "°C",
    "intake_temp": "°C",
    "vibration": "g",
    "wellhead_pressure": "psi",
    "wellhead_temp": "°C",
    "flow_rate": "bpd",
    "casing_pressure": "psi",
    "volts_per_hertz": "V/Hz",
    "power_factor": "",
    "unbalance": "%",
    "insulation": "log10 MΩ",
    "leakage": "mA",
    "virtual_flow": "bpd",
    "head_residual": "",
    "power_residual": "",
    "gain_per_kw": "psi/kW",
}
"""Name and unit of each signal, in the order of the columns of a feature matrix."""

FEATURES: Final[tuple[str, ...]] = tuple(SIGNALS)
