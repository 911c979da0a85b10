"""Residuals: relative deviation of head, power and rate from the pump's curve."""

from typing import NamedTuple

import numpy as np

from esp_diagnostics.physics import fluids, motor
from esp_diagnostics.physics.arrays import Floats, Reason, Reasons, Values, first_reason
from esp_diagnostics.physics.pumps import (
    WATER,
    Correction,
    Pumps,
    brake_hp,
    head_ft,
    rate_scale,
    within_curve,
)
from esp_diagnostics.physics.virtual_flow import Flow, virtual_flow


class Measured(NamedTuple):
    """Measured values; each broadcasts to (..., n), NaN where missing.

    `flow_rate_bpd` is stock-tank liquid; pressures are gauge psi.
    """

    frequency_hz: Values
    intake_pressure_psi: Values
    discharge_pressure_psi: Values
    flow_rate_bpd: Values
    active_power_kw: Values


class Pumped(NamedTuple):
    """Properties of the pumped fluid and the drive; each broadcasts to (..., n).

    `mixture_gravity` in the pump, relative to water; `pump_volume` through the pump per volume of stock-tank
    liquid (`gas.at_intake` returns both); `drive_efficiency` shaft power over measured electrical power
    (motor, cable and transformers); `correction` for viscosity and gas.
    """

    mixture_gravity: Values
    pump_volume: Values = 1.0
    drive_efficiency: Values = np.nan
    correction: Correction = WATER


class Residual(NamedTuple):
    """Measured over modelled value, minus one (..., n); NaN where `reason` is not OK."""

    value: Floats
    reason: Reasons


class Residuals(NamedTuple):
    """Residuals of pumps; 0 means performance as on the curve.

    `head` rH and `power` rP are at the measured rate; `power_at_virtual_flow` is at the rate that corresponds
    to the head (near 0 while rQ is not: liquid recirculates through a tubing leak); `flow` rQ; `virtual_flow`
    the rate through the pump with its uncertainty.
    """

    head: Residual
    power: Residual
    power_at_virtual_flow: Residual
    flow: Residual
    virtual_flow: Flow


def residuals(
    pumps: Pumps, measured: Measured, pumped: Pumped, relative_head_sigma: Values = 0.01
) -> Residuals:
    """Return rH, rP and rQ of `pumps` (..., n).

    rH = ΔP/ΔP_model(Q, f) − 1; rP = kW/kW_model(Q, f) − 1; rQ = Q_model(ΔP, f)/Q − 1, with Q the surface rate
    at the pump's conditions. A missing input makes only the residuals that need it NaN.
    """
    rate = np.asarray(measured.flow_rate_bpd) * pumped.pump_volume
    gain = np.asarray(measured.discharge_pressure_psi) - measured.intake_pressure_psi
    made = fluids.head_ft(gain, pumped.mixture_gravity)
    virtual = virtual_flow(pumps, measured.frequency_hz, made, relative_head_sigma, pumped.correction)
    return Residuals(
        head=_head(pumps, measured, pumped, rate, made),
        power=_power(pumps, measured, pumped, rate),
        power_at_virtual_flow=_power_at(virtual, pumps, measured, pumped),
        flow=_flow(virtual, rate),
        virtual_flow=virtual,
    )


def _head(pumps: Pumps, measured: Measured, pumped: Pumped, rate: Floats, made: Floats) -> Residual:
    model = head_ft(pumps, measured.frequency_hz, rate, pumped.correction)
    return _compared(pumps, measured, pumped, rate, made, model)


def _power(pumps: Pumps, measured: Measured, pumped: Pumped, rate: Floats) -> Residual:
    shaft = brake_hp(pumps, measured.frequency_hz, rate, pumped.mixture_gravity, pumped.correction)
    model = motor.shaft_kw(shaft) / pumped.drive_efficiency
    return _compared(pumps, measured, pumped, rate, np.asarray(measured.active_power_kw), model)


def _power_at(virtual: Flow, pumps: Pumps, measured: Measured, pumped: Pumped) -> Residual:
    value, reason = _power(pumps, measured, pumped, virtual.rate_bpd)
    return Residual(value, np.where(virtual.reason == Reason.OK, reason, virtual.reason))


def _compared(
    pumps: Pumps, measured: Measured, pumped: Pumped, rate: Floats, actual: Floats, model: Floats
) -> Residual:
    frequency = np.asarray(measured.frequency_hz)
    on_curve = rate / rate_scale(pumps, frequency, pumped.correction)
    reason = first_reason(
        (np.isnan(frequency + rate + actual), Reason.MISSING),
        (frequency <= 0, Reason.STOPPED),
        (np.isnan(on_curve), Reason.MISSING),
        (~within_curve(pumps, on_curve), Reason.BEYOND_CURVE),
        (np.isnan(model), Reason.MISSING),
        (model <= 0, Reason.NO_HEAD),
    )
    return _residual(actual, model, reason)


def _flow(virtual: Flow, rate: Floats) -> Residual:
    reason = np.where(
        virtual.reason == Reason.OK,
        first_reason((np.isnan(rate), Reason.MISSING), (rate <= 0, Reason.STOPPED)),
        virtual.reason,
    )
    return _residual(virtual.rate_bpd, rate, reason)


def _residual(actual: Floats, model: Floats, reason: Reasons) -> Residual:
    ratio = actual / np.where(reason == Reason.OK, model, np.nan)
    return Residual(ratio - 1.0, reason)
