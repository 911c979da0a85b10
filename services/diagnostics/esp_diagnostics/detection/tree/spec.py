"""Pump data required by the tree besides readings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from esp_diagnostics.physics.pumps import Installed


@dataclass(frozen=True, slots=True)
class PumpSpec:
    """Nameplate of a pump; None where unknown.

    `extras`: user settings of the well (`oil_api`, `gas_oil_ratio_scf_stb`, `casing_bore_in`, ...).
    `overrides`: the pump's own values of rule parameters, by name.
    """

    pump_id: str
    field_id: str | None = None
    installed: Installed | None = None
    motor_rated_kw: float | None = None
    motor_rated_current_a: float | None = None
    motor_rated_voltage_v: float | None = None
    motor_rated_frequency_hz: float | None = None
    setting_depth_ft: float | None = None
    expected_interval_s: float | None = None
    extras: Mapping[str, float | str] = field(default_factory=dict)
    overrides: Mapping[str, float] = field(default_factory=dict)
