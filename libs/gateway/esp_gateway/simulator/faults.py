"""Faults by name, each as its physical cause and nothing else.

A fault changes quantities of nature (`Causes`): a clearance, a blocked passage, a leak. What the
gauges and the drive then show comes out of the well model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

import numpy as np

from esp_gateway.simulator.pump import Floats

Cause = Floats | float


class Fault(StrEnum):
    """Every condition that can be injected; names follow the signature table."""

    GAS_INTERFERENCE = "gas_interference"
    GAS_LOCK = "gas_lock"
    PUMP_OFF = "pump_off"
    BROKEN_SHAFT = "broken_shaft"
    TUBING_HOLE = "tubing_hole"
    DEADHEAD = "deadhead"
    FLOWLINE_RESTRICTION = "flowline_restriction"
    PLUGGED_INTAKE = "plugged_intake"
    SCALE = "scale"
    PUMP_WEAR = "pump_wear"
    EMULSION = "emulsion"
    WATER_CUT_RISE = "water_cut_rise"
    INFLOW_LOSS = "inflow_loss"
    INFLOW_GAIN = "inflow_gain"
    OVERLOAD = "overload"
    UNDERLOAD = "underload"
    STUCK_AT_START = "stuck_at_start"
    LOST_COOLING = "lost_cooling"
    PHASE_UNBALANCE = "phase_unbalance"
    INSULATION_FAULT = "insulation_fault"
    OPEN_PHASE = "open_phase"
    WRONG_ROTATION = "wrong_rotation"
    GAUGE_FAILURE = "gauge_failure"
    SUPPLY_FLUCTUATION = "supply_fluctuation"
    CYCLING = "cycling"
    DOWNTHRUST = "downthrust"
    UPTHRUST = "upthrust"


class GaugeFailure(StrEnum):
    """What a failing downhole gauge sends, as seen in the field."""

    OVER_RANGE = "over_range"  # 94906.9 psi on both pressures
    ZERO = "zero"  # exactly 0 on every channel
    FREEZING_POINT = "freezing_point"  # exactly 0 °C (32 °F) on both temperatures
    MINUS_ZERO = "minus_zero"  # -0.000002 on pressures and vibration
    FROZEN = "frozen"  # the last values, for ever
    SILENT = "silent"  # nothing


@dataclass(frozen=True, slots=True)
class Causes:
    """How far nature departs from health; every quantity is 0 in a healthy well.

    Shares are of the healthy value (productivity −0.3 = 30 % lost); arrays have the pump last.
    """

    productivity: Cause = 0.0
    reservoir_pressure: Cause = 0.0
    gas_oil_ratio: Cause = 0.0
    water_for_oil: Cause = 0.0
    lightening: Cause = 0.0
    emulsion_cst: Cause = 0.0
    gas_pocket: Cause = 0.0
    screen_loss: Cause = 0.0
    clearance: Cause = 0.0
    blocked_passage: Cause = 0.0
    rubbing: Cause = 0.0
    dead_stages: Cause = 0.0
    leak: Cause = 0.0
    line_blockage: Cause = 0.0
    closed_valve: Cause = 0.0
    motor_scale: Cause = 0.0
    unbalance: Cause = 0.0
    open_phase: Cause = 0.0
    swapped_phases: Cause = 0.0
    locked_rotor: Cause = 0.0
    insulation: Cause = 0.0
    supply_swing: Cause = 0.0
    underload_limit: Cause = 0.0
    gauge: Cause = 0.0


CAUSES: Final[dict[Fault, dict[str, float]]] = {
    # More free gas at the intake; the stages and the slugs do the rest.
    Fault.GAS_INTERFERENCE: {"gas_oil_ratio": 3.0},
    # A gas pocket that stays in the lower stages.
    Fault.GAS_LOCK: {"gas_pocket": 0.6},
    # The reservoir gives far less than the pump takes; the level falls to the intake.
    Fault.PUMP_OFF: {"productivity": -0.85},
    # Share of the stages above the break.
    Fault.BROKEN_SHAFT: {"dead_stages": 1.0},
    # Share of the design rate that would run back through the hole at the design pressure gain.
    Fault.TUBING_HOLE: {"leak": 0.5},
    Fault.DEADHEAD: {"closed_valve": 1.0},
    # Resistance of choke and flowline, in multiples added.
    Fault.FLOWLINE_RESTRICTION: {"line_blockage": 6.0},
    # Pressure lost at the screen at the design rate, as a share of the design intake pressure.
    Fault.PLUGGED_INTAKE: {"screen_loss": 0.8},
    # Deposits narrow the passages and rub.
    Fault.SCALE: {"blocked_passage": 0.25, "rubbing": 0.20},
    # Head lost over worn clearances.
    Fault.PUMP_WEAR: {"clearance": 0.35},
    Fault.EMULSION: {"emulsion_cst": 45.0},
    # Share of the oil that water replaces.
    Fault.WATER_CUT_RISE: {"water_for_oil": 0.8},
    Fault.INFLOW_LOSS: {"productivity": -0.40},
    Fault.INFLOW_GAIN: {"productivity": 0.60},
    # Sand: torque, as a share of the nameplate's.
    Fault.OVERLOAD: {"rubbing": 0.60},
    # A light fluid: kill fluid unloaded, condensate.
    Fault.UNDERLOAD: {"lightening": 0.20},
    Fault.STUCK_AT_START: {"locked_rotor": 1.0},
    # Scale on the motor's skin, or a lost shroud: thermal resistance, in multiples added.
    Fault.LOST_COOLING: {"motor_scale": 1.5},
    # Largest departure of a phase from the mean, as a share.
    Fault.PHASE_UNBALANCE: {"unbalance": 0.18},
    # 1 takes 4.7 decades of insulation.
    Fault.INSULATION_FAULT: {"insulation": 1.0},
    Fault.OPEN_PHASE: {"open_phase": 1.0},
    Fault.WRONG_ROTATION: {"swapped_phases": 1.0},
    Fault.GAUGE_FAILURE: {"gauge": 1.0},
    # Swing of the feeder's voltage, as a share, one standard deviation.
    Fault.SUPPLY_FLUCTUATION: {"supply_swing": 0.08},
    # The drive's underload limit set above the pump's normal load: it trips and restarts all day.
    Fault.CYCLING: {"underload_limit": 0.6},
    # Back pressure, or the reservoir's support, moves the rate out of the recommended range.
    Fault.DOWNTHRUST: {"line_blockage": 90.0},
    Fault.UPTHRUST: {"reservoir_pressure": 1.3, "productivity": 1.0},
}
"""What each fault is at severity 1, in the units of `Causes`."""

SHARED_SUPPLY: Final = frozenset({Fault.SUPPLY_FLUCTUATION})
"""Faults of the feeder, which every pump on it sees."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault of one pump: grows linearly from `onset_s` (epoch seconds) over `ramp_s` to `severity`."""

    pump: int
    fault: Fault
    onset_s: float
    severity: float
    ramp_s: float
    gauge: GaugeFailure = GaugeFailure.FROZEN

    def amount(self, time_s: Floats) -> Floats:
        """Return the severity reached at `time_s`; without a ramp it is a step."""
        if self.ramp_s <= 0:
            return np.asarray(self.severity * (time_s >= self.onset_s), dtype=np.float64)
        return np.asarray(self.severity * np.clip((time_s - self.onset_s) / self.ramp_s, 0.0, 1.0))


class Order(IntEnum):
    """What an operator can tell a drive."""

    STOP = 0
    START = 1
    FREQUENCY = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One order to one drive, obeyed at the first model tick at or after `at_s`; `value` in Hz."""

    at_s: float
    pump: int
    order: Order
    value: float = 0.0


@dataclass(slots=True)
class Schedule:
    """What happens to a field: faults, whose effects on one quantity add up, and operators' orders."""

    injections: list[Injection] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)

    def orders(self, after_s: float, until_s: float) -> list[Command]:
        """Return the orders given in (after, until], oldest first."""
        due = [command for command in self.commands if after_s < command.at_s <= until_s]
        return sorted(due, key=lambda command: command.at_s)

    def started(self, until_s: float) -> Sequence[Injection]:
        """Return the injections with an onset up to `until_s`."""
        return [injection for injection in self.injections if injection.onset_s <= until_s]

    def causes(self, time_s: Floats) -> Causes:
        """Return the causes at `time_s`, an array with the pump on its last axis."""
        found: dict[str, Floats] = {}
        for injection in self.started(float(time_s.max())):
            amount = injection.amount(time_s[..., injection.pump])
            for name, at_full in CAUSES[injection.fault].items():
                found.setdefault(name, np.zeros(time_s.shape))[..., injection.pump] += at_full * amount
        return Causes(**found)
