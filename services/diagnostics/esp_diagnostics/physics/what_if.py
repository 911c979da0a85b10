"""Predict the operating point at another frequency or choke, from the curve and an inflow model."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from esp_common.errors import InvalidInput

from esp_diagnostics.physics import fluids
from esp_diagnostics.physics.arrays import Floats
from esp_diagnostics.physics.operating_point import Thrust, operating_point
from esp_diagnostics.physics.pumps import brake_hp, head_ft, stack
from esp_diagnostics.physics.well import Fluid, Point, Present, Well, motor_load

RATES: Final = 801
"""Rates at which the pressure balance is evaluated; interpolation between them is nearly exact."""

LINE_SHARE: Final = 0.5
"""Flowline share of the wellhead pressure while the flowline pressure is unknown."""


class InsufficientData(InvalidInput):
    """Required data of the pump or its well are missing."""

    code, title = "cannot-tell", "Insufficient data"


@dataclass(frozen=True, slots=True)
class Setting:
    """Frequency (Hz) and choke opening (%), NaN where the choke is unknown."""

    frequency_hz: float
    choke_pct: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Operating point at a setting; `rate_bpd` is stock-tank liquid, `pump_rate_bpd` through the pump."""

    frequency_hz: float
    choke_pct: float
    rate_bpd: float
    pump_rate_bpd: float
    intake_pressure_psi: float
    discharge_pressure_psi: float
    wellhead_pressure_psi: float
    head_ft: float
    fraction_of_best: float
    thrust: str
    brake_hp: float
    motor_load: float
    active_power_kw: float


@dataclass(frozen=True, slots=True)
class WhatIfResult:
    """Outcomes at the present and the requested setting by the same model, with assumptions and warnings."""

    now: Outcome
    then: Outcome
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _System:
    """Model of the well around the pump, linearized at the present point.

    Intake pressure falls by `draw_psi_per_bpd`. A share of the wellhead pressure drops over the choke with
    the square of rate over opening (orifice). Friction follows Hazen-Williams.
    """

    well: Well
    present: Present
    fluid: Fluid
    rate_bpd: float
    draw_psi_per_bpd: float
    line_psi: float
    head_share: float
    """Measured head over curve head; assumed equal at the requested setting."""

    def intake_psi(self, rate_bpd: Floats) -> Floats:
        return self.present.intake_pressure_psi - self.draw_psi_per_bpd * (rate_bpd - self.rate_bpd)

    def wellhead_psi(self, rate_bpd: Floats, choke_pct: float) -> Floats:
        over_choke = self.present.wellhead_pressure_psi - self.line_psi
        opening = 1.0 if np.isnan(choke_pct) else self.present.choke_pct / choke_pct
        return self.line_psi + over_choke * (rate_bpd / self.rate_bpd * opening) ** 2

    def needed_psi(self, rate_bpd: Floats, choke_pct: float) -> Floats:
        """Return the discharge pressure required by the well above the pump."""
        above = self.wellhead_psi(rate_bpd, choke_pct) - self.present.wellhead_pressure_psi
        return (
            self.present.discharge_pressure_psi
            + above
            + self._friction(rate_bpd)
            - self._friction(self.rate_bpd)
        )

    def _friction(self, rate_bpd: Floats | float) -> Floats:
        bore, depth = self.well.fact("tubing_bore_in"), self.well.setting_depth_ft
        if bore is None or depth is None:
            return np.zeros_like(np.asarray(rate_bpd, dtype=np.float64))
        return fluids.pressure_psi(fluids.friction_ft(rate_bpd, depth, bore), self.fluid.gravity)


def what_if(well: Well, present: Present, fluid: Fluid, point: Point, wanted: Setting) -> WhatIfResult:
    """Predict the steady operating point at the setting `wanted`; raise InsufficientData.

    The rate is where intake pressure plus the pump's pressure gain equals the required discharge pressure.
    """
    assumptions = list(fluid.assumptions)
    system = _system(well, present, fluid, point, assumptions)
    if np.isnan(present.choke_pct) and not np.isnan(wanted.choke_pct):
        raise InsufficientData("the present choke opening is not reported", fix="omit choke_pct")
    now = _outcome(system, Setting(present.frequency_hz, present.choke_pct), point.rate_bpd)
    then = _outcome(system, wanted, _settled_bpd(system, wanted))
    return WhatIfResult(now, then, tuple(assumptions), tuple(_warnings(well, then)))


def _system(well: Well, present: Present, fluid: Fluid, point: Point, assumptions: list[str]) -> _System:
    if np.isnan(point.rate_bpd) or np.isnan(point.head_ft) or point.rate_bpd <= 0:
        raise InsufficientData(
            f"the present operating point is unknown ({point.reason})",
            fix="see GET pumps/{id}/operating-point for what is missing",
        )
    modelled = head_ft(stack([well.installed]), present.frequency_hz, point.rate_bpd)
    share = float(point.head_ft / modelled[0])
    if not np.isfinite(share) or share <= 0:
        raise InsufficientData(
            "the present operating point is beyond the curve", fix="check the rate, the curve and the stages"
        )
    line = well.fact("flowline_pressure_psi")
    if line is None:
        line = LINE_SHARE * present.wellhead_pressure_psi
        assumptions.append("flowline_pressure_psi unknown: assumed half of the wellhead pressure")
    if np.isnan(present.wellhead_pressure_psi):
        assumptions.append("wellhead pressure not reported: assumed constant")
        present, line = replace(present, wellhead_pressure_psi=0.0), 0.0
    if well.fact("tubing_bore_in") is None or well.setting_depth_ft is None:
        assumptions.append("tubing_bore_in or setting depth unknown: friction neglected")
    draw = _draw_psi_per_bpd(well, present, fluid, point, assumptions)
    return _System(
        well, present, fluid, point.rate_bpd, draw, min(line, present.wellhead_pressure_psi), share
    )


def _draw_psi_per_bpd(
    well: Well, present: Present, fluid: Fluid, point: Point, assumptions: list[str]
) -> float:
    """Return the fall of intake pressure per bpd through the pump, by linear inflow."""
    index, reservoir = well.fact("productivity_index_bpd_psi"), well.fact("reservoir_pressure_psi")
    if index is None and reservoir is not None and reservoir > present.intake_pressure_psi:
        index = point.rate_bpd / fluid.pump_volume / (reservoir - present.intake_pressure_psi)
        assumptions.append("linear inflow from reservoir_pressure_psi through the present point")
    if index is None:
        assumptions.append(
            "productivity_index_bpd_psi and reservoir_pressure_psi unknown: intake pressure assumed constant"
        )
        return 0.0
    return 1.0 / (index * fluid.pump_volume)


def _settled_bpd(system: _System, wanted: Setting) -> float:
    pumps = stack([system.well.installed])
    speed = wanted.frequency_hz / float(pumps.rated_frequency_hz[0]) * float(pumps.flow_factor[0])
    first, last = float(pumps.falling_from_bpd[0]) * speed, float(pumps.ends_at_bpd[0]) * speed
    rates = np.linspace(first, last, RATES)[1:-1]
    surplus = (
        system.intake_psi(rates)
        + _gain_psi(system, wanted, rates)
        - system.needed_psi(rates, wanted.choke_pct)
    )
    if surplus[0] < 0:
        raise InsufficientData(
            f"at {wanted.frequency_hz:g} Hz the pump does not reach the required discharge pressure",
            fix="use a higher frequency or a wider choke",
        )
    if surplus[-1] > 0:
        raise InsufficientData(
            f"at {wanted.frequency_hz:g} Hz the pump would run beyond the end of its curve",
            fix="use a lower frequency or a narrower choke",
        )
    return float(np.interp(0.0, -surplus, rates))


def _gain_psi(system: _System, at: Setting, rates: Floats) -> Floats:
    made = head_ft(stack([system.well.installed]), at.frequency_hz, rates[:, None])[:, 0]
    return fluids.pressure_psi(made * system.head_share, system.fluid.gravity)


def _outcome(system: _System, at: Setting, rate_bpd: float) -> Outcome:
    well, fluid = system.well, system.fluid
    pumps = stack([well.installed])
    rates = np.array([rate_bpd])
    intake = float(system.intake_psi(rates)[0])
    gain = float(_gain_psi(system, at, rates)[0])
    shaft_hp = float(brake_hp(pumps, at.frequency_hz, rate_bpd, fluid.gravity)[0])
    shaft_now = float(brake_hp(pumps, system.present.frequency_hz, system.rate_bpd, fluid.gravity)[0])
    place = operating_point(pumps, at.frequency_hz, rate_bpd)
    return Outcome(
        frequency_hz=at.frequency_hz,
        choke_pct=at.choke_pct,
        rate_bpd=rate_bpd / fluid.pump_volume,
        pump_rate_bpd=rate_bpd,
        intake_pressure_psi=intake,
        discharge_pressure_psi=intake + gain,
        wellhead_pressure_psi=float(system.wellhead_psi(rates, at.choke_pct)[0]),
        head_ft=float(fluids.head_ft(gain, fluid.gravity)),
        fraction_of_best=float(place.fraction_of_best[0]),
        thrust=Thrust(int(place.thrust[0])).name.lower(),
        brake_hp=shaft_hp,
        motor_load=motor_load(well, shaft_hp, at.frequency_hz),
        active_power_kw=system.present.active_power_kw * shaft_hp / shaft_now,
    )


def _warnings(well: Well, then: Outcome) -> list[str]:
    min_intake_psi, low, high = (
        well.fact(name) for name in ("min_intake_pressure_psi", "min_frequency_hz", "max_frequency_hz")
    )
    cases = (
        (then.thrust == "down", "below the recommended range: downthrust"),
        (then.thrust == "up", "above the recommended range: upthrust"),
        (then.motor_load > 1.0, f"motor at {then.motor_load:.0%} of its rating"),
        (then.intake_pressure_psi <= 0, "the intake would run dry"),
        (
            min_intake_psi is not None and then.intake_pressure_psi < min_intake_psi,
            f"intake pressure below the configured {min_intake_psi or 0:g} psi",
        ),
        (low is not None and then.frequency_hz < low, f"below the configured minimum of {low or 0:g} Hz"),
        (high is not None and then.frequency_hz > high, f"above the configured maximum of {high or 0:g} Hz"),
    )
    return [words for holds, words in cases if holds]
