"""One well and its pump: fluid in the pump, operating point, and curve in that fluid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from esp_diagnostics.physics import fluids, gas, motor
from esp_diagnostics.physics.arrays import Floats, Reason
from esp_diagnostics.physics.operating_point import Thrust, operating_point
from esp_diagnostics.physics.pumps import Installed, Pumps, brake_hp, efficiency, head_ft, stack
from esp_diagnostics.physics.virtual_flow import virtual_flow

TYPICAL_GRAVITY: Final = 0.92
TYPICAL_VOLUME: Final = 1.1
"""Specific gravity in the pump and volume per stock-tank volume, used while the fluid is unknown."""

HEAD_SIGMA: Final = 0.03
"""Relative standard uncertainty of a head: two gauges, fluid density and the curve."""

CURVE_POINTS: Final = 41
USUAL_HZ: Final = (35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0, 70.0)


@dataclass(frozen=True, slots=True)
class Well:
    """Pump in its well; `facts`: known numbers of fluid, tubing and limits, by name."""

    installed: Installed
    facts: Mapping[str, Any]
    motor_rated_kw: float | None = None
    motor_rated_frequency_hz: float | None = None
    setting_depth_ft: float | None = None

    def fact(self, name: str) -> float | None:
        """Return a known number, else None."""
        value = self.facts.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Present:
    """Measurements at one time; NaN where missing. `flow_rate_bpd` is stock-tank liquid."""

    frequency_hz: float = np.nan
    intake_pressure_psi: float = np.nan
    discharge_pressure_psi: float = np.nan
    intake_temp_c: float = np.nan
    flow_rate_bpd: float = np.nan
    water_cut_pct: float = np.nan
    wellhead_pressure_psi: float = np.nan
    choke_pct: float = np.nan
    active_power_kw: float = np.nan

    @property
    def gain_psi(self) -> float:
        """Pressure added by the pump."""
        return self.discharge_pressure_psi - self.intake_pressure_psi


@dataclass(frozen=True, slots=True)
class Fluid:
    """Fluid in the pump: specific gravity, volume per stock-tank volume, gas; and the assumptions made."""

    gravity: float
    pump_volume: float
    gas_void_fraction: float
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """Operating point; rates through the pump (bpd), NaN where unknown.

    `rate_bpd` is the measured rate if available, else the virtual one with standard uncertainty
    `virtual_sigma_bpd`; `source` tells which. `reason`: why the virtual rate is missing.
    """

    frequency_hz: float
    rate_bpd: float
    source: str
    measured_rate_bpd: float
    virtual_rate_bpd: float
    virtual_sigma_bpd: float
    reason: str
    head_ft: float
    fraction_of_best: float
    thrust: str
    brake_hp: float
    efficiency: float
    motor_load: float


@dataclass(frozen=True, slots=True)
class CurveAt:
    """Curve of a pump in its fluid at one frequency, as columns over `rate_bpd`, with range and best rate."""

    frequency_hz: float
    rate_bpd: Floats
    head_ft: Floats
    efficiency: Floats
    brake_hp: Floats
    min_bpd: float
    best_bpd: float
    max_bpd: float
    min_head_ft: float
    max_head_ft: float


def fluid_of(well: Well, present: Present) -> Fluid:
    """Return the fluid in the pump from known oil and gas properties, else with typical values.

    Gas follows `gas.at_intake`. A known `mixture_gravity` overrides the computed one.
    """
    known_gravity = well.fact("mixture_gravity")
    water_cut = present.water_cut_pct if not np.isnan(present.water_cut_pct) else well.fact("water_cut_pct")
    api, gor = well.fact("oil_api"), well.fact("gas_oil_ratio_scf_stb")
    if api is None or water_cut is None:
        lacking = " and ".join(
            name for name, value in (("oil_api", api), ("water_cut_pct", water_cut)) if value is None
        )
        assumed = [f"{lacking} unknown: {TYPICAL_VOLUME:g} volumes at the intake per stock-tank volume"]
        if known_gravity is None:
            assumed.append(f"specific gravity in the pump assumed {TYPICAL_GRAVITY:g}")
        return Fluid(known_gravity or TYPICAL_GRAVITY, TYPICAL_VOLUME, np.nan, tuple(assumed))
    assumptions = [] if gor is not None else ["gas_oil_ratio_scf_stb unknown: assumed 0"]
    intake = gas.at_intake(
        gas.Produced(
            water_cut,
            api,
            gor or 0.0,
            well.fact("gas_gravity") or 0.75,
            well.fact("water_gravity") or 1.02,
            well.fact("separator_efficiency") or 0.0,
        ),
        present.intake_pressure_psi,
        present.intake_temp_c,
    )
    if np.isnan(intake.mixture_gravity):
        dead = fluids.liquid_gravity(water_cut, fluids.oil_gravity(api), well.fact("water_gravity") or 1.02)
        assumptions.append("intake pressure or temperature missing: dead oil and water without gas")
        return Fluid(known_gravity or float(dead), TYPICAL_VOLUME, np.nan, tuple(assumptions))
    return Fluid(
        known_gravity or float(intake.mixture_gravity),
        float(intake.pump_volume),
        float(intake.gas_void_fraction),
        tuple(assumptions),
    )


def point_of(well: Well, present: Present, fluid: Fluid) -> Point:
    """Return the operating point."""
    pumps = stack([well.installed])
    made = fluids.head_ft(present.gain_psi, fluid.gravity)
    virtual = virtual_flow(pumps, present.frequency_hz, made, HEAD_SIGMA)
    virtual_rate, sigma = _only(virtual.rate_bpd), _only(virtual.sigma_bpd)
    measured = present.flow_rate_bpd * fluid.pump_volume
    rate, source = (virtual_rate, "virtual") if np.isnan(measured) else (measured, "measured")
    place = operating_point(pumps, present.frequency_hz, rate)
    shaft_hp = _only(brake_hp(pumps, present.frequency_hz, rate, fluid.gravity))
    return Point(
        frequency_hz=present.frequency_hz,
        rate_bpd=rate,
        source="none" if np.isnan(rate) else source,
        measured_rate_bpd=measured,
        virtual_rate_bpd=virtual_rate,
        virtual_sigma_bpd=sigma,
        reason=Reason(int(_only(virtual.reason))).name.lower(),
        head_ft=float(made),
        fraction_of_best=_only(place.fraction_of_best),
        thrust=Thrust(int(_only(place.thrust))).name.lower(),
        brake_hp=shaft_hp,
        efficiency=_only(efficiency(pumps, present.frequency_hz, rate)),
        motor_load=motor_load(well, shaft_hp, present.frequency_hz),
    )


def motor_load(well: Well, shaft_hp: float, frequency_hz: float) -> float:
    """Return the motor load (1 = nameplate) at a shaft power; NaN without nameplate rating."""
    if well.motor_rated_kw is None:
        return float("nan")
    rated_hp = well.motor_rated_kw / motor.KW_PER_HP
    return float(motor.load(shaft_hp, rated_hp, frequency_hz, well.motor_rated_frequency_hz or 60.0))


def curves_of(well: Well, frequencies_hz: Sequence[float], fluid: Fluid) -> list[CurveAt]:
    """Return the pump's curve at each frequency, over its falling branch."""
    pumps = stack([well.installed])
    return [_curve(pumps, frequency, fluid.gravity) for frequency in frequencies_hz]


def shown_frequencies_hz(present_hz: float, rated_hz: float) -> list[float]:
    """Return the frequencies to plot curves at: the usual ones, and the present one while running.

    Permanent-magnet motors run far from the usual frequencies: return seven from 60 to 120 % of the present
    one.
    """
    around = present_hz if present_hz > 0 else rated_hz
    if not USUAL_HZ[0] * 0.7 <= around <= USUAL_HZ[-1] * 1.1:
        return sorted({round(around * share, 2) for share in (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)})
    return sorted({*USUAL_HZ, round(around, 2)})


def _curve(pumps: Pumps, frequency_hz: float, gravity: float) -> CurveAt:
    speed = frequency_hz / float(pumps.rated_frequency_hz[0]) * float(pumps.flow_factor[0])
    first, last = float(pumps.falling_from_bpd[0]) * speed, float(pumps.ends_at_bpd[0]) * speed
    # The pump is on the last axis. The ends are moved inwards, since rounding may put them beyond the curve.
    rates = np.linspace(first, last, CURVE_POINTS)[:, None]
    rates = np.clip(rates, first * (1 + 1e-12), last * (1 - 1e-12))
    place = operating_point(pumps, frequency_hz, np.nan)
    low, best, high = _only(place.min_bpd), _only(place.best_bpd), _only(place.max_bpd)
    return CurveAt(
        frequency_hz=frequency_hz,
        rate_bpd=rates[:, 0],
        head_ft=head_ft(pumps, frequency_hz, rates)[:, 0],
        efficiency=efficiency(pumps, frequency_hz, rates)[:, 0],
        brake_hp=brake_hp(pumps, frequency_hz, rates, gravity)[:, 0],
        min_bpd=low,
        best_bpd=best,
        max_bpd=high,
        min_head_ft=_only(head_ft(pumps, frequency_hz, low)),
        max_head_ft=_only(head_ft(pumps, frequency_hz, high)),
    )


def _only(values: Any) -> float:
    """Return the single value of an array over one pump."""
    return float(np.asarray(values).reshape(-1)[0])
