"""Signals of a pump: the quantities for which baselines are kept."""

from typing import Final, NamedTuple

import numpy as np
from esp_common.contracts.channels import CHANNEL_INDEX

from esp_diagnostics.physics import fluids, gas, motor
from esp_diagnostics.physics.arrays import Bools, Floats, Reason
from esp_diagnostics.physics.pumps import Pumps, brake_hp, head_ft, head_scale
from esp_diagnostics.physics.virtual_flow import Flow, virtual_flow

SIGNALS: Final[dict[str, str]] = {
    "intake_pressure": "psi",
    "discharge_pressure": "psi",
    "pressure_gain": "psi",
    "current": "A",
    "active_power": "kW",
    "winding_rise": "°C",
    "intake_temp": "°C",
    "vibration": "g",
    "wellhead_pressure": "psi",
    "wellhead_temp": "°C",
    "flow_rate": "bpd",
    "casing_pressure": "psi",
    "volts_per_hertz": "V/Hz",
    "power_factor": "",
    "unbalance": "%",
    "insulation": "log10 MΩ",
    "leakage": "mA",
    "virtual_flow": "bpd",
    "head_residual": "",
    "power_residual": "",
    "gain_per_kw": "psi/kW",
}
"""Name and unit of each signal, in the order of the feature columns."""

FEATURES: Final[tuple[str, ...]] = tuple(SIGNALS)
PLACE: Final = {name: place for place, name in enumerate(FEATURES)}

DRIVE_EFFICIENCY: Final = 0.8
"""Assumed shaft over electrical power, motor and cable together; the baseline absorbs its error."""

SETTLED_HZ: Final = 20.0
"""Minimum frequency for volts per hertz; the low voltage of a starting drive is too coarse."""

_CHANNELS: Final[dict[str, tuple[str, ...]]] = {
    "intake_pressure": ("intake_pressure_psi",),
    "discharge_pressure": ("discharge_pressure_psi",),
    "pressure_gain": ("intake_pressure_psi", "discharge_pressure_psi"),
    "current": ("motor_current_a",),
    "active_power": ("active_power_kw",),
    "winding_rise": ("motor_temp_c",),
    "intake_temp": ("intake_temp_c",),
    "vibration": ("vibration_x_g", "vibration_y_g"),
    "wellhead_pressure": ("wellhead_pressure_psi",),
    "wellhead_temp": ("wellhead_temp_c",),
    "flow_rate": ("flow_rate_bpd",),
    "casing_pressure": ("casing_pressure_psi",),
    "volts_per_hertz": ("motor_voltage_v",),
    "power_factor": ("power_factor",),
    "unbalance": ("current_a_a",),
    "insulation": ("insulation_resistance_mohm",),
    "leakage": ("leakage_current_ma",),
    "virtual_flow": ("intake_pressure_psi", "discharge_pressure_psi"),
    "head_residual": ("flow_rate_bpd",),
    "power_residual": ("active_power_kw",),
    "gain_per_kw": ("active_power_kw",),
}
"""Channels whose arrival updates a signal."""

_UPDATES: Final = np.zeros((len(CHANNEL_INDEX), len(FEATURES)), dtype=np.bool_)
for _signal, _names in _CHANNELS.items():
    for _name in _names:
        _UPDATES[CHANNEL_INDEX[_name], PLACE[_signal]] = True


class WellData(NamedTuple):
    """WellData and motor data of m pumps; each (m,), NaN where unknown.

    `gravity` in the pump, estimated from the pump's own head; `produced` from the well test.
    """

    gravity: Floats
    produced: gas.Produced
    rated_current_a: Floats
    rated_kw: Floats
    rated_frequency_hz: Floats
    casing_bore_in: Floats
    motor_od_in: Floats


class Physics(NamedTuple):
    """Signals and operating points of m pumps; each (m,), NaN where unknown."""

    signals: Floats
    pump_rate_bpd: Floats
    measured_rate_bpd: Floats
    virtual_rate_bpd: Floats
    virtual_sigma_bpd: Floats
    flow_residual: Floats
    head_residual: Floats
    power_residual: Floats
    fraction_of_min: Floats
    fraction_of_best: Floats
    fraction_of_max: Floats
    shut_off_share: Floats
    void_fraction: Floats
    turpin: Floats
    cooling_ft_s: Floats
    load: Floats


def fresh_signals(fresh: Bools) -> Bools:
    """Return which signals (m, signals) are new, given the new channels (m, channels)."""
    return np.asarray((fresh.astype(np.float32) @ _UPDATES.astype(np.float32)) > 0)


def channel(values: Floats, name: str) -> Floats:
    """Return the column of a channel in (m, channels)."""
    return np.asarray(values[:, CHANNEL_INDEX[name]])


@np.errstate(divide="ignore", invalid="ignore")
def physics(pumps: Pumps, well: WellData, values: Floats, phases_a: Floats) -> Physics:
    """Return signals and operating points of m pumps from their latest values (m, channels).

    `phases_a`: averaged phase currents (m, 3).
    """
    frequency = np.where(channel(values, "frequency_hz") > 0, channel(values, "frequency_hz"), np.nan)
    intake, discharge = channel(values, "intake_pressure_psi"), channel(values, "discharge_pressure_psi")
    gain = discharge - intake
    power = _power(values)
    entering = gas.at_intake(well.produced, intake, channel(values, "intake_temp_c"))
    volume = np.where(np.isnan(entering.pump_volume), TYPICAL_VOLUME, entering.pump_volume)
    rate = channel(values, "flow_rate_bpd")
    through = rate * volume
    head = fluids.head_ft(gain, well.gravity)
    virtual = virtual_flow(pumps, frequency, head, 0.03)
    at_rate = head_ft(pumps, frequency, through)
    shaft = motor.shaft_kw(brake_hp(pumps, frequency, virtual.rate_bpd, well.gravity)) / DRIVE_EFFICIENCY
    scale = frequency / pumps.rated_frequency_hz * pumps.flow_factor
    best_known = np.where(np.isnan(through), _at_least(pumps, virtual, scale), through)
    signals = np.stack(
        [
            intake,
            discharge,
            gain,
            channel(values, "motor_current_a"),
            power,
            channel(values, "motor_temp_c") - channel(values, "intake_temp_c"),
            channel(values, "intake_temp_c"),
            np.fmax(channel(values, "vibration_x_g"), channel(values, "vibration_y_g")),
            channel(values, "wellhead_pressure_psi"),
            channel(values, "wellhead_temp_c"),
            rate,
            channel(values, "casing_pressure_psi"),
            channel(values, "motor_voltage_v") / np.where(frequency > SETTLED_HZ, frequency, np.nan),
            channel(values, "power_factor"),
            motor.unbalance_pct(*phases_a.T),
            np.log10(np.maximum(channel(values, "insulation_resistance_mohm"), 1e-3)),
            channel(values, "leakage_current_ma"),
            virtual.rate_bpd,
            head / at_rate - 1.0,
            power / shaft - 1.0,
            gain / power,
        ],
        axis=1,
    )
    shut_off = head_scale(pumps, frequency) * pumps.head.value(np.zeros_like(frequency))
    return Physics(
        signals=np.where(np.isfinite(signals), signals, np.nan),
        pump_rate_bpd=best_known,
        measured_rate_bpd=through,
        virtual_rate_bpd=virtual.rate_bpd,
        virtual_sigma_bpd=virtual.sigma_bpd,
        flow_residual=virtual.rate_bpd / np.where(through > 0, through, np.nan) - 1.0,
        head_residual=signals[:, PLACE["head_residual"]],
        power_residual=signals[:, PLACE["power_residual"]],
        fraction_of_min=best_known / (pumps.min_bpd * scale),
        fraction_of_best=best_known / (pumps.best_bpd * scale),
        fraction_of_max=best_known / (pumps.max_bpd * scale),
        shut_off_share=head / shut_off,
        void_fraction=entering.gas_void_fraction,
        turpin=gas.turpin(entering.gas_liquid_ratio, intake),
        cooling_ft_s=motor.cooling_velocity_ft_s(best_known, well.casing_bore_in, well.motor_od_in),
        load=_load(well, values, power, frequency),
    )


TYPICAL_VOLUME: Final = 1.1
"""Volume through the pump per stock-tank volume while the fluid is unknown."""


@np.errstate(divide="ignore", invalid="ignore")
def gravity_seen(pumps: Pumps, values: Floats, volume: Floats | float = TYPICAL_VOLUME) -> Floats:
    """Return the gravity (m,) at which the head at the measured rate explains the pressure gain."""
    gain = channel(values, "discharge_pressure_psi") - channel(values, "intake_pressure_psi")
    head = head_ft(pumps, channel(values, "frequency_hz"), channel(values, "flow_rate_bpd") * volume)
    gravity = fluids.pressure_psi(1.0, 1.0)
    seen = gain / (gravity * head)
    return np.where((seen > 0.4) & (seen < 1.4), seen, np.nan)


def phase_currents(values: Floats) -> Floats:
    """Return the three phase currents (A, (m, 3))."""
    return np.stack([channel(values, f"current_{phase}_a") for phase in "abc"], axis=1)


@np.errstate(divide="ignore", invalid="ignore")
def unbalance_pct(values: Floats) -> Floats:
    """Return the present current unbalance (%, (m,))."""
    return motor.unbalance_pct(*phase_currents(values).T)


def _at_least(pumps: Pumps, virtual: Flow, scale: Floats) -> Floats:
    """Return the virtual rate (bpd), or the end of the curve that the head is beyond."""
    beyond = np.where(virtual.reason == Reason.BELOW_CURVE, pumps.ends_at_bpd * scale, np.nan)
    before = np.where(virtual.reason == Reason.ABOVE_CURVE, pumps.falling_from_bpd * scale, beyond)
    return np.where(virtual.reason == Reason.OK, virtual.rate_bpd, before)


def _power(values: Floats) -> Floats:
    """Return electrical power (kW, (m,)): measured, else from volts, amps and power factor."""
    computed = motor.input_kw(
        channel(values, "motor_voltage_v"),
        channel(values, "motor_current_a"),
        channel(values, "power_factor"),
    )
    measured = channel(values, "active_power_kw")
    return np.where(np.isnan(measured), computed, measured)


def _load(well: WellData, values: Floats, power: Floats, frequency: Floats) -> Floats:
    """Return the motor load (1 = nameplate, (m,)): reported by the drive, else from power."""
    available = well.rated_kw * frequency / well.rated_frequency_hz
    reported = channel(values, "motor_load_pct") / 100.0
    return np.where(np.isnan(reported), power * DRIVE_EFFICIENCY / available, reported)
