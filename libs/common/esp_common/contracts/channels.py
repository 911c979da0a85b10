"""The channel catalogue: every quantity a reading can carry, with its unit, hard limits and resolution.

The order of `CHANNELS` is part of the contract: a channel's position is its column in a readings
matrix and its bit in a stored quality mask. Append to it; never reorder.

Hard limits are physical: a value beyond them cannot be a measurement. They are wide on purpose,
since judging a pump's normal range is the diagnostics service's work. Resolutions are at least as
fine as what downhole gauges (0.1 psi, 0.1 °C, 0.001 g) and drives (0.01 Hz, 0.1 A, 1 V) show, so that
storing integer multiples of them loses nothing; much finer ones would store noise, at 3 bits a decimal.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Group(StrEnum):
    """Where on the well a channel is measured."""

    GAUGE = "downhole gauge"
    DRIVE = "drive"
    SURFACE = "surface"


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity; `low`, `high` and `resolution` are in `unit` (a name `pint` knows)."""

    name: str
    group: Group
    unit: str
    low: float
    high: float
    resolution: float


def _channel(name: str, group: Group, unit: str, low: float, high: float, resolution: float) -> Channel:
    return Channel(name, group, unit, low, high, resolution)


_G, _D, _S = Group.GAUGE, Group.DRIVE, Group.SURFACE

CHANNELS: Final[tuple[Channel, ...]] = (
    _channel("intake_pressure_psi", _G, "psi", 0, 10_000, 0.05),
    _channel("discharge_pressure_psi", _G, "psi", 0, 10_000, 0.05),
    _channel("intake_temp_c", _G, "degC", -40, 300, 0.05),
    _channel("motor_temp_c", _G, "degC", -40, 400, 0.05),
    _channel("vibration_x_g", _G, "g_0", 0, 50, 0.001),
    _channel("vibration_y_g", _G, "g_0", 0, 50, 0.001),
    _channel("leakage_current_ma", _G, "mA", 0, 1_000, 0.001),
    _channel("insulation_resistance_mohm", _G, "Mohm", 0, 100_000, 0.01),
    # Permanent-magnet motors run to 200 Hz and wells report 174 Hz, so 70 Hz is no limit.
    _channel("frequency_hz", _D, "Hz", 0, 400, 0.01),
    _channel("motor_current_a", _D, "A", 0, 2_000, 0.1),
    _channel("current_a_a", _D, "A", 0, 2_000, 0.1),
    _channel("current_b_a", _D, "A", 0, 2_000, 0.1),
    _channel("current_c_a", _D, "A", 0, 2_000, 0.1),
    _channel("motor_voltage_v", _D, "V", 0, 10_000, 1),
    _channel("power_factor", _D, "dimensionless", -1, 1, 0.001),
    _channel("active_power_kw", _D, "kW", -100, 5_000, 0.1),
    _channel("motor_load_pct", _D, "percent", 0, 1_000, 0.1),
    _channel("drive_temp_c", _D, "degC", -60, 200, 0.05),
    _channel("wellhead_pressure_psi", _S, "psi", 0, 10_000, 0.05),
    _channel("casing_pressure_psi", _S, "psi", 0, 10_000, 0.05),
    _channel("wellhead_temp_c", _S, "degC", -60, 300, 0.05),
    _channel("flow_rate_bpd", _S, "oil_bbl/day", 0, 200_000, 0.1),
    _channel("water_cut_pct", _S, "percent", 0, 100, 0.1),
    _channel("choke_pct", _S, "percent", 0, 100, 0.1),
)
"""Every float channel, in contract order: 24 of them."""

CHANNEL_NAMES: Final[tuple[str, ...]] = tuple(channel.name for channel in CHANNELS)
CHANNEL_INDEX: Final[dict[str, int]] = {name: index for index, name in enumerate(CHANNEL_NAMES)}
CHANNEL_COUNT: Final[int] = len(CHANNELS)

RUNNING: Final = "running"
TRIP_CODE: Final = "trip_code"
