"""The induction motor: load, current, power factor, power, losses, cooling and insulation."""

from typing import Final

import numpy as np

from esp_gateway.simulator.pump import Floats

KW_PER_HP: Final = 0.7457
RATED_POWER_FACTOR: Final = 0.85
RATED_EFFICIENCY: Final = 0.85
MAGNETISING_SHARE: Final = 0.45
"""Magnetising current as a share of rated: 52 % of rated amps at 30 % load, where motors draw 49-58 %."""

IRON_SHARE: Final = 0.20
"""Share of the rated loss that follows the voltage's frequency rather than the current."""

LOCKED_ROTOR_MULTIPLE: Final = 4.5
"""Current of a rotor that does not turn, in multiples of rated, at the drive's starting voltage."""

STILL_FLUID_FT_S: Final = 0.25
"""Natural convection cools like this velocity, so that a shut-in motor heats to a limit and not for ever."""


def load(shaft_hp: Floats, rated_hp: Floats, frequency_ratio: Floats) -> Floats:
    """Return the motor's load (1 = nameplate): BHP/(HP_nameplate·f/f_nameplate)."""
    return shaft_hp / (rated_hp * np.maximum(frequency_ratio, 0.02))


def current_ratio(motor_load: Floats, voltage_ratio: Floats) -> Floats:
    """Return I/I_rated from load and from V/(V/f line).

    Active and magnetising parts in quadrature: √[(m·v)² + (1 − m²)·(L/v)²].
    """
    active = motor_load / voltage_ratio
    return np.asarray(
        np.sqrt((MAGNETISING_SHARE * voltage_ratio) ** 2 + (1.0 - MAGNETISING_SHARE**2) * active**2)
    )


def loss_kw(rated_kw: Floats, current: Floats, frequency_ratio: Floats, unbalance: Floats) -> Floats:
    """Return heat made in the motor (kW): iron ∝ f^1.5, copper ∝ I²; `current` in multiples of rated.

    Unbalanced currents carry a negative sequence that heats the rotor: copper loss × (1 + 10·u²).
    """
    rated_loss = rated_kw * (1.0 / RATED_EFFICIENCY - 1.0)
    iron = IRON_SHARE * frequency_ratio * np.sqrt(frequency_ratio)
    copper = (1.0 - IRON_SHARE) * current**2 * (1.0 + 10.0 * unbalance**2)
    return np.asarray(rated_loss * (iron + copper))


def rated_current_a(rated_kw: Floats, rated_voltage_v: Floats) -> Floats:
    """Return nameplate amps from kW = √3·V·I·PF/1000 at nameplate efficiency and power factor."""
    volt_amperes = 1000.0 * rated_kw / RATED_EFFICIENCY / RATED_POWER_FACTOR
    return np.asarray(volt_amperes / (np.sqrt(3.0) * rated_voltage_v))


def cooling_velocity_ft_s(rate_bpd: Floats, casing_bore_in: Floats, motor_od_in: Floats) -> Floats:
    """Return the liquid's velocity past the motor: 0.0119·Q/(ID² − OD²), inches; 1 ft/s is wanted."""
    return 0.0119 * rate_bpd / (casing_bore_in**2 - motor_od_in**2)


def film_factor(velocity_ft_s: Floats, void: Floats) -> Floats:
    """Return thermal resistance winding-to-liquid, relative to 1 ft/s of gas-free liquid.

    Half of the resistance is inside the motor, half in the film, which goes with v^-0.6; gas
    carries little heat away.
    """
    film = np.maximum(velocity_ft_s, STILL_FLUID_FT_S) ** -0.6
    return 0.5 + 0.5 * film * (1.0 + 2.0 * void)


def insulation_mohm(cold_mohm: Floats, winding_c: Floats, damage: Floats | float) -> Floats:
    """Return insulation resistance (MΩ): halves each 10 °C above 100 °C; `damage` 1 takes 4.7 decades."""
    return cold_mohm * np.exp2((100.0 - winding_c) / 10.0) * 10.0 ** (-4.7 * damage)


def leakage_ma(phase_voltage_v: Floats, insulation: Floats) -> Floats:
    """Return current to earth (mA): V/R, volts over MΩ being µA."""
    return phase_voltage_v / insulation / 1000.0
