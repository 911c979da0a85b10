"""The channel catalogue: every quantity in a reading, with its unit, hard limits and resolution.

The order of `CHANNELS` is part of the contract: a channel's position is its column in a readings matrix and
its bit in a stored quality mask. Append to it; never reorder. Bits 24 and 25 of a mask are `running` and
`trip_code` (`MASK_NAMES`).

Hard limits are physical: no valid measurement lies beyond them. They are wide on purpose; the diagnostics
service judges a pump's normal range. Resolutions are at least as fine as those of downhole gauges (0.1 psi,
0.1 °C, 0.001 g) and drives (0.01 Hz, 0.1 A, 1 V), so that storing integer multiples of them is lossless; much
finer ones would store noise, at 3 bits a decimal.

`tolerance` is the drift of a healthy instrument at a physical limit (a pressure of 0, a valve position of 100
%): a value beyond the limit by at most that is stored as the limit and marked in `clamped_mask`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Group(StrEnum):
    """Place on the well where a channel is measured."""

    GAUGE = "downhole gauge"
    DRIVE = "drive"
    SURFACE = "surface"


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity, in `unit` (a `pint` name).

    `tolerance` applies below `low`, and above `high` if `bounded_above` (`high` is a physical limit too).
    """

    name: str
    group: Group
    unit: str
    low: float
    high: float
    resolution: float
    tolerance: float = 0.0
    bounded_above: bool = False

    @property
    def tolerance_above(self) -> float:
        """Maximum excess over `high` that is clamped."""
        return self.tolerance if self.bounded_above else 0.0


_G, _D, _S = Group.GAUGE, Group.DRIVE, Group.SURFACE

CHANNELS: Final[tuple[Channel, ...]] = (
    Channel("intake_pressure_psi", _G, "psi", 0, 10_000, 0.05, 5),
    Channel("discharge_pressure_psi", _G, "psi", 0, 10_000, 0.05, 5),
    Channel("intake_temp_c", _G, "degC", -40, 300, 0.05),
    Channel("motor_temp_c", _G, "degC", -40, 400, 0.05),
    Channel("vibration_x_g", _G, "g_0", 0, 50, 0.001, 0.05),
    Channel("vibration_y_g", _G, "g_0", 0, 50, 0.001, 0.05),
    Channel("leakage_current_ma", _G, "mA", 0, 1_000, 0.001, 0.5),
    Channel("insulation_resistance_mohm", _G, "Mohm", 0, 100_000, 0.01, 0.5),
    # Permanent-magnet motors run up to 200 Hz and wells report 174 Hz, so 70 Hz is not a hard limit.
    Channel("frequency_hz", _D, "Hz", 0, 400, 0.01, 0.1),
    Channel("motor_current_a", _D, "A", 0, 2_000, 0.1, 0.5),
    Channel("current_a_a", _D, "A", 0, 2_000, 0.1, 0.5),
    Channel("current_b_a", _D, "A", 0, 2_000, 0.1, 0.5),
    Channel("current_c_a", _D, "A", 0, 2_000, 0.1, 0.5),
    Channel("motor_voltage_v", _D, "V", 0, 10_000, 1, 5),
    Channel("power_factor", _D, "dimensionless", -1, 1, 0.001, 0.01, bounded_above=True),
    Channel("active_power_kw", _D, "kW", -100, 5_000, 0.1),
    Channel("motor_load_pct", _D, "percent", 0, 1_000, 0.1, 0.5),
    Channel("drive_temp_c", _D, "degC", -60, 200, 0.05),
    Channel("wellhead_pressure_psi", _S, "psi", 0, 10_000, 0.05, 5),
    Channel("casing_pressure_psi", _S, "psi", 0, 10_000, 0.05, 5),
    Channel("wellhead_temp_c", _S, "degC", -60, 300, 0.05),
    Channel("flow_rate_bpd", _S, "oil_bbl/day", 0, 200_000, 0.1, 10),
    Channel("water_cut_pct", _S, "percent", 0, 100, 0.1, 0.5, bounded_above=True),
    Channel("choke_pct", _S, "percent", 0, 100, 0.1, 0.5, bounded_above=True),
)
"""The 24 float channels, in contract order."""

CHANNEL_NAMES: Final[tuple[str, ...]] = tuple(channel.name for channel in CHANNELS)
CHANNEL_INDEX: Final[dict[str, int]] = {name: index for index, name in enumerate(CHANNEL_NAMES)}
CHANNEL_COUNT: Final[int] = len(CHANNELS)

RUNNING: Final = "running"
TRIP_CODE: Final = "trip_code"

MASK_NAMES: Final[tuple[str, ...]] = (*CHANNEL_NAMES, RUNNING, TRIP_CODE)
"""Name of each bit of a quality mask."""
MASK_BIT: Final[dict[str, int]] = {name: bit for bit, name in enumerate(MASK_NAMES)}
