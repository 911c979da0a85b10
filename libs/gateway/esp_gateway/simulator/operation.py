"""The operating point: where well, pump, tubing and motor agree at one instant."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from esp_gateway.simulator import fluid, gas, motor, tubing, viscosity
from esp_gateway.simulator.faults import Causes
from esp_gateway.simulator.pump import PSI_PER_FOOT_OF_WATER, RATED_FREQUENCY_HZ, Floats, polynomial
from esp_gateway.simulator.wells import Bools, Wells

NEWTON_STEPS: Final = 30
NEWTON_BPD: Final = 1e-3
"""Newton stops at this change; from the last minute's rate it takes three steps, after a jump ten."""

FALLING_SHARE: Final = 0.3
"""Share of open flow beyond which every curve falls steadily: Newton starts no lower."""

LEVEL_SCALE_FT: Final = 40.0
"""Height of liquid over the intake that keeps all but 1/e of the annulus gas out."""

BUBBLY_VOID: Final = 0.06
"""Void fraction up to which gas passes as fine bubbles and shakes nothing."""

IDLE_LOAD: Final = 0.02
"""Bearings, seals and the thrust chamber, as a share of nameplate torque."""

REVERSED_HEAD: Final = 0.34
REVERSED_RATE: Final = 0.75
REVERSED_POWER: Final = 1.6
"""A radial stage turning backwards makes 40-60 % of its duty's head when hardly anything flows, and takes
as much power there as at its duty: the vanes churn (vendor training)."""

SINGLE_PHASE_SLIP: Final = 0.10
RIDE_THROUGH_SHARE: Final = 0.03
"""Sag beyond which a drive lowers its frequency to keep the link voltage."""

CASING_VENT_PSI: Final = 15.0


class Slow(NamedTuple):
    """What cannot change in an instant, and the weather of the well; pump on the last axis.

    `weather` stacks four standard normals, correlated over minutes, on its first axis: slugs of free
    gas, flowline pressure, feeder voltage, and torque of solids.
    """

    intake_psi: Floats
    gradient_psi_ft: Floats
    intake_c: Floats
    motor_c: Floats
    wellhead_c: Floats
    rate_bpd: Floats
    weather: Floats

    @property
    def slug(self) -> Floats:
        """Return how gas arrives."""
        return np.asarray(self.weather[0])

    @property
    def line(self) -> Floats:
        """Return how the flowline's pressure swings."""
        return np.asarray(self.weather[1])

    @property
    def supply(self) -> Floats:
        """Return how the feeder's voltage swings."""
        return np.asarray(self.weather[2])

    @property
    def grit(self) -> Floats:
        """Return how the torque of solids swings."""
        return np.asarray(self.weather[3])


class Drive(NamedTuple):
    """What the drive does at one instant; `frequency_hz` is its command."""

    running: Bools
    stalled: Bools
    reversed: Bools
    frequency_hz: Floats


@dataclass(frozen=True, slots=True)
class Operation:
    """The operating point, noise-free, units in the names; pump on the last axis."""

    intake: fluid.Intake
    mixture: fluid.Mixture
    pump_rate_bpd: Floats
    surface_rate_bpd: Floats
    discharge_psi: Floats
    wellhead_psi: Floats
    casing_psi: Floats
    frequency_hz: Floats
    shaft_hp: Floats
    load: Floats
    current_ratio: Floats
    unbalance: Floats
    voltage_v: Floats
    power_factor: Floats
    active_kw: Floats
    loss_kw: Floats
    film: Floats
    vibration_g: Floats
    insulation_mohm: Floats


def operate(wells: Wells, slow: Slow, drive: Drive, causes: Causes) -> Operation:
    """Return the operating point; everything broadcasts, so one call may cover many instants."""
    mixture = _mixture(wells, causes)
    frequency, voltage_ratio = _supply(slow, drive, causes)
    speed = _speed(drive, frequency, causes)
    casing = wells.line_psi + CASING_VENT_PSI
    intake = _intake(wells, slow, causes, mixture, casing)
    stage = _stages(wells, causes, drive, intake, speed)
    way_up = _way_up(wells, slow, causes, mixture, intake)
    rate, gain = _balance(wells, slow, causes, intake, stage, way_up)
    surface = _surface_rate(wells, causes, intake, rate, gain)
    shaft = _shaft_hp(wells, slow, causes, intake, stage, rate)
    ratio = frequency / RATED_FREQUENCY_HZ
    load = motor.load(shaft, wells.rated_hp, ratio)
    current = _current(drive, load, voltage_ratio)
    unbalance = np.minimum(np.abs(wells.phase_skew) + causes.unbalance + causes.open_phase, 0.55)
    loss = motor.loss_kw(wells.rated_kw, current, ratio, unbalance)
    voltage = wells.rated_voltage_v * ratio * voltage_ratio * drive.running
    active = (shaft * motor.KW_PER_HP + loss) * drive.running
    return Operation(
        intake=intake,
        mixture=mixture,
        pump_rate_bpd=rate,
        surface_rate_bpd=surface,
        discharge_psi=slow.intake_psi + gain,
        wellhead_psi=way_up.end_psi + way_up.choke * surface**2,
        casing_psi=casing,
        frequency_hz=frequency,
        shaft_hp=shaft,
        load=load * drive.running,
        current_ratio=current,
        unbalance=unbalance,
        voltage_v=voltage,
        power_factor=_power_factor(active, voltage, current * wells.rated_current_a),
        active_kw=active,
        loss_kw=loss * drive.running,
        film=_film(wells, causes, intake, surface),
        vibration_g=_vibration(wells, causes, intake, stage, rate, unbalance, slow.intake_psi),
        insulation_mohm=motor.insulation_mohm(wells.cold_insulation_mohm, slow.motor_c, causes.insulation),
    )


def _mixture(wells: Wells, causes: Causes) -> fluid.Mixture:
    """Return what the reservoir delivers now."""
    return fluid.Mixture(
        water_cut=wells.water_cut + (1.0 - wells.water_cut) * causes.water_for_oil,
        oil_gravity=wells.oil_gravity * (1.0 - np.asarray(causes.lightening)),
        water_gravity=wells.water_gravity * (1.0 - np.asarray(causes.lightening)),
        gas_oil_ratio_scf=wells.gas_oil_ratio_scf * (1.0 + np.asarray(causes.gas_oil_ratio)),
        separator_efficiency=wells.separator_efficiency,
    )


def _supply(slow: Slow, drive: Drive, causes: Causes) -> tuple[Floats, Floats]:
    """Return the drive's output frequency (Hz) and V/f relative to its line."""
    supply = 1.0 + (0.002 + np.asarray(causes.supply_swing)) * slow.supply
    sag = np.maximum(1.0 - supply - RIDE_THROUGH_SHARE, 0.0)
    return drive.frequency_hz * (1.0 - sag), np.clip(supply, 0.6, 1.15)


def _speed(drive: Drive, frequency_hz: Floats, causes: Causes) -> Floats:
    """Return the shaft's speed as a share of 60 Hz; never quite zero, since affinity divides by it."""
    slip = 1.0 - SINGLE_PHASE_SLIP * np.asarray(causes.open_phase)
    turning = drive.running & ~drive.stalled
    return np.maximum(frequency_hz / RATED_FREQUENCY_HZ * slip * turning, 1e-3)


def _intake(
    wells: Wells, slow: Slow, causes: Causes, mixture: fluid.Mixture, casing_psi: Floats
) -> fluid.Intake:
    """Return the fluid entering the first stage: behind the screen, with the gas a low level lets in."""
    entry = slow.intake_psi
    if np.any(causes.screen_loss):
        entry = entry - _screen(wells, causes) * slow.rate_bpd**2
    level_ft = np.maximum(slow.intake_psi - casing_psi, 0.0) / fluid.PSI_PER_FT_BELOW_PUMP
    gulped = 0.6 * np.exp(-level_ft / LEVEL_SCALE_FT)
    trapped = 1.0 - (1.0 - gulped) * (1.0 - np.asarray(causes.gas_pocket))
    return fluid.at_intake(mixture, entry, slow.intake_c, slow.slug, trapped)


def _screen(wells: Wells, causes: Causes) -> Floats:
    """Return the screen's resistance k in Δp = k·Q² (psi, bpd)."""
    return np.asarray(causes.screen_loss * wells.design_intake_psi / wells.design_rate_bpd**2)


class _Stages(NamedTuple):
    """The pump as it turns: its curve is `scale_psi·polynomial(Q/rate_scale)`."""

    speed: Floats
    rate_scale: Floats
    scale_psi: Floats
    live: Floats
    power_factor: Floats


def _stages(wells: Wells, causes: Causes, drive: Drive, intake: fluid.Intake, speed: Floats) -> _Stages:
    """Return how speed, gas, viscosity, wear, deposits and rotation bend the water curve."""
    thick = wells.water_like
    if np.any(causes.emulsion_cst):
        thick = viscosity.correction(
            wells.viscosity_cst + causes.emulsion_cst, wells.best_head_ft, wells.best_bpd
        )
    open_share = 1.0 - np.asarray(causes.blocked_passage)
    head = thick.head * gas.head_factor(intake.void, wells.gas_handler)
    head = head * (1.0 - np.asarray(causes.clearance)) * np.sqrt(open_share)
    live = 1.0 - np.asarray(causes.dead_stages)
    backwards = drive.reversed
    return _Stages(
        speed=speed,
        rate_scale=speed * thick.rate * open_share * np.where(backwards, REVERSED_RATE, 1.0),
        scale_psi=PSI_PER_FOOT_OF_WATER
        * intake.mixture_gravity
        * wells.stages
        * live
        * speed**2
        * head
        * np.where(backwards, REVERSED_HEAD, 1.0),
        live=live,
        power_factor=thick.rate * thick.head / thick.efficiency * np.where(backwards, REVERSED_POWER, 1.0),
    )


class _WayUp(NamedTuple):
    """Back pressure of the well: end + lift + (friction + choke)·Q²."""

    end_psi: Floats
    lift_psi: Floats
    friction: Floats
    choke: Floats


def _way_up(wells: Wells, slow: Slow, causes: Causes, mixture: fluid.Mixture, intake: fluid.Intake) -> _WayUp:
    """Return what the pump works against."""
    friction = tubing.friction_psi_per_bpd2(
        slow.rate_bpd,
        wells.depth_ft,
        wells.tubing_bore_in,
        intake.liquid_gravity,
        wells.viscosity_cst + causes.emulsion_cst,
    )
    opening = np.maximum(1.0 - np.asarray(causes.closed_valve), 1e-4)
    thinning = fluid.choke_factor(mixture, intake, wells.line_psi, wells.surface_temp_c)
    return _WayUp(
        end_psi=wells.line_psi + 0.8 * slow.line,
        lift_psi=slow.gradient_psi_ft * wells.depth_ft,
        friction=friction,
        choke=wells.choke_psi_per_bpd2 * thinning * (1.0 + np.asarray(causes.line_blockage)) / opening**2,
    )


def _balance(
    wells: Wells, slow: Slow, causes: Causes, intake: fluid.Intake, stage: _Stages, way_up: _WayUp
) -> tuple[Floats, Floats]:
    """Return the rate through the pump (bpd, in situ) and its gain (psi), screen included.

    Newton on F(Q) = Pi + gain(Q) − end − lift − k·Qs², which falls and is concave, so that after one
    step it comes down on the root from above. A pump that cannot lift
    the column passes nothing: the check valve holds the tubing, and the gauge sees only the pump.
    """
    drive_psi = slow.intake_psi - way_up.end_psi - way_up.lift_psi
    up = way_up.friction + way_up.choke
    liquid = 1.0 - intake.void
    drag = (_screen(wells, causes) + _dead_drag(wells, causes)) * liquid**2
    open_flow = wells.open_flow_bpd * stage.rate_scale
    rate = np.maximum(slow.rate_bpd / liquid, FALLING_SHARE * open_flow)
    # Some curves rise a little at the very left; a floor on the fall keeps Newton from turning round there.
    least_fall = 0.05 * stage.scale_psi * wells.head_coefficients[0] / open_flow + 1e-9
    for _ in range(NEWTON_STEPS):
        gain, slope = _gain(wells, stage, drag, rate)
        surface, share = _after_leak(wells, causes, intake, rate, gain, slope)
        excess = drive_psi + gain - up * surface**2
        fall = np.maximum(2.0 * up * surface * share - slope, least_fall)
        better = np.maximum(rate + excess / fall, 0.0)
        moved = float(np.abs(better - rate).max())
        rate = better
        if moved < NEWTON_BPD:
            break
    return rate, _gain(wells, stage, drag, rate)[0]


def _gain(wells: Wells, stage: _Stages, drag: Floats, rate: Floats) -> tuple[Floats, Floats]:
    """Return pressure gain (psi) and its slope (psi/bpd); straight beyond the published curve's end."""
    x = rate / stage.rate_scale
    inside = np.minimum(x, wells.open_flow_bpd)
    head, slope = _horner(wells.head_coefficients, inside)
    head += slope * (x - inside)
    return (
        stage.scale_psi * head - drag * rate**2,
        stage.scale_psi / stage.rate_scale * slope - 2.0 * drag * rate,
    )


def _horner(coefficients: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return a polynomial and its derivative."""
    value = coefficients[-1] + np.zeros_like(x)
    slope = np.zeros_like(x)
    for coefficient in coefficients[-2::-1]:
        slope *= x
        slope += value
        value *= x
        value += coefficient
    return value, slope


def _dead_drag(wells: Wells, causes: Causes) -> Floats:
    """Return the resistance of stages that no longer turn: a tenth of their gain at the design rate."""
    return np.asarray(0.1 * causes.dead_stages * wells.design_gain_psi / wells.design_rate_bpd**2)


def _after_leak(
    wells: Wells, causes: Causes, intake: fluid.Intake, rate: Floats, gain: Floats, slope: Floats
) -> tuple[Floats, Floats]:
    """Return stock-tank rate at surface and its derivative by the pump's rate.

    A hole in the tubing above the pump returns c·√ΔP to the annulus (orifice).
    """
    if not np.any(causes.leak):
        return intake.surface_share * rate, intake.surface_share
    root = np.sqrt(np.maximum(gain, 1.0))
    orifice = _orifice(wells, causes)
    through = np.maximum(rate - orifice * root, 0.0)
    return intake.surface_share * through, intake.surface_share * (1.0 - orifice * slope / (2.0 * root))


def _orifice(wells: Wells, causes: Causes) -> Floats:
    """Return the hole's coefficient (bpd/√psi)."""
    return np.asarray(causes.leak * wells.design_rate_bpd / np.sqrt(wells.design_gain_psi))


def _surface_rate(wells: Wells, causes: Causes, intake: fluid.Intake, rate: Floats, gain: Floats) -> Floats:
    """Return the liquid rate at the surface (stb/d)."""
    return _after_leak(wells, causes, intake, rate, gain, np.zeros(1))[0]


def _shaft_hp(
    wells: Wells, slow: Slow, causes: Causes, intake: fluid.Intake, stage: _Stages, rate: Floats
) -> Floats:
    """Return shaft power (hp): stages on their power curve, bearings, and what rubs."""
    x = np.minimum(rate / stage.rate_scale, wells.open_flow_bpd)
    stages = wells.stages * stage.live * intake.mixture_gravity * stage.power_factor
    hydraulic = stages * stage.speed**3 * polynomial(wells.power_coefficients, x)
    # Solids come and go: the torque they take is never steady.
    grit = np.asarray(causes.rubbing) * np.maximum(1.0 + 0.15 * slow.grit, 0.0)
    return hydraulic + wells.rated_hp * stage.speed * (IDLE_LOAD + grit * stage.live)


def _current(drive: Drive, load: Floats, voltage_ratio: Floats) -> Floats:
    """Return current in multiples of nameplate; a rotor that does not turn draws locked-rotor current."""
    turning = motor.current_ratio(load, voltage_ratio)
    return np.where(drive.stalled, motor.LOCKED_ROTOR_MULTIPLE, turning) * drive.running


def _power_factor(active_kw: Floats, voltage_v: Floats, current_a: Floats) -> Floats:
    """Return PF = 1000·kW/(√3·V·I), 0 when nothing flows."""
    apparent = np.sqrt(3.0) * voltage_v * current_a / 1000.0
    return np.asarray(np.clip(active_kw / np.maximum(apparent, 1e-6), 0.0, 0.99) * (apparent > 1e-3))


def _film(wells: Wells, causes: Causes, intake: fluid.Intake, surface_rate: Floats) -> Floats:
    """Return thermal resistance winding-to-liquid relative to the design rate's."""
    passing = surface_rate * intake.liquid_volume
    velocity = motor.cooling_velocity_ft_s(passing, wells.casing_bore_in, wells.motor_od_in)
    design = motor.cooling_velocity_ft_s(wells.design_rate_bpd, wells.casing_bore_in, wells.motor_od_in)
    now = motor.film_factor(velocity, intake.void)
    return np.asarray(now / motor.film_factor(design, np.zeros(1)) * (1.0 + causes.motor_scale))


def _vibration(
    wells: Wells,
    causes: Causes,
    intake: fluid.Intake,
    stage: _Stages,
    rate: Floats,
    unbalance: Floats,
    intake_psi: Floats,
) -> Floats:
    """Return vibration (g): residual imbalance ∝ speed², the stages' hydraulics, rubbing and torque ripple.

    Hydraulic unrest comes with free gas, with a starved or distorted entry, and with a rate outside
    the recommended range at this speed, where impellers leave their balanced thrust.
    """
    x = rate / stage.rate_scale
    outside = np.maximum(wells.min_bpd - x, 0.0) + np.maximum(x - wells.max_bpd, 0.0)
    starved = _screen(wells, causes) * (rate * (1.0 - intake.void)) ** 2 / np.maximum(intake_psi, 50.0)
    surging = np.maximum(intake.void - BUBBLY_VOID, 0.0)
    unrest = 2.5 * outside / wells.best_bpd + 4.0 * surging + 2.0 * starved
    stages = 0.5 + unrest + 2.5 * np.asarray(causes.clearance) + 5.0 * np.asarray(causes.rubbing)
    ripple = 2.0 * np.maximum(unbalance - 0.015, 0.0)
    return wells.vibration_g * stage.speed**2 * (0.5 + ripple + stage.live * stages)
