"""The wells of a field and what is installed in them, as columns over pumps."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from esp_gateway.simulator import fluid, gas, inflow, motor, tubing, viscosity
from esp_gateway.simulator.pump import CATALOGUE, PSI_PER_FOOT_OF_WATER, Curve, Floats, polynomial

DEGREE: Final = 6
"""Coefficients kept of every polynomial; shorter ones are padded with zeros."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Wells:
    """n wells. Every array has the pump on its last axis; units are in the names, °C, psi, ft, bpd."""

    head_coefficients: Floats
    power_coefficients: Floats
    open_flow_bpd: Floats
    min_bpd: Floats
    best_bpd: Floats
    max_bpd: Floats
    gas_handler: Bools
    stages: Floats
    set_frequency_hz: Floats
    depth_ft: Floats
    perforations_ft: Floats
    tubing_bore_in: Floats
    tubing_od_in: Floats
    casing_bore_in: Floats
    motor_od_in: Floats
    water_cut: Floats
    oil_gravity: Floats
    water_gravity: Floats
    gas_oil_ratio_scf: Floats
    separator_efficiency: Floats
    viscosity_cst: Floats
    reservoir_psi: Floats
    bubble_point_psi: Floats
    productivity_bpd_psi: Floats
    line_psi: Floats
    choke_psi_per_bpd2: Floats
    choke_pct: Floats
    surface_temp_c: Floats
    intake_temp_c: Floats
    design_rate_bpd: Floats
    design_intake_psi: Floats
    design_gain_psi: Floats
    rated_hp: Floats
    rated_voltage_v: Floats
    winding_rise_c_per_kw: Floats
    cold_insulation_mohm: Floats
    vibration_g: Floats
    vibration_y_share: Floats
    phase_skew: Floats

    @cached_property
    def rated_kw(self) -> Floats:
        """Return nameplate power at the shaft (kW)."""
        return self.rated_hp * motor.KW_PER_HP

    @cached_property
    def rated_current_a(self) -> Floats:
        """Return nameplate current (A)."""
        return motor.rated_current_a(self.rated_kw, self.rated_voltage_v)

    @cached_property
    def annulus_bbl_per_ft(self) -> Floats:
        """Return what a foot of casing-tubing annulus holds (bbl)."""
        return np.asarray((self.casing_bore_in**2 - self.tubing_od_in**2) * np.pi / 4.0 / 144.0 / 5.6146)

    @cached_property
    def best_head_ft(self) -> Floats:
        """Return a stage's head at best efficiency, 60 Hz (ft)."""
        return polynomial(self.head_coefficients, self.best_bpd)

    @cached_property
    def water_like(self) -> viscosity.Correction:
        """Return what the healthy liquid's viscosity does to the curve."""
        return viscosity.correction(self.viscosity_cst, self.best_head_ft, self.best_bpd)

    @cached_property
    def tubing_bbl(self) -> Floats:
        """Return what the tubing holds (bbl)."""
        return np.asarray(self.tubing_bore_in**2 * np.pi / 4.0 / 144.0 / 5.6146 * self.depth_ft)

    def take(self, index: npt.NDArray[np.intp]) -> "Wells":
        """Return the wells at `index`; repeating one gives twins."""
        return Wells(**{item.name: getattr(self, item.name)[..., index] for item in fields(self)})


@dataclass(frozen=True, slots=True)
class Completion:
    """Casing, tubing and motor sizes that go together (inches)."""

    casing_bore_in: float
    tubing_bore_in: float
    tubing_od_in: float
    motor_od_in: float


SLIM: Final = Completion(4.950, 2.441, 2.875, 4.56)
"""5½-inch casing, 2⅞-inch tubing: keeps 500 bpd above 1 ft/s past the motor."""

FULL: Final = Completion(6.276, 2.992, 3.500, 5.40)
"""7-inch casing, 3½-inch tubing."""


def design_wells(random: np.random.Generator, models: list[Curve]) -> Wells:
    """Return one well per entry of `models`, drawn at random and sized so that pump and well fit.

    The duty is drawn (rate near best efficiency, intake pressure, depth), and stages, productivity,
    choke and motor follow from it, as an engineer sizes them.
    """
    n = len(models)
    sizes = [SLIM if curve.best_bpd < 700 else FULL for curve in models]

    def draw(low: float, high: float) -> Floats:
        return random.uniform(low, high, n)

    depth, surface = draw(5500, 8500), draw(18, 28)
    duty = _Duty(
        speed=draw(46, 58).round(1) / 60.0,
        at_60hz_bpd=np.array([curve.best_bpd for curve in models]) * draw(0.88, 1.08),
        intake_psi=draw(450, 1000),
        depth_ft=depth.round(0),
        perforations_ft=(depth + draw(250, 700)).round(0),
        drawdown_psi=draw(450, 1100),
        bubble_point_psi=draw(900, 1500),
        line_psi=draw(80, 170),
        choke_psi=draw(50, 130),
        surface_temp_c=surface,
        intake_temp_c=surface + depth * draw(0.0115, 0.0135),
        motor_load=draw(0.66, 0.84),
        winding_rise_c=draw(16, 34),
        mixture=fluid.Mixture(
            water_cut=draw(0.35, 0.85),
            oil_gravity=draw(0.84, 0.88),
            water_gravity=draw(1.02, 1.08),
            gas_oil_ratio_scf=draw(120, 260),
            separator_efficiency=draw(0.70, 0.88),
        ),
    )
    sized = _size(models, sizes, duty)
    return Wells(
        **sized,
        viscosity_cst=draw(0.8, 1.4),
        choke_pct=draw(45, 90).round(0),
        cold_insulation_mohm=draw(1500, 6000),
        vibration_g=draw(0.06, 0.16),
        vibration_y_share=draw(0.75, 1.2),
        phase_skew=draw(-0.012, 0.012),
    )


@dataclass(frozen=True, slots=True)
class _Duty:
    """What a pump is chosen for: speed as a share of 60 Hz, rates at pump conditions."""

    speed: Floats
    at_60hz_bpd: Floats
    intake_psi: Floats
    depth_ft: Floats
    perforations_ft: Floats
    drawdown_psi: Floats
    bubble_point_psi: Floats
    line_psi: Floats
    choke_psi: Floats
    surface_temp_c: Floats
    intake_temp_c: Floats
    motor_load: Floats
    winding_rise_c: Floats
    mixture: fluid.Mixture


def _size(models: list[Curve], sizes: list[Completion], duty: _Duty) -> dict[str, Any]:
    """Return the columns of `Wells` that follow from the duty."""
    handler = np.array([curve.gas_handler for curve in models])
    heads, powers = _coefficients([c.head_ft for c in models]), _coefficients([c.brake_hp for c in models])
    intake = fluid.at_intake(duty.mixture, duty.intake_psi, duty.intake_temp_c)
    rate = duty.at_60hz_bpd * duty.speed * intake.surface_share
    bore = np.array([size.tubing_bore_in for size in sizes])
    gain = _gain_psi(duty, intake, rate, bore)
    stage_psi = PSI_PER_FOOT_OF_WATER * intake.mixture_gravity * gas.head_factor(intake.void, handler)
    stages = np.ceil(gain / (stage_psi * duty.speed**2 * polynomial(heads, duty.at_60hz_bpd)))
    hp = stages * intake.mixture_gravity * duty.speed**3 * polynomial(powers, duty.at_60hz_bpd)
    rated_hp = np.ceil(hp / duty.speed / duty.motor_load / 2.0) * 2.0
    choke_factor = fluid.choke_factor(duty.mixture, intake, duty.line_psi, duty.surface_temp_c)
    bottomhole = duty.intake_psi + fluid.PSI_PER_FT_BELOW_PUMP * (duty.perforations_ft - duty.depth_ft)
    reservoir = bottomhole + duty.drawdown_psi
    rated_kw = rated_hp * motor.KW_PER_HP
    loss = motor.loss_kw(rated_kw, motor.current_ratio(duty.motor_load, np.ones(1)), duty.speed, np.zeros(1))
    return {
        "head_coefficients": heads,
        "power_coefficients": powers,
        "open_flow_bpd": np.array([curve.open_flow_bpd() for curve in models]),
        "min_bpd": np.array([curve.min_bpd for curve in models]),
        "best_bpd": np.array([curve.best_bpd for curve in models]),
        "max_bpd": np.array([curve.max_bpd for curve in models]),
        "gas_handler": handler,
        "stages": stages,
        "set_frequency_hz": duty.speed * 60.0,
        "depth_ft": duty.depth_ft,
        "perforations_ft": duty.perforations_ft,
        "tubing_bore_in": bore,
        "tubing_od_in": np.array([size.tubing_od_in for size in sizes]),
        "casing_bore_in": np.array([size.casing_bore_in for size in sizes]),
        "motor_od_in": np.array([size.motor_od_in for size in sizes]),
        "water_cut": duty.mixture.water_cut,
        "oil_gravity": duty.mixture.oil_gravity,
        "water_gravity": duty.mixture.water_gravity,
        "gas_oil_ratio_scf": duty.mixture.gas_oil_ratio_scf,
        "separator_efficiency": duty.mixture.separator_efficiency,
        "reservoir_psi": reservoir,
        "bubble_point_psi": duty.bubble_point_psi,
        "productivity_bpd_psi": inflow.productivity_for(rate, bottomhole, reservoir, duty.bubble_point_psi),
        "line_psi": duty.line_psi,
        "choke_psi_per_bpd2": duty.choke_psi / rate**2 / choke_factor,
        "surface_temp_c": duty.surface_temp_c,
        "intake_temp_c": duty.intake_temp_c,
        "design_rate_bpd": rate,
        "design_intake_psi": duty.intake_psi,
        "design_gain_psi": gain,
        "rated_hp": rated_hp,
        "rated_voltage_v": np.where(rated_hp < 60, 1140.0, np.where(rated_hp < 130, 1820.0, 2400.0)),
        "winding_rise_c_per_kw": duty.winding_rise_c / loss,
    }


def _gain_psi(duty: _Duty, intake: fluid.Intake, rate: Floats, bore: Floats) -> Floats:
    """Return the pressure the pump has to add: TDH as psi = lift + friction + wellhead − intake."""
    wellhead = duty.line_psi + duty.choke_psi
    viscosity = np.ones_like(rate)
    k = tubing.friction_psi_per_bpd2(rate, duty.depth_ft, bore, intake.liquid_gravity, viscosity)
    discharge = wellhead + 0.35 * duty.depth_ft
    for _ in range(4):
        average = (discharge + wellhead) / 2.0
        gradient = fluid.tubing_gradient(duty.mixture, intake, average, duty.intake_temp_c)
        discharge = wellhead + gradient * duty.depth_ft + k * rate**2
    return discharge - duty.intake_psi


def _coefficients(polynomials: list[tuple[float, ...]]) -> Floats:
    """Return coefficients as (DEGREE, n), padded with zeros."""
    padded = np.zeros((DEGREE, len(polynomials)))
    for column, coefficients in enumerate(polynomials):
        padded[: len(coefficients), column] = coefficients
    return padded


def draw_models(random: np.random.Generator, n: int) -> list[Curve]:
    """Return n pump models; each of the catalogue appears when n allows, the AN550 most often."""
    order = [CATALOGUE[index % len(CATALOGUE)] for index in range(n)]
    spare = random.random(n) < 0.2
    return [CATALOGUE[0] if more else curve for curve, more in zip(order, spare, strict=True)]
