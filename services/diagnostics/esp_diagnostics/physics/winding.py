"""Winding temperature: steady state, first-order lag, and fit of the thermal resistance."""

import numpy as np

from esp_diagnostics.physics.arrays import Floats, Values


def loss_kw(motor_input_kw: Values, motor_efficiency: Values) -> Floats:
    """Return the heat loss of the motor (kW), any shape: input power less shaft power."""
    return np.asarray(motor_input_kw * (1.0 - np.asarray(motor_efficiency)))


def settled_c(intake_temp_c: Values, heat_kw: Values, resistance_c_per_kw: Values) -> Floats:
    """Return the steady-state winding temperature (°C), any shape: Tm = Ti + R_th·kW_loss."""
    return np.asarray(intake_temp_c + np.asarray(resistance_c_per_kw) * heat_kw)


def step_c(winding_c: Values, target_c: Values, step_s: Values, lag_s: Values) -> Floats:
    """Return the winding temperature (°C) `step_s` after `winding_c`, tending to `target_c`; any shape.

    First-order lag, exact for a constant target: T' = T* + (T − T*)·exp(−Δt/τ).
    """
    kept = np.exp(-np.asarray(step_s) / lag_s)
    return np.asarray(target_c + (np.asarray(winding_c) - target_c) * kept)


def winding_c(
    elapsed_s: Floats,
    intake_temp_c: Floats,
    heat_kw: Floats,
    resistance_c_per_kw: Values,
    lag_s: Values,
) -> Floats:
    """Return the winding temperature (°C) at each of `elapsed_s`.

    `elapsed_s` (T,) rises in any steps; `intake_temp_c` and `heat_kw` (T, n) are held until the next instant;
    resistance and lag are (n,). The winding starts in steady state. NaN where an input is missing; meanwhile
    the temperature tends to the last known target.
    """
    targets = settled_c(intake_temp_c, heat_kw, resistance_c_per_kw)
    temperatures = np.empty_like(targets)
    if not len(targets):
        return temperatures
    winding = target = targets[0]
    for instant, (step_s, arriving) in enumerate(
        zip(np.diff(elapsed_s, prepend=elapsed_s[0]), targets, strict=True)
    ):
        winding = step_c(winding, target, step_s, lag_s)
        target = np.where(np.isnan(arriving), target, arriving)
        winding = np.where(np.isnan(winding), target, winding)
        temperatures[instant] = np.where(np.isnan(arriving), np.nan, winding)
    return temperatures


def fit_resistance_c_per_kw(intake_temp_c: Floats, motor_temp_c: Floats, heat_kw: Floats) -> Floats:
    """Return R_th (°C/kW, (n,)) of steady readings (T, n): least squares of Tm − Ti = R_th·kW_loss.

    Instants with a missing value are ignored; NaN for a pump without usable instants or without heat.
    """
    rise = motor_temp_c - intake_temp_c
    known = ~np.isnan(rise + heat_kw)
    heat = np.where(known, heat_kw, 0.0)
    squares = np.sum(heat**2, axis=0)
    explained = np.sum(heat * np.where(known, rise, 0.0), axis=0)
    return np.asarray(explained / np.where(squares > 0, squares, np.nan))
