"""The wells in time: what fills, warms and drifts from tick to tick, and the drives that react."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from esp_common.contracts.readings import Int64Array

from esp_gateway.simulator import fluid, inflow, tubing
from esp_gateway.simulator.drive import Drives, commissioned
from esp_gateway.simulator.faults import Causes, Schedule
from esp_gateway.simulator.operation import Drive, Operation, Slow, operate
from esp_gateway.simulator.pump import Floats
from esp_gateway.simulator.wells import Wells

TICK_S: Final = 60.0
"""Slow states are integrated at this step, at multiples of it since 1970; annulus and winding take
ten minutes and more, and between ticks they run straight."""

SECONDS_A_DAY: Final = 86_400.0
LIQUID_LAG_S: Final = 300.0
WINDING_LAG_S: Final = 600.0
RATE_LAG_S: Final = 60.0
WEATHER_LAG_S: Final = np.array([240.0, 900.0, 90.0, 60.0])
"""Correlation times of slugs, line, supply and grit."""

WEATHER_KEPT: Final = np.exp(-TICK_S / WEATHER_LAG_S)[:, None]
WEATHER_FRESH: Final = np.sqrt(1.0 - WEATHER_KEPT**2)
WEATHER_BLOCK: Final = 256
"""Ticks whose weather is drawn together."""

SETTLING_S: Final = 600.0
SETTLING_STEPS: Final = 400
"""A spin-up of 67 hours in coarse steps: several times the slowest lag."""

HEAT_KJ_PER_BBL_C: Final = 515.0
"""Heat capacity of a barrel of oil and water."""

ROCK_KW_PER_C: Final = 0.7
"""Heat that goes into casing and rock per degree: what cools liquid that does not move."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The wells between two ticks: slow states at both ends, drives as decided at the first."""

    start_s: float
    low: Slow
    high: Slow
    drives: Drives


class Model:
    """n wells integrated from a steady state; `advance` moves one tick."""

    def __init__(
        self, wells: Wells, schedule: Schedule, seed: int, feeder: Int64Array, *, protected: bool
    ) -> None:
        self.wells = wells
        self.schedule = schedule
        self._seed = seed
        self._feeder = feeder
        self._draws: tuple[int, Floats] = (-1, np.zeros(1))
        self._drives = commissioned(wells, protected=protected)
        self._slow, self._seen = _settled(wells, self._drives.at(0.0))
        self._drives.normal_load = self._seen.load
        self._healthy = (self._slow, self._seen, replace(self._drives))

    def restart(self) -> None:
        """Go back to the healthy steady state; orders and faults stay as scheduled."""
        self._slow, self._seen, drives = self._healthy
        self._drives = replace(drives)

    def advance(self, start_s: float) -> Tick:
        """Integrate from `start_s` (a multiple of TICK_S) to the next tick."""
        low = self._slow
        n = len(self.wells.stages)
        causes = self.schedule.causes(np.full(n, start_s))
        self._drives.decide(start_s, TICK_S, self._seen, low, causes)
        self._drives.obey(self.schedule.orders(start_s - TICK_S, start_s), start_s, causes)
        drives = replace(self._drives)
        self._seen = operate(self.wells, low, drives.at(TICK_S / 2), causes)
        moved = integrate(self.wells, low, self._seen, causes, TICK_S)
        high = moved._replace(weather=self._weather(low.weather, start_s))
        self._slow = high
        return Tick(start_s, low, high, drives)

    def _weather(self, before: Floats, start_s: float) -> Floats:
        """Return the next weather: four Ornstein-Uhlenbeck processes of unit variance."""
        block, tick = divmod(int(start_s / TICK_S), WEATHER_BLOCK)
        if self._draws[0] != block:
            random = tick_random(self._seed, block, stream=0)
            draws = random.standard_normal((WEATHER_BLOCK, 4, len(self._feeder)))
            # One feeder has one voltage: all its pumps take its first pump's draw.
            draws[:, 2] = draws[:, 2, self._feeder]
            self._draws = (block, WEATHER_FRESH * draws)
        return np.asarray(WEATHER_KEPT * before + self._draws[1][tick])


def tick_random(seed: int, tick: int, stream: int) -> np.random.Generator:
    """Return the random numbers of one stretch of time, whatever was drawn before: counter-based."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, tick]))


def integrate(wells: Wells, slow: Slow, seen: Operation, causes: Causes, step_s: float) -> Slow:
    """Return the slow states `step_s` later; weather is left as it is."""
    rate = seen.surface_rate_bpd
    return slow._replace(
        intake_psi=_annulus(wells, slow, seen, causes, step_s),
        gradient_psi_ft=_relax(
            slow.gradient_psi_ft, _gradient(wells, slow, seen), _transit_s(wells, rate), step_s
        ),
        intake_c=_relax(slow.intake_c, _liquid_c(wells, seen), LIQUID_LAG_S, step_s),
        motor_c=_relax(
            slow.motor_c,
            slow.intake_c + wells.winding_rise_c_per_kw * seen.loss_kw * seen.film,
            WINDING_LAG_S,
            step_s,
        ),
        wellhead_c=_relax(
            slow.wellhead_c, _wellhead_c(wells, slow, rate), _transit_s(wells, rate) / 2.0, step_s
        ),
        rate_bpd=_relax(slow.rate_bpd, seen.pump_rate_bpd * (1.0 - seen.intake.void), RATE_LAG_S, step_s),
    )


def _relax(value: Floats, target: Floats, lag_s: Floats | float, step_s: float) -> Floats:
    """Return a first-order lag's exact step towards a constant target."""
    return target + (value - target) * np.exp(-step_s / np.asarray(lag_s))


def _annulus(wells: Wells, slow: Slow, seen: Operation, causes: Causes, step_s: float) -> Floats:
    """Return intake pressure after filling or drawing down the annulus.

    dPi/dt = (q_inflow − q_pump)·gradient/(barrels per foot): the level between casing and tubing is
    the storage. A well never falls below its casing pressure.
    """
    below = fluid.PSI_PER_FT_BELOW_PUMP * (wells.perforations_ft - wells.depth_ft)
    entering = inflow.inflow_bpd(
        slow.intake_psi + below,
        wells.reservoir_psi * (1.0 + np.asarray(causes.reservoir_pressure)),
        wells.productivity_bpd_psi * (1.0 + np.asarray(causes.productivity)),
        wells.bubble_point_psi,
    )
    stored = (entering - seen.surface_rate_bpd) * seen.intake.liquid_volume * step_s / SECONDS_A_DAY
    risen = stored * fluid.PSI_PER_FT_BELOW_PUMP / wells.annulus_bbl_per_ft
    return np.maximum(slow.intake_psi + risen, seen.casing_psi)


def _transit_s(wells: Wells, rate_bpd: Floats) -> Floats:
    """Return how long the tubing takes to be swept (s); a day's worth when nothing moves."""
    return np.minimum(wells.tubing_bbl / np.maximum(rate_bpd, 1e-3), 100.0) * SECONDS_A_DAY


def _gradient(wells: Wells, slow: Slow, seen: Operation) -> Floats:
    """Return the gradient the tubing tends to with what enters it now."""
    average_psi = (seen.discharge_psi + seen.wellhead_psi) / 2.0
    average_c = (slow.intake_c + slow.wellhead_c) / 2.0
    return fluid.tubing_gradient(seen.mixture, seen.intake, average_psi, average_c)


def _liquid_c(wells: Wells, seen: Operation) -> Floats:
    """Return the liquid's temperature past the motor: the rock's, plus the motor's heat in what flows."""
    carried = HEAT_KJ_PER_BBL_C * seen.surface_rate_bpd / SECONDS_A_DAY
    return wells.intake_temp_c + seen.loss_kw / (carried + ROCK_KW_PER_C)


def _wellhead_c(wells: Wells, slow: Slow, rate_bpd: Floats) -> Floats:
    return tubing.wellhead_temp_c(slow.intake_c, wells.surface_temp_c, wells.depth_ft, rate_bpd)


def _settled(wells: Wells, drive: Drive) -> tuple[Slow, Operation]:
    """Return the steady state of healthy wells in still weather, and how they then run."""
    slow, causes = _guess(wells), Causes()
    for _ in range(SETTLING_STEPS):
        seen = operate(wells, slow, drive, causes)
        slow = integrate(wells, slow, seen, causes, SETTLING_S)
    return slow, operate(wells, slow, drive, causes)


def _guess(wells: Wells) -> Slow:
    """Return slow states near the design point, to settle from."""
    zeros = np.zeros_like(wells.stages)
    return Slow(
        intake_psi=wells.design_intake_psi + zeros,
        gradient_psi_ft=0.36 + zeros,
        intake_c=wells.intake_temp_c + zeros,
        motor_c=wells.intake_temp_c + 25.0,
        wellhead_c=wells.surface_temp_c + 30.0,
        rate_bpd=wells.design_rate_bpd + zeros,
        weather=np.zeros((4, len(zeros))),
    )
