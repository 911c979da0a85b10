"""The instruments: noise, resolution, well tests, and the downhole gauge's ways to fail."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX, CHANNELS, Group

from esp_gateway.simulator.faults import Causes, Fault, GaugeFailure, Injection, Schedule
from esp_gateway.simulator.pump import Floats
from esp_gateway.simulator.wells import Bools

_NOISE_AND_DECIMALS: Final[dict[str, tuple[float, int]]] = {
    "intake_pressure_psi": (0.15, 1),
    "discharge_pressure_psi": (0.25, 1),
    "intake_temp_c": (0.03, 1),
    "motor_temp_c": (0.05, 1),
    "vibration_x_g": (0.003, 3),
    "vibration_y_g": (0.003, 3),
    "leakage_current_ma": (0.002, 3),
    "insulation_resistance_mohm": (0.0, 2),
    "frequency_hz": (0.005, 2),
    "motor_current_a": (0.06, 1),
    "current_a_a": (0.08, 1),
    "current_b_a": (0.08, 1),
    "current_c_a": (0.08, 1),
    "motor_voltage_v": (1.0, 0),
    "power_factor": (0.001, 3),
    "active_power_kw": (0.08, 1),
    "motor_load_pct": (0.1, 1),
    "drive_temp_c": (0.05, 1),
    "wellhead_pressure_psi": (0.15, 1),
    "casing_pressure_psi": (0.15, 1),
    "wellhead_temp_c": (0.04, 1),
    "flow_rate_bpd": (0.0, 1),
    "water_cut_pct": (0.4, 1),
    "choke_pct": (0.0, 0),
}
NOISE: Final[Floats] = np.array([_NOISE_AND_DECIMALS[channel.name][0] for channel in CHANNELS])
"""One standard deviation of each channel's noise, in its unit."""

DECIMALS: Final[Floats] = np.array([float(_NOISE_AND_DECIMALS[channel.name][1]) for channel in CHANNELS])
"""Decimals each instrument reports."""

RATE_NOISE: Final = 0.015
INSULATION_NOISE: Final = 0.01
"""Some instruments are as good as a share of what they measure: separators, meters, insulation monitors."""

GAUGE: Final = np.array([index for index, c in enumerate(CHANNELS) if c.group is Group.GAUGE])
DRIVE: Final = np.array([index for index, c in enumerate(CHANNELS) if c.group is Group.DRIVE])
PRESSURES: Final = [CHANNEL_INDEX["intake_pressure_psi"], CHANNEL_INDEX["discharge_pressure_psi"]]
TEMPERATURES: Final = [CHANNEL_INDEX["intake_temp_c"], CHANNEL_INDEX["motor_temp_c"]]
VIBRATIONS: Final = [CHANNEL_INDEX["vibration_x_g"], CHANNEL_INDEX["vibration_y_g"]]
RATE: Final = CHANNEL_INDEX["flow_rate_bpd"]
INSULATION: Final = CHANNEL_INDEX["insulation_resistance_mohm"]
WATER_CUT: Final = CHANNEL_INDEX["water_cut_pct"]

OVER_RANGE_PSI: Final = 94906.9
MINUS_ZERO: Final = -0.000002

SIGNAL_NOISE_OF_BAD_INSULATION: Final = 15.0
"""The gauge talks over the motor's power cable: its noise grows with the insulation's damage."""

_SCALE: Final[Floats] = 10.0**DECIMALS
_LOW: Final[Floats] = np.array([channel.low for channel in CHANNELS])


@dataclass(slots=True)
class Instruments:
    """What measures n wells; `held` keeps what a frozen gauge last sent, by pump."""

    has_meter: Bools
    test_period_s: Floats
    test_phase_s: Floats
    held: dict[int, Floats] = field(default_factory=dict)

    def measure(self, truth: Floats, noise: Floats, running: Bools, causes: Causes) -> Floats:
        """Return what is shown of `truth` (T, n, channels); `noise` is standard normal, same shape."""
        spread = noise * NOISE
        if np.any(causes.insulation):
            worse = 1.0 + SIGNAL_NOISE_OF_BAD_INSULATION * np.asarray(causes.insulation)
            spread[..., GAUGE] *= worse[..., None]
        # A stopped drive reports zeros, not noise.
        spread[..., DRIVE[:-1]] *= running[..., None]
        spread[..., RATE] = noise[..., RATE] * RATE_NOISE * truth[..., RATE]
        spread[..., INSULATION] = noise[..., INSULATION] * INSULATION_NOISE * truth[..., INSULATION]
        spread += truth
        np.maximum(spread, _LOW, out=spread)
        spread *= _SCALE
        np.rint(spread, out=spread)
        spread /= _SCALE
        return spread

    def hide_untested(self, values: Floats, time_s: Floats, interval_s: float) -> None:
        """Blank rate and water cut in place except where a meter is or a well test has just ended."""
        since = (time_s - self.test_phase_s) % self.test_period_s
        blank = ~(self.has_meter | (since < interval_s))
        values[..., RATE][blank] = np.nan
        values[..., WATER_CUT][since >= interval_s] = np.nan

    def spoil(self, values: Floats, time_s: Floats, noise: Floats, schedule: Schedule) -> None:
        """Replace in place what failed gauges send; only the gauge's channels, never the well's state."""
        for injection in schedule.started(float(time_s.max())):
            if injection.fault is Fault.GAUGE_FAILURE:
                amount = injection.amount(time_s[:, injection.pump])
                # A severity below 1 is a gauge that fails now and then: a share of its readings.
                share = 0.5 * (1.0 + np.tanh(noise[:, injection.pump, RATE] * 0.8))
                self._spoil_pump(values, np.flatnonzero(share < amount), injection)

    def _spoil_pump(self, values: Floats, rows: npt.NDArray[np.intp], how: Injection) -> None:
        if len(rows) == 0:
            return
        channels, code = _CODES.get(how.gauge, (list(GAUGE), np.nan))
        if how.gauge is GaugeFailure.FROZEN:
            last = values[rows[0], how.pump, GAUGE].copy()
            values[rows[:, None], how.pump, GAUGE] = self.held.setdefault(how.pump, last)
        else:
            values[rows[:, None], how.pump, channels] = code


_CODES: Final[dict[GaugeFailure, tuple[list[int], float]]] = {
    GaugeFailure.OVER_RANGE: (PRESSURES, OVER_RANGE_PSI),
    GaugeFailure.ZERO: (list(GAUGE), 0.0),
    GaugeFailure.FREEZING_POINT: (TEMPERATURES, 0.0),
    GaugeFailure.MINUS_ZERO: (PRESSURES + VIBRATIONS, MINUS_ZERO),
    GaugeFailure.SILENT: (list(GAUGE), np.nan),
}


def instruments(random: np.random.Generator, n: int) -> Instruments:
    """Return instruments of n wells: a third have a meter, the rest are tested every 4 to 12 days."""
    period = random.uniform(4, 12, n).round(1) * 86_400.0
    return Instruments(
        has_meter=random.random(n) < 0.3, test_period_s=period, test_phase_s=random.uniform(0, 1, n) * period
    )


def truth_matrix(columns: dict[str, Floats], shape: tuple[int, ...]) -> Floats:
    """Return named quantities of `shape` as one array with the catalogue's channels on the last axis."""
    values = np.empty((*shape, CHANNEL_COUNT))
    for name, column in columns.items():
        values[..., CHANNEL_INDEX[name]] = column
    return values
