"""The variable-speed drive: start, ramp, stop, protection, and its trip codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from esp_gateway.simulator.faults import Causes, Command, Order
from esp_gateway.simulator.operation import Drive, Operation, Slow
from esp_gateway.simulator.pump import Floats
from esp_gateway.simulator.wells import Bools, Wells

RAMP_HZ_S: Final = 0.5
OVERLOAD_RATIO: Final = 1.20
UNDERLOAD_RATIO: Final = 0.6
"""Of the load at commissioning, scaled with the square of the frequency."""

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
    protected: bool

    def at(self, elapsed_s: Floats | float) -> Drive:
        """Return every drive `elapsed_s` after the last decision; the frequency ramps towards its setting."""
        reach = RAMP_HZ_S * np.asarray(elapsed_s)
        step = np.clip(self.set_frequency_hz - self.frequency_hz, -reach, reach)
        return Drive(self.running, self.stalled, self.reversed, (self.frequency_hz + step) * self.running)

    def decide(self, now_s: float, elapsed_s: float, seen: Operation, slow: Slow, causes: Causes) -> None:
        """Ramp on, trip and restart, given what the last `elapsed_s` looked like."""
        self.frequency_hz = self.at(elapsed_s).frequency_hz
        if not self.protected:
            return
        self._count(now_s, elapsed_s, seen, causes)
        reasons = self._reasons(seen, slow)
        if np.logical_or.reduce(list(reasons.values())).any():
            for code, which in reasons.items():
                self._change(now_s, self.running & which, running=False, code=code, causes=causes)
        if not self.running.all():
            rested = (self.trip_code == Trip.UNDERLOAD) & (now_s - self.since_s >= RESTART_S)
            self._change(now_s, rested, running=True, code=Trip.NONE, causes=causes)

    def obey(self, orders: Sequence[Command], now_s: float, causes: Causes) -> None:
        """Carry out operators' orders."""
        for command in orders:
            which = np.arange(len(self.running)) == command.pump
            if command.order is Order.FREQUENCY:
                self.set_frequency_hz = np.where(which, command.value, self.set_frequency_hz)
            elif command.order is Order.STOP:
                self._change(now_s, which, running=False, code=Trip.OPERATOR, causes=causes)
            else:
                self._change(now_s, which & ~self.running, running=True, code=Trip.NONE, causes=causes)

    def _count(self, now_s: float, elapsed_s: float, seen: Operation, causes: Causes) -> None:
        """Measure how long each drive has been under- or overloaded."""
        awake = self.running & (now_s - self.since_s > LOAD_GRACE_S)
        setting = seen.frequency_hz / np.maximum(self.set_frequency_hz, 1.0)
        limit = (UNDERLOAD_RATIO + causes.underload_limit) * self.normal_load * setting**2
        self.under_s = (self.under_s + elapsed_s) * (awake & (seen.load < limit))
        self.over_s = (self.over_s + elapsed_s) * (self.running & (seen.current_ratio > OVERLOAD_RATIO))

    def _reasons(self, seen: Operation, slow: Slow) -> dict[Trip, Bools]:
        """Return which drives each protection wants stopped; the first that applies names the trip."""
        running = self.running
        return {
            Trip.STALL: running & self.stalled,
            Trip.EARTH_FAULT: running & (seen.insulation_mohm < INSULATION_LIMIT_MOHM),
            Trip.UNBALANCE: running & (seen.unbalance > UNBALANCE_LIMIT),
            Trip.WINDING_TEMPERATURE: running & (slow.motor_c > WINDING_LIMIT_C),
            Trip.OVERLOAD: running & (self.over_s > OVERLOAD_HOLD_S),
            Trip.UNDERLOAD: running & (self.under_s > UNDERLOAD_HOLD_S),
        }

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


def commissioned(wells: Wells, *, protected: bool) -> Drives:
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
        protected=protected,
    )
