"""How gateways report: everything by the clock, gauge and drive apart, by exception, in a vendor's tags."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import numpy as np
from esp_common.contracts.channels import CHANNEL_NAMES, CHANNELS, RUNNING, TRIP_CODE, Group

from esp_gateway.simulator.gauge import INSULATION, INSULATION_NOISE, NOISE, RATE, RATE_NOISE
from esp_gateway.simulator.pump import Floats
from esp_gateway.simulator.sampling import Sample
from esp_gateway.simulator.wells import Bools


class Style(StrEnum):
    """What makes a gateway send a reading."""

    PERIODIC = "periodic"  # every channel at each scan
    APART = "apart"  # the same, downhole gauge and drive in separate readings of one instant
    BY_EXCEPTION = "by_exception"  # a channel when it has moved or been silent for long
    VENDOR_TAGS = "vendor_tags"  # periodic, in another vendor's tags and units


STYLES: Final = (Style.PERIODIC, Style.APART, Style.BY_EXCEPTION, Style.BY_EXCEPTION, Style.VENDOR_TAGS)
"""Styles of gw-01 to gw-05; further gateways repeat them."""

SILENT_S: Final = 1200.0
"""A channel reports at least this often, however little it moves."""

DEAD_BANDS: Final = 5.0
"""Dead-band in standard deviations of a channel's noise."""


_GAUGE: Final = np.array([channel.group is Group.GAUGE for channel in CHANNELS])
_SHARES: Final = ((RATE, RATE_NOISE), (INSULATION, INSULATION_NOISE))
"""Channels whose noise, and so dead-band, is a share of the value."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A vendor's tag: value = (channel·factor) + offset in `unit`, with `decimals`."""

    name: str
    unit: str
    factor: float = 1.0
    offset: float = 0.0
    decimals: int = 4


_PSI_TO_KPA: Final = 6.894757293168361
VENDOR_TAGS: Final[dict[str, Tag]] = {
    "intake_pressure_psi": Tag("PIP_KPA", "kPa", _PSI_TO_KPA),
    "discharge_pressure_psi": Tag("PDP_KPA", "kPa", _PSI_TO_KPA),
    "intake_temp_c": Tag("TI_F", "degF", 1.8, 32.0),
    "motor_temp_c": Tag("TM_F", "degF", 1.8, 32.0),
    "vibration_x_g": Tag("VX_G", "g_0"),
    "vibration_y_g": Tag("VY_G", "g_0"),
    "leakage_current_ma": Tag("ILEAK_UA", "uA", 1000.0),
    "insulation_resistance_mohm": Tag("RISO_KOHM", "kohm", 1000.0),
    "frequency_hz": Tag("FREQ", "Hz"),
    "motor_current_a": Tag("AMPS", "A"),
    "current_a_a": Tag("AMPS_A", "A"),
    "current_b_a": Tag("AMPS_B", "A"),
    "current_c_a": Tag("AMPS_C", "A"),
    "motor_voltage_v": Tag("VOLTS", "V"),
    "power_factor": Tag("PF", "dimensionless"),
    "active_power_kw": Tag("POWER_W", "W", 1000.0),
    "motor_load_pct": Tag("LOAD", "percent"),
    "drive_temp_c": Tag("VSD_F", "degF", 1.8, 32.0),
    "wellhead_pressure_psi": Tag("WHP_KPA", "kPa", _PSI_TO_KPA),
    "casing_pressure_psi": Tag("CHP_KPA", "kPa", _PSI_TO_KPA),
    "wellhead_temp_c": Tag("WHT_F", "degF", 1.8, 32.0),
    "flow_rate_bpd": Tag("RATE_M3D", "m**3/day", 0.158987294928),
    "water_cut_pct": Tag("BSW", "percent"),
    "choke_pct": Tag("CHOKE", "percent"),
}
IGNORED_TAG: Final = "SCAN_NO"
"""A tag the vendor sends that means nothing to the platform."""


def tag_map() -> dict[str, dict[str, str] | None]:
    """Return the vendor's tags as the platform registers them."""
    known: dict[str, dict[str, str] | None] = {
        tag.name: {"channel": channel, "unit": tag.unit} for channel, tag in VENDOR_TAGS.items()
    }
    return {**known, IGNORED_TAG: None}


@dataclass(slots=True)
class Gateway:
    """One gateway and the columns of its pumps; remembers what it last reported by exception."""

    gateway_id: str
    pump_ids: list[str]
    pumps: slice
    style: Style
    _last: Floats = field(init=False)
    _last_s: Floats = field(init=False)
    _last_running: Floats = field(init=False)

    def __post_init__(self) -> None:
        shape = (len(self.pump_ids), len(CHANNEL_NAMES))
        self._last = np.full(shape, np.nan)
        self._last_s = np.full(shape, -np.inf)
        self._last_running = np.full(len(self.pump_ids), -1.0)

    def report(self, time_s: Floats, taken: Sample) -> list[dict[str, Any]]:
        """Return the wire readings of one scan of all the field's pumps."""
        values, instants = taken.values[self.pumps], time_s[self.pumps]
        running, trips = taken.running[self.pumps], taken.trip_code[self.pumps]
        measured = ~np.isnan(values)
        if self.style is Style.BY_EXCEPTION:
            sent, changed = self._due(values, measured, instants, running)
            return self._readings(instants, values, sent, running, trips, changed)
        everything = np.ones(len(running), dtype=bool)
        if self.style is Style.APART:
            gauge = self._readings(instants, values, measured & _GAUGE, running, trips, ~everything)
            return gauge + self._readings(instants, values, measured & ~_GAUGE, running, trips, everything)
        readings = self._readings(instants, values, measured, running, trips, everything)
        if self.style is Style.VENDOR_TAGS:
            return [_in_vendor_tags(reading, int(time_s[0])) for reading in readings]
        return readings

    def _due(self, values: Floats, measured: Bools, time_s: Floats, running: Bools) -> tuple[Bools, Bools]:
        """Return which channels, and which pumps' states, are due; remember them as sent."""
        band = np.broadcast_to(DEAD_BANDS * NOISE, values.shape).copy()
        for column, share in _SHARES:
            band[:, column] = DEAD_BANDS * share * np.nan_to_num(values[:, column])
        known = ~np.isnan(self._last)
        moved = np.abs(values - np.where(known, self._last, 0.0)) > band
        silent = time_s[:, None] - self._last_s >= SILENT_S
        sent = measured & (~known | moved | silent)
        self._last = np.where(sent, values, self._last)
        self._last_s = np.where(sent, time_s[:, None], self._last_s)
        changed = running != self._last_running
        self._last_running = running.astype(float)
        return sent, changed | (sent.sum(axis=1) > len(CHANNELS) // 2)

    def _readings(
        self,
        time_s: Floats,
        values: Floats,
        sent: Bools,
        running: Bools,
        trips: np.ndarray[Any, Any],
        state: Bools,
    ) -> list[dict[str, Any]]:
        """Return one dict per pump with anything to send: channels in `sent`, drive's state in `state`."""
        readings = []
        for row, pump_id in enumerate(self.pump_ids):
            columns = np.flatnonzero(sent[row])
            if len(columns) == 0 and not state[row]:
                continue
            reading: dict[str, Any] = {"pump_id": pump_id, "time": wire_time(time_s[row])}
            reading.update(
                zip((CHANNEL_NAMES[column] for column in columns), values[row, columns].tolist(), strict=True)
            )
            if state[row]:
                reading[RUNNING], reading[TRIP_CODE] = bool(running[row]), int(trips[row])
            readings.append(reading)
        return readings


def wire_time(time_s: float) -> str:
    """Return RFC 3339 UTC with a Z; whole seconds without a fraction."""
    instant = datetime.fromtimestamp(round(time_s * 1000) / 1000, UTC)
    return instant.isoformat().replace("+00:00", "Z")


def _in_vendor_tags(reading: dict[str, Any], scan: int) -> dict[str, Any]:
    renamed: dict[str, Any] = {IGNORED_TAG: scan}
    for key, value in reading.items():
        tag = VENDOR_TAGS.get(key)
        if tag is None:
            renamed[key] = value
        else:
            renamed[tag.name] = round(value * tag.factor + tag.offset, tag.decimals)
    return renamed
