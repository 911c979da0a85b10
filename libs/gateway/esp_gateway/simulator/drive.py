"""The variable-speed drive: start, ramp, stop, protection, and its trip codes."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from esp_gateway.simulator.faults import Causes
from esp_gateway.simulator.operation import Drive, Operation, Slow
from esp_gateway.simulator.pump import Floats
from esp_gateway.simulator.wells import Bools, Wells

RAMP_HZ_S: Final = 0.5
OVERLOAD_RATIO: Final = 1.20
WINDING_LIMIT_C: Final = 193.0
"""Motor rating 204 °C less 11 °C."""

INSULATION_LIMIT_MOHM: Final = 0.04
UNBALANCE_LIMIT: Final = 0.30
LOAD_GRACE_S: Final = 900.0
"""Load protection sleeps this long after a start, while the well unloads."""

OVERLOAD_HOLD_S: Final = 60.0
UNDERLOAD_HOLD_S: Final = 120.0
RESTART_S: Final = 1800.0
"""Rest before an automatic restart, long enough for the column to fall back; only after underload."""


class Trip(IntEnum):
    """Why the drive stopped; 0 while it runs."""

    NONE = 0
    OPERATOR = 1
    UNDERLOAD = 2
    OVERLOAD = 3
    WINDING_TEMPERATURE = 4
    EARTH_FAULT = 5
    UNBALANCE = 6
    STALL = 7


class Order(IntEnum):
    """What an operator can tell a drive."""

    STOP = 0
    START = 1
    FREQUENCY = 2


@dataclass(frozen=True, slots=True, order=True)
class Command:
    """One order to one drive, obeyed at the first model tick at or after `at_s`; `value` in Hz."""

    at_s: float
    pump: int
    order: Order
    value: float = 0.0


@dataclass(slots=True)
class Drives:
    """The drives of all wells. `normal_load` is each pump's load when it was commissioned."""

    set_frequency_hz: Floats
    running: Bools
    stalled: Bools
    reversed: Bools
    frequency_hz: Floats
    trip_code: Floats
    since_s: Floats
    under_s: Floats
    over_s: Floats
    normal_load: Floats
    protected: bool = True
    commands: list[Command] = field(default_factory=list)

    def at(self, elapsed_s: Floats | float) -> Drive:
        """Return every drive `elapsed_s` after the last decision; the frequency ramps towards its setting."""
        reach = RAMP_HZ_S * np.asarray(elapsed_s)
        step = np.clip(self.set_frequency_hz - self.frequency_hz, -reach, reach)
        return Drive(self.running, self.stalled, self.reversed, (self.frequency_hz + step) * self.running)

    def decide(self, now_s: float, elapsed_s: float, seen: Operation, slow: Slow, causes: Causes) -> None:
        """Obey orders, trip and restart, given what the last `elapsed_s` looked like."""
        self.frequency_hz = self.at(elapsed_s).frequency_hz
        if self.protected:
            self._protect(now_s, elapsed_s, seen, slow, causes)
        while self.commands and self.commands[0].at_s <= now_s:
            self._obey(self.commands.pop(0), now_s, causes)

    def order(self, command: Command) -> None:
        """Queue a command."""
        self.commands.append(command)
        self.commands.sort()

    def _protect(self, now_s: float, elapsed_s: float, seen: Operation, slow: Slow, causes: Causes) -> None:
        """Stop what must not run on; start again what rested long enough."""
        awake = self.running & (now_s - self.since_s > LOAD_GRACE_S)
        setting = seen.frequency_hz / np.maximum(self.set_frequency_hz, 1.0)
        limit = (0.6 + np.asarray(causes.underload_limit)) * self.normal_load * setting**2
        self.under_s = np.where(awake & (seen.load < limit), self.under_s + elapsed_s, 0.0)
        over = self.running & (seen.current_ratio > OVERLOAD_RATIO)
        self.over_s = np.where(over, self.over_s + elapsed_s, 0.0)
        self._trip(now_s, self.stalled & self.running, Trip.STALL, causes)
        self._trip(now_s, seen.insulation_mohm < INSULATION_LIMIT_MOHM, Trip.EARTH_FAULT, causes)
        self._trip(now_s, seen.unbalance > UNBALANCE_LIMIT, Trip.UNBALANCE, causes)
        self._trip(now_s, slow.motor_c > WINDING_LIMIT_C, Trip.WINDING_TEMPERATURE, causes)
        self._trip(now_s, self.over_s > OVERLOAD_HOLD_S, Trip.OVERLOAD, causes)
        self._trip(now_s, self.under_s > UNDERLOAD_HOLD_S, Trip.UNDERLOAD, causes)
        rested = (self.trip_code == Trip.UNDERLOAD) & (now_s - self.since_s >= RESTART_S)
        self._start(now_s, ~self.running & rested, causes)

    def _trip(self, now_s: float, which: Bools, code: Trip, causes: Causes) -> None:
        stopping = self.running & which
        if stopping.any():
            self._change(now_s, stopping, running=False, code=code, causes=causes)

    def _start(self, now_s: float, which: Bools, causes: Causes) -> None:
        if which.any():
            self._change(now_s, which, running=True, code=Trip.NONE, causes=causes)

    def _change(self, now_s: float, which: Bools, *, running: bool, code: Trip, causes: Causes) -> None:
        """Start or stop; a seized rotor and swapped phases show at a start, never while turning."""
        locked = np.asarray(causes.locked_rotor) >= 0.5
        swapped = np.asarray(causes.swapped_phases) >= 0.5
        self.running = np.where(which, running, self.running)
        self.stalled = np.where(which, running & locked, self.stalled)
        self.reversed = np.where(which, running & swapped, self.reversed)
        self.frequency_hz = np.where(which, 0.0, self.frequency_hz)
        self.trip_code = np.where(which, float(code), self.trip_code)
        self.since_s = np.where(which, now_s, self.since_s)
        self.under_s = np.where(which, 0.0, self.under_s)
        self.over_s = np.where(which, 0.0, self.over_s)

    def _obey(self, command: Command, now_s: float, causes: Causes) -> None:
        which = np.zeros(len(self.running), dtype=bool)
        which[command.pump] = True
        if command.order is Order.FREQUENCY:
            self.set_frequency_hz = np.where(which, command.value, self.set_frequency_hz)
        elif command.order is Order.STOP:
            self._trip(now_s, which, Trip.OPERATOR, causes)
        else:
            self._start(now_s, which & ~self.running, causes)


def commissioned(wells: Wells) -> Drives:
    """Return drives that have run at their set frequency for long."""
    n = len(wells.stages)
    zeros = np.zeros(n)
    off = np.zeros(n, dtype=bool)
    return Drives(
        set_frequency_hz=wells.set_frequency_hz,
        running=~off,
        stalled=off,
        reversed=off,
        frequency_hz=wells.set_frequency_hz,
        trip_code=zeros,
        since_s=np.full(n, -np.inf),
        under_s=zeros,
        over_s=zeros,
        normal_load=np.ones(n),
    )
