"""The produced fluid: what liquid and gas come to at the pump's intake and in the tubing."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from esp_gateway.simulator import gas
from esp_gateway.simulator.pump import PSI_PER_FOOT_OF_WATER, Floats

PSI_PER_FT_BELOW_PUMP: Final = 0.38
"""Gradient between perforations and pump, and of the gassy liquid standing in the annulus."""

TUBING_HOLD_UP: Final = 0.75
"""In-situ share of the no-slip gas fraction in the tubing: gas outruns the liquid."""

STEADY_SLUGS: Final = 0.03
CHURN_SLUGS: Final = 1.2
"""Relative swing of the free gas: bubbles arrive evenly, and swing with the void once they coalesce."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What the reservoir delivers; gravities relative to water, gas-oil ratio in scf/stb."""

    water_cut: Floats
    oil_gravity: Floats
    water_gravity: Floats
    gas_oil_ratio_scf: Floats
    separator_efficiency: Floats


@dataclass(frozen=True, slots=True)
class Intake:
    """The fluid in the pump, at intake conditions (the conservative end: it is compressed on its way).

    `surface_share` is stock-tank liquid per unit of total volume; `tubing_gas_scf` the gas per
    stock-tank barrel of oil that passes the separator.
    """

    liquid_gravity: Floats
    mixture_gravity: Floats
    void: Floats
    liquid_volume: Floats
    surface_share: Floats
    tubing_gas_scf: Floats


def at_intake(
    mixture: Mixture,
    pressure_psi: Floats,
    temperature_c: Floats,
    slug: Floats | float = 0.0,
    trapped: Floats | float = 0.0,
) -> Intake:
    """Return the fluid entering the first stage.

    `slug` is a standard normal variate: gas arrives in slugs, the more so the more there is of it.
    `trapped` is a void fraction beyond what the liquid brings: a gas pocket in the stages, or
    annulus gas drawn in at a low level.
    """
    oil = 1.0 - mixture.water_cut
    dissolved = np.minimum(gas.solution_ratio_scf(pressure_psi, temperature_c), mixture.gas_oil_ratio_scf)
    liquid_volume = mixture.water_cut + oil * gas.oil_volume(dissolved, temperature_c)
    free_scf = mixture.gas_oil_ratio_scf - dissolved
    ratio = oil * free_scf * gas.gas_volume_bbl(pressure_psi, temperature_c) / liquid_volume
    passing = ratio * (1.0 - mixture.separator_efficiency)
    slugging = np.maximum(1.0 + slug * (STEADY_SLUGS + CHURN_SLUGS * gas.void_fraction(passing)), 0.0)
    arriving = gas.void_fraction(passing * slugging)
    void = np.clip(1.0 - (1.0 - arriving) * (1.0 - trapped), 0.0, 0.95)
    gravity = mixture.water_cut * mixture.water_gravity + oil * mixture.oil_gravity
    return Intake(
        liquid_gravity=gravity,
        mixture_gravity=gravity * (1.0 - void),
        void=void,
        liquid_volume=liquid_volume,
        surface_share=(1.0 - void) / liquid_volume,
        tubing_gas_scf=dissolved + free_scf * (1.0 - mixture.separator_efficiency),
    )


def tubing_gradient(mixture: Mixture, intake: Intake, average_psi: Floats, temperature_c: Floats) -> Floats:
    """Return the gradient (psi/ft) of the fluid filling the tubing, at its average pressure."""
    oil = 1.0 - mixture.water_cut
    free = np.maximum(intake.tubing_gas_scf - gas.solution_ratio_scf(average_psi, temperature_c), 0.0)
    ratio = oil * free * gas.gas_volume_bbl(average_psi, temperature_c) / intake.liquid_volume
    hold_up = 1.0 - TUBING_HOLD_UP * gas.void_fraction(ratio)
    return np.asarray(PSI_PER_FOOT_OF_WATER * intake.liquid_gravity * hold_up)


def choke_factor(mixture: Mixture, intake: Intake, pressure_psi: Floats, temperature_c: Floats) -> Floats:
    """Return what a choke's pressure loss is multiplied by for this fluid against gas-free water.

    Homogeneous flow: Δp ∝ ρ·v² with volume (1 + R) and density SG/(1 + R) gives SG·(1 + R), R being the
    gas-liquid ratio at the flowline's pressure.
    """
    oil = 1.0 - mixture.water_cut
    dissolved = np.minimum(gas.solution_ratio_scf(pressure_psi, temperature_c), intake.tubing_gas_scf)
    ratio = oil * (intake.tubing_gas_scf - dissolved) * gas.gas_volume_bbl(pressure_psi, temperature_c)
    return intake.liquid_gravity * (1.0 + ratio)
