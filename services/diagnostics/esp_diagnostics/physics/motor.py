"""Motor: load, power, current, speed, cooling and current unbalance."""

from typing import Final

import numpy as np

from esp_diagnostics.physics.arrays import Floats, Values

KW_PER_HP: Final = 0.745700
TWO_POLE_60_HZ_RPM: Final = 3500.0
"""Speed of published 60 Hz curves: a two-pole induction motor with slip."""

NO_LOAD_CURRENT_SHARE: Final = 0.47
"""No-load share of rated current; gives 54 % of rated amps at 30 % load, where most motors draw 49-58 %."""

NO_LOAD_LOSS_SHARE: Final = 0.3
"""Share of the rated loss that does not depend on load: iron, windage and bearings."""


def load(brake_hp: Values, rated_hp: Values, frequency_hz: Values, rated_frequency_hz: Values) -> Floats:
    """Return the motor load (1 = nameplate), any shape: BHP/(HP·f/f_rated); NaN while stopped.

    At constant volts per hertz the available torque is constant, so the available power is proportional to
    frequency.
    """
    frequency = np.asarray(frequency_hz, dtype=np.float64)
    available = rated_hp * np.where(frequency > 0, frequency, np.nan) / rated_frequency_hz
    return np.asarray(brake_hp / available)


def input_kw(voltage_v: Values, current_a: Values, power_factor: Values) -> Floats:
    """Return three-phase power (kW) from line volts, amps and power factor, any shape: √3·V·I·PF/1000."""
    return np.asarray(np.sqrt(3.0) * np.asarray(voltage_v) * current_a * power_factor / 1000.0)


def shaft_kw(brake_hp: Values) -> Floats:
    """Convert horsepower to kW, any shape."""
    return np.asarray(np.asarray(brake_hp) * KW_PER_HP)


def efficiency_at_load(
    motor_load: Values, rated_efficiency: Values, no_load_share: Values = NO_LOAD_LOSS_SHARE
) -> Floats:
    """Return the motor efficiency (fraction) at a load (1 = nameplate), any shape; 0 at no load.

    Segregated losses (IEEE 112, method E), constant plus proportional to load squared: loss = loss_rated·(k +
    (1 − k)·L²).
    """
    useful = np.asarray(motor_load, dtype=np.float64)
    rated_loss = 1.0 / np.asarray(rated_efficiency) - 1.0
    loss = rated_loss * (no_load_share + (1.0 - np.asarray(no_load_share)) * useful**2)
    return np.asarray(useful / (useful + loss))


def induction_current_share(motor_load: Values, no_load_share: Values = NO_LOAD_CURRENT_SHARE) -> Floats:
    """Return I/I_rated of an induction motor at a load (1 = nameplate) and rated volts per hertz, any shape.

    √(m² + (1 − m²)·L²): the magnetising current m is constant, the active current is proportional to load,
    and they are 90° apart. Current is therefore a poor measure of low loads; use kW.
    """
    magnetising = np.square(no_load_share)
    return np.asarray(np.sqrt(magnetising + (1.0 - magnetising) * np.square(motor_load)))


def permanent_magnet_current_share(motor_load: Values) -> Floats:
    """Return I/I_rated of a permanent-magnet motor at a load (1 = nameplate), any shape: the load itself.

    The magnets provide the field, so current is proportional to torque (drives hold the direct-axis current
    at zero).
    """
    return np.asarray(motor_load, dtype=np.float64) + 0.0


def synchronous_rpm(frequency_hz: Values, pole_pairs: Values, slip: Values = 0.0) -> Floats:
    """Return the shaft speed (rpm), any shape: 60·f/p·(1 − s); a permanent-magnet motor has no slip."""
    return np.asarray(60.0 * np.asarray(frequency_hz) / pole_pairs * (1.0 - np.asarray(slip)))


def curve_frequency_hz(shaft_rpm: Values) -> Floats:
    """Return the frequency (Hz) at which to read pump curves for a shaft speed, any shape.

    Affinity laws apply to speed. Published curves assume two-pole induction motors, 3500 rpm at 60 Hz. A
    permanent-magnet motor with two pole pairs at 120 Hz runs its pump like such a motor at 61.7 Hz.
    """
    return np.asarray(shaft_rpm) * (60.0 / TWO_POLE_60_HZ_RPM)


def cooling_velocity_ft_s(rate_bpd: Values, casing_bore_in: Values, motor_od_in: Values) -> Floats:
    """Return the liquid velocity past the motor (ft/s), any shape: 0.0119·Q/(ID² − OD²).

    API RP 11S4 recommends at least 1 ft/s. NaN if the motor does not fit into the casing.
    """
    gap = np.square(casing_bore_in) - np.square(motor_od_in)
    return np.asarray(0.0119 * np.asarray(rate_bpd) / np.where(gap > 0, gap, np.nan))


def unbalance_pct(current_a_a: Values, current_b_a: Values, current_c_a: Values) -> Floats:
    """Return the current unbalance (%), any shape: 100·max|I − Ī|/Ī; NaN without current.

    Source: NEMA MG 1's definition for voltages, applied to currents as in API RP 11S.
    """
    phases = np.stack(np.broadcast_arrays(current_a_a, current_b_a, current_c_a)).astype(np.float64)
    mean = phases.mean(axis=0)
    furthest = np.abs(phases - mean).max(axis=0)
    return np.asarray(100.0 * furthest / np.where(mean > 0, mean, np.nan))
