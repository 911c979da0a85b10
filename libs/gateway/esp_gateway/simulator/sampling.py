"""Samples of the model between its ticks: the true value of every channel at any instant."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from esp_gateway.simulator import motor
from esp_gateway.simulator.drive import RAMP_HZ_S
from esp_gateway.simulator.faults import Causes
from esp_gateway.simulator.gauge import truth_matrix
from esp_gateway.simulator.model import TICK_S, Tick
from esp_gateway.simulator.operation import Drive, Operation, Slow, operate
from esp_gateway.simulator.pump import Floats
from esp_gateway.simulator.wells import Bools, Wells

GAUGE_LEAKAGE_MA: Final = 0.02
"""What the gauge itself draws to earth."""

AMBIENT_SWING_C: Final = 7.0
DRIVE_WARMING_C_PER_KW: Final = 0.18


class Sample(NamedTuple):
    """True values (T, n, channels) with the drives' states (T, n)."""

    values: Floats
    running: Bools
    trip_code: npt.NDArray[np.int32]


def sample(
    wells: Wells, ticks: Sequence[Tick], which: npt.NDArray[np.intp], time_s: Floats, causes: Causes
) -> Sample:
    """Return the wells at `time_s` (T, n), row t lying in `ticks[which[t]]`.

    Slow states run straight between ticks; everything else is solved anew at each instant, so that a
    step in a cause shows at once.
    """
    starts = np.array([tick.start_s for tick in ticks])[which][:, None]
    slow = _between(ticks, which, (time_s - starts) / TICK_S)
    drive = _drive(ticks, which, time_s - starts)
    seen = operate(wells, slow, drive, causes)
    codes = np.stack([tick.drives.trip_code for tick in ticks])[which].astype(np.int32)
    return Sample(
        truth_matrix(_channels(wells, slow, drive, seen, causes, time_s), time_s.shape), drive.running, codes
    )


def _between(ticks: Sequence[Tick], which: npt.NDArray[np.intp], weight: Floats) -> Slow:
    """Return slow states at a share `weight` (T, n) of the way through their ticks."""

    def blended(name: str, axis: int) -> Floats:
        low = np.stack([getattr(tick.low, name) for tick in ticks], axis=axis)
        step = np.stack([getattr(tick.high, name) for tick in ticks], axis=axis) - low
        return np.asarray(low.take(which, axis) + weight * step.take(which, axis))

    return Slow(*(blended(name, 1 if name == "weather" else 0) for name in Slow._fields))


def _drive(ticks: Sequence[Tick], which: npt.NDArray[np.intp], elapsed_s: Floats) -> Drive:
    """Return the drives `elapsed_s` into their ticks, frequencies on their ramps."""

    def stacked(name: str) -> Floats:
        return np.stack([getattr(tick.drives, name) for tick in ticks])[which]

    running = stacked("running").astype(bool)
    before, reach = stacked("frequency_hz"), RAMP_HZ_S * elapsed_s
    ramped = before + np.clip(stacked("set_frequency_hz") - before, -reach, reach)
    return Drive(running, stacked("stalled").astype(bool), stacked("reversed").astype(bool), ramped * running)


def _channels(
    wells: Wells, slow: Slow, drive: Drive, seen: Operation, causes: Causes, time_s: Floats
) -> dict[str, Floats]:
    """Return every channel's true value by name."""
    current = seen.current_ratio * wells.rated_current_a
    phases = _phases(wells, current, causes)
    insulation = seen.insulation_mohm
    return {
        "intake_pressure_psi": slow.intake_psi,
        "discharge_pressure_psi": seen.discharge_psi,
        "intake_temp_c": slow.intake_c,
        "motor_temp_c": slow.motor_c,
        "vibration_x_g": seen.vibration_g,
        "vibration_y_g": seen.vibration_g * wells.vibration_y_share,
        "leakage_current_ma": GAUGE_LEAKAGE_MA + motor.leakage_ma(seen.voltage_v / np.sqrt(3.0), insulation),
        "insulation_resistance_mohm": insulation,
        "frequency_hz": seen.frequency_hz,
        "motor_current_a": (phases[0] + phases[1] + phases[2]) / 3.0,
        "current_a_a": phases[0],
        "current_b_a": phases[1],
        "current_c_a": phases[2],
        "motor_voltage_v": seen.voltage_v,
        "power_factor": seen.power_factor,
        "active_power_kw": seen.active_kw,
        "motor_load_pct": 100.0 * seen.load,
        "drive_temp_c": _ambient_c(wells, time_s) + 12.0 + DRIVE_WARMING_C_PER_KW * seen.active_kw,
        "wellhead_pressure_psi": seen.wellhead_psi,
        "casing_pressure_psi": seen.casing_psi,
        "wellhead_temp_c": slow.wellhead_c,
        "flow_rate_bpd": seen.surface_rate_bpd,
        "water_cut_pct": 100.0 * seen.mixture.water_cut,
        "choke_pct": wells.choke_pct,
    }


def _phases(wells: Wells, current_a: Floats, causes: Causes) -> tuple[Floats, Floats, Floats]:
    """Return the phase currents: small differences by nature, more by unbalance, none in an open phase."""
    skew = wells.phase_skew + causes.unbalance
    open_phase = np.asarray(causes.open_phase)
    # Single-phased, a motor takes its power through the other two: √3 times the current in each.
    others = 1.0 + (np.sqrt(3.0) - 1.0) * open_phase
    first = current_a * (1.0 + skew) * (1.0 - open_phase)
    return first, current_a * (1.0 - skew * 0.4) * others, current_a * (1.0 - skew * 0.6) * others


def _ambient_c(wells: Wells, time_s: Floats) -> Floats:
    """Return the air's temperature (°C): warmest at three in the afternoon UTC."""
    return wells.surface_temp_c + AMBIENT_SWING_C * np.sin((time_s / 86_400.0 - 0.375) * 2.0 * np.pi)
