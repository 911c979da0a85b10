"""Installed pumps as columns: head, power and efficiency at any frequency, rate and fluid."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from esp_diagnostics.physics.arrays import Bools, Floats, Values
from esp_diagnostics.physics.curve import WATER_HP_PER_BPD_FT, PumpCurve
from esp_diagnostics.physics.piecewise import PiecewisePolynomial, PiecewisePolynomials

HYDRAULIC_HP_PER_BPD_PSI: Final = 1.7014e-5

UNKNOWN_CURVE: Final = PiecewisePolynomial(np.zeros(1), np.full((1, 1), np.nan))


@dataclass(frozen=True, slots=True)
class Installed:
    """Pump as installed: the curve of its model and its number of stages.

    `head_factor` and `flow_factor` calibrate the curve's head and rate to the last well test: after a test
    with head residual rH, the head factor is multiplied by 1 + rH.
    """

    curve: PumpCurve
    stages: int
    head_factor: float = 1.0
    flow_factor: float = 1.0


class Correction(NamedTuple):
    """Factors on head, rate and shaft power of a water curve; each broadcasts to (..., n).

    Corrections of different causes multiply factor by factor (`times`).
    """

    head: Values = 1.0
    rate: Values = 1.0
    power: Values = 1.0

    def times(self, other: "Correction") -> "Correction":
        """Return the product of this correction and `other`."""
        return Correction(self.head * other.head, self.rate * other.rate, self.power * other.power)


WATER: Final = Correction()


@dataclass(frozen=True, slots=True)
class Pumps:
    """n installed pumps; every array has the pump on its last axis, rates (bpd) are at the curve's frequency.

    `falling_from_bpd` to `ends_at_bpd` is the falling branch; `joints_bpd` (K+1, n) the starts of the head's
    pieces clipped to it, plus its end; `joint_heads_ft` the head of one stage there; `starts_at_bpd` the
    first rate of the head curve; `power_from_bpd` to `power_to_bpd` the domain of power. NaN where
    unpublished.
    """

    head: PiecewisePolynomials
    power: PiecewisePolynomials
    rated_frequency_hz: Floats
    stages: Floats
    starts_at_bpd: Floats
    falling_from_bpd: Floats
    ends_at_bpd: Floats
    joints_bpd: Floats
    joint_heads_ft: Floats
    power_from_bpd: Floats
    power_to_bpd: Floats
    min_bpd: Floats
    best_bpd: Floats
    max_bpd: Floats
    gas_handler: Bools
    head_factor: Floats
    flow_factor: Floats

    def take(self, index: npt.NDArray[np.intp]) -> "Pumps":
        """Return the pumps at `index` (m,), in that order."""
        columns: dict[str, Any] = {column.name: getattr(self, column.name) for column in fields(self)}
        for name, column in columns.items():
            columns[name] = (
                column.take(index) if isinstance(column, PiecewisePolynomials) else column[..., index]
            )
        return Pumps(**columns)


def stack(installed: Sequence[Installed]) -> Pumps:
    """Return `installed` pumps as columns, in order."""
    curves = [pump.curve for pump in installed]
    powers = [curve.brake_hp for curve in curves]
    falling_from, ends_at = np.array([curve.falling_bpd for curve in curves]).T
    head = PiecewisePolynomials.stack([curve.head_ft.piecewise() for curve in curves])
    joints = np.vstack([np.clip(head.starts, falling_from, ends_at), ends_at])
    return Pumps(
        head=head,
        power=PiecewisePolynomials.stack(
            [UNKNOWN_CURVE if power is None else power.piecewise() for power in powers]
        ),
        rated_frequency_hz=np.array([curve.rated_frequency_hz for curve in curves]),
        stages=np.array([float(pump.stages) for pump in installed]),
        starts_at_bpd=np.array([curve.head_ft.first_bpd for curve in curves]),
        falling_from_bpd=falling_from,
        ends_at_bpd=ends_at,
        joints_bpd=joints,
        joint_heads_ft=head.value(joints),
        power_from_bpd=np.array([np.nan if power is None else power.first_bpd for power in powers]),
        power_to_bpd=np.array([np.nan if power is None else power.last_bpd for power in powers]),
        min_bpd=np.array([curve.min_bpd for curve in curves]),
        best_bpd=np.array([curve.best_bpd for curve in curves]),
        max_bpd=np.array([curve.max_bpd for curve in curves]),
        gas_handler=np.array([curve.gas_handler for curve in curves]),
        head_factor=np.array([pump.head_factor for pump in installed]),
        flow_factor=np.array([pump.flow_factor for pump in installed]),
    )


def speed_ratio(pumps: Pumps, frequency_hz: Values) -> Floats:
    """Return f/f₀ (..., n); NaN while stopped."""
    frequency = np.asarray(frequency_hz, dtype=np.float64)
    return np.where(frequency > 0, frequency, np.nan) / pumps.rated_frequency_hz


def rate_scale(pumps: Pumps, frequency_hz: Values, correction: Correction = WATER) -> Floats:
    """Return the factor from a rate of the curve to a rate of the pump (..., n).

    Product of affinity (Q ∝ f), the pump's flow factor and the fluid correction.
    """
    return np.asarray(speed_ratio(pumps, frequency_hz) * pumps.flow_factor * correction.rate)


def head_scale(pumps: Pumps, frequency_hz: Values, correction: Correction = WATER) -> Floats:
    """Return the factor from the head of one stage on the curve to the pump's head (..., n).

    Product of stages, affinity (H ∝ f²), the pump's head factor and the fluid correction.
    """
    speed = speed_ratio(pumps, frequency_hz)
    return np.asarray(pumps.stages * pumps.head_factor * speed**2 * correction.head)


def within_curve(pumps: Pumps, curve_rate_bpd: Floats) -> Bools:
    """Return whether rates `curve_rate_bpd` (..., n), at the curve's frequency, are on the head curve."""
    return np.asarray((curve_rate_bpd >= pumps.starts_at_bpd) & (curve_rate_bpd <= pumps.ends_at_bpd))


def head_ft(pumps: Pumps, frequency_hz: Values, rate_bpd: Values, correction: Correction = WATER) -> Floats:
    """Return the head (ft, (..., n)): H = N·(f/f₀)²·h(Q·f₀/f), corrected for the fluid.

    `rate_bpd` is the volume through the pump. NaN beyond the ends of the curve and while stopped. Source:
    affinity laws (Takacs, Electrical Submersible Pumps Manual, 2nd ed., ch. 4).
    """
    rate = _curve_rate(pumps, frequency_hz, rate_bpd, correction)
    stage = np.where(within_curve(pumps, rate), pumps.head.value(rate), np.nan)
    return head_scale(pumps, frequency_hz, correction) * stage


def brake_hp(
    pumps: Pumps,
    frequency_hz: Values,
    rate_bpd: Values,
    specific_gravity: Values,
    correction: Correction = WATER,
) -> Floats:
    """Return the shaft power (hp, (..., n)): BHP = N·SG·(f/f₀)³·p(Q·f₀/f), corrected for the fluid.

    NaN beyond the ends of the curve, where power is unpublished, and while stopped. Source: as `head_ft`.
    """
    rate = _curve_rate(pumps, frequency_hz, rate_bpd, correction)
    known = within_curve(pumps, rate) & (rate >= pumps.power_from_bpd) & (rate <= pumps.power_to_bpd)
    stage = np.where(known, pumps.power.value(rate), np.nan)
    speed = speed_ratio(pumps, frequency_hz)
    return np.asarray(pumps.stages * specific_gravity * speed**3 * correction.power * stage)


def hydraulic_hp(rate_bpd: Values, gain_psi: Values) -> Floats:
    """Return the hydraulic power (hp): 1.7014e-5·Q (bpd)·ΔP (psi)."""
    return np.asarray(HYDRAULIC_HP_PER_BPD_PSI * rate_bpd * gain_psi)


def efficiency(
    pumps: Pumps, frequency_hz: Values, rate_bpd: Values, correction: Correction = WATER
) -> Floats:
    """Return the pump efficiency (fraction, (..., n)): η = 7.37e-6·Q·H·SG/BHP.

    NaN where `head_ft` or `brake_hp` is NaN.
    """
    head = head_ft(pumps, frequency_hz, rate_bpd, correction)
    power = brake_hp(pumps, frequency_hz, rate_bpd, 1.0, correction)
    return np.asarray(WATER_HP_PER_BPD_FT * rate_bpd * head / power)


def _curve_rate(pumps: Pumps, frequency_hz: Values, rate_bpd: Values, correction: Correction) -> Floats:
    return np.asarray(rate_bpd / rate_scale(pumps, frequency_hz, correction))
