"""The winding's temperature: where it settles, how fast it gets there, and the fit of both to a motor."""

import numpy as np

from esp_diagnostics.physics.arrays import Floats, Values


def loss_kw(motor_input_kw: Values, motor_efficiency: Values) -> Floats:
    """Return the heat made in the motor (kW), any shape: what goes in less what comes out at the shaft."""
    return np.asarray(motor_input_kw * (1.0 - np.asarray(motor_efficiency)))


def settled_c(intake_temp_c: Values, heat_kw: Values, resistance_c_per_kw: Values) -> Floats:
    """Return the winding's temperature in a steady state (°C), any shape: Tm = Ti + R_th·kW_loss."""
    return np.asarray(intake_temp_c + np.asarray(resistance_c_per_kw) * heat_kw)


def step_c(winding_c: Values, target_c: Values, step_s: Values, lag_s: Values) -> Floats:
    """Return the winding's temperature (°C) `step_s` after `winding_c`, on its way to `target_c`; any shape.

    First-order lag, exact for a target that stays: T' = T* + (T − T*)·exp(−Δt/τ).
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
    """Return the winding's temperature (°C) at each of `elapsed_s`.

    `elapsed_s` (T,) rises, in any steps; `intake_temp_c` and `heat_kw` (T, n) are held from one instant to
    the next; resistance and lag are (n,). It starts settled. NaN where an input is missing; meanwhile
    the winding goes on towards the last target known, and before there was one nothing is known.
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

    Instants with a missing value are left out; NaN for a pump that has none left or made no heat.
    """
    rise = motor_temp_c - intake_temp_c
    known = ~np.isnan(rise + heat_kw)
    heat = np.where(known, heat_kw, 0.0)
    squares = np.sum(heat**2, axis=0)
    explained = np.sum(heat * np.where(known, rise, 0.0), axis=0)
    return np.asarray(explained / np.where(squares > 0, squares, np.nan))
