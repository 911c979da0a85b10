"""Readings of a pump that is made up, and a way to have a monitor watch them."""

import numpy as np
from esp_common.contracts.channels import CHANNEL_INDEX
from esp_common.contracts.readings import TRIP_CODE_ABSENT, empty_readings

MINUTE_US = 60_000_000
BEGIN_US = 1_700_000_000_000_000
STEADY = {
    "intake_pressure_psi": 600.0,
    "discharge_pressure_psi": 2600.0,
    "intake_temp_c": 80.0,
    "motor_temp_c": 105.0,
    "vibration_x_g": 0.1,
    "vibration_y_g": 0.1,
    "frequency_hz": 50.0,
    "motor_current_a": 40.0,
    "current_a_a": 40.0,
    "current_b_a": 40.2,
    "current_c_a": 39.8,
    "motor_voltage_v": 1000.0,
    "active_power_kw": 50.0,
    "wellhead_pressure_psi": 200.0,
    "choke_pct": 50.0,
}


def readings(minutes, pump="P-1", running=1, trip=TRIP_CODE_ABSENT, **changed):
    """Return a pump's readings at minutes after the beginning, a little noise on all that is measured."""
    minutes = np.asarray(minutes, dtype=np.float64)
    made = empty_readings(len(minutes))
    made.pump_id[:] = pump
    made.time_us[:] = BEGIN_US + (minutes * MINUTE_US).astype(np.int64)
    random = np.random.default_rng(int(minutes[0]) + 7)
    for name, value in {**STEADY, **changed}.items():
        noise = 0.0 if name in ("choke_pct", "frequency_hz") else 0.001 * random.standard_normal(len(minutes))
        made.values[:, CHANNEL_INDEX[name]] = value * (1.0 + noise)
    made.running[:] = running
    made.trip_code[:] = trip
    return made


def watch(monitor, made):
    none = np.zeros(len(made), dtype=np.int32)
    return monitor.observe(made, none, none)
