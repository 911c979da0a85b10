"""The motor: load, power, current, speed, cooling and balance."""

from typing import Final

import numpy as np

from esp_diagnostics.physics.arrays import Floats, Values

KW_PER_HP: Final = 0.745700
TWO_POLE_60_HZ_RPM: Final = 3500.0
"""Speed at which makers publish their 60 Hz curves: a two-pole induction motor's, with its slip."""

NO_LOAD_CURRENT_SHARE: Final = 0.47
"""Of rated current; gives 54 % of rated amps at 30 % load, where most motors draw 49-58 %."""

NO_LOAD_LOSS_SHARE: Final = 0.3
"""Of the loss at rated load: iron, windage and bearings, which do not go with the load."""


def load(brake_hp: Values, rated_hp: Values, frequency_hz: Values, rated_frequency_hz: Values) -> Floats:
    """Return the motor's load (1 = nameplate), any shape: BHP/(HP·f/f_rated); NaN where it does not turn.

    A motor on constant volts per hertz has a constant torque to give, so its power goes with frequency.
    """
    frequency = np.asarray(frequency_hz, dtype=np.float64)
    available = rated_hp * np.where(frequency > 0, frequency, np.nan) / rated_frequency_hz
    return np.asarray(brake_hp / available)


def input_kw(voltage_v: Values, current_a: Values, power_factor: Values) -> Floats:
    """Return three-phase power (kW) from line volts, amps and power factor, any shape: √3·V·I·PF/1000."""
    return np.asarray(np.sqrt(3.0) * np.asarray(voltage_v) * current_a * power_factor / 1000.0)


def shaft_kw(brake_hp: Values) -> Floats:
    """Return horsepower as kW, any shape."""
    return np.asarray(np.asarray(brake_hp) * KW_PER_HP)


def efficiency_at_load(
    motor_load: Values, rated_efficiency: Values, no_load_share: Values = NO_LOAD_LOSS_SHARE
) -> Floats:
    """Return the motor's efficiency (fraction) at a load (1 = nameplate), any shape; 0 at no load.

    Losses separated into a constant part and one that goes with the square of the load (IEEE 112,
    method E): loss = loss_rated·(k + (1 − k)·L²).
    """
    useful = np.asarray(motor_load, dtype=np.float64)
    rated_loss = 1.0 / np.asarray(rated_efficiency) - 1.0
    loss = rated_loss * (no_load_share + (1.0 - np.asarray(no_load_share)) * useful**2)
    return np.asarray(useful / (useful + loss))


def induction_current_share(motor_load: Values, no_load_share: Values = NO_LOAD_CURRENT_SHARE) -> Floats:
    """Return I/I_rated of an induction motor at a load (1 = nameplate) and its volts per hertz, any shape.

    √(m² + (1 − m²)·L²): the magnetising current m stays, the active one goes with the load, and they are
    a quarter turn apart. So amps say little about a low load; kW do.
    """
    magnetising = np.square(no_load_share)
    return np.asarray(np.sqrt(magnetising + (1.0 - magnetising) * np.square(motor_load)))


def permanent_magnet_current_share(motor_load: Values) -> Floats:
    """Return I/I_rated of a permanent-magnet motor at a load (1 = nameplate), any shape: the load itself.

    Its magnets make the field, so that current is torque alone (drives hold the direct-axis current at zero).
    """
    return np.asarray(motor_load, dtype=np.float64) + 0.0


def synchronous_rpm(frequency_hz: Values, pole_pairs: Values, slip: Values = 0.0) -> Floats:
    """Return the shaft's speed (rpm), any shape: 60·f/p·(1 − s); a permanent-magnet motor has no slip."""
    return np.asarray(60.0 * np.asarray(frequency_hz) / pole_pairs * (1.0 - np.asarray(slip)))


def curve_frequency_hz(shaft_rpm: Values) -> Floats:
    """Return the frequency (Hz) to read pump curves at for a shaft's speed, any shape.

    Affinity goes with speed. Curves are published for two-pole induction motors, 3500 rpm at 60 Hz; a
    permanent-magnet motor with two pole pairs at 120 Hz turns its pump like one of those at 61.7 Hz.
    """
    return np.asarray(shaft_rpm) * (60.0 / TWO_POLE_60_HZ_RPM)


def cooling_velocity_ft_s(rate_bpd: Values, casing_bore_in: Values, motor_od_in: Values) -> Floats:
    """Return the liquid's velocity past the motor (ft/s), any shape: 0.0119·Q/(ID² − OD²).

    At least 1 ft/s is wanted (API RP 11S4). NaN where the motor does not fit into the casing.
    """
    gap = np.square(casing_bore_in) - np.square(motor_od_in)
    return np.asarray(0.0119 * np.asarray(rate_bpd) / np.where(gap > 0, gap, np.nan))


def unbalance_pct(current_a_a: Values, current_b_a: Values, current_c_a: Values) -> Floats:
    """Return the phases' unbalance (%), any shape: 100·max|I − Ī|/Ī; NaN where no current flows.

    Source: NEMA MG 1's definition for voltages, applied to currents as API RP 11S does.
    """
    phases = np.stack(np.broadcast_arrays(current_a_a, current_b_a, current_c_a)).astype(np.float64)
    mean = phases.mean(axis=0)
    furthest = np.abs(phases - mean).max(axis=0)
    return np.asarray(100.0 * furthest / np.where(mean > 0, mean, np.nan))
