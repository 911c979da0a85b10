"""The centrifugal pump: head and power curves per stage, affinity laws, and their inverse.

Every function broadcasts: a rate may be a number or an array over pumps and instants, and the
coefficients an array whose first axis is the power of the rate.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

Floats = npt.NDArray[np.float64]

RATED_FREQUENCY_HZ: Final = 60.0
PSI_PER_FOOT_OF_WATER: Final = 0.433
HYDRAULIC_HP_PER_BPD_PSI: Final = 1.7014e-5


@dataclass(frozen=True, slots=True)
class Curve:
    """A pump model's published curve at 60 Hz in water, one stage.

    `head_ft` and `brake_hp` are polynomial coefficients in the rate (bpd), lowest power first;
    `min_bpd`, `max_bpd` bound the recommended range and `best_bpd` is the best-efficiency rate.
    `gas_handler` stages degrade less with free gas.
    """

    model: str
    head_ft: tuple[float, ...]
    brake_hp: tuple[float, ...]
    min_bpd: float
    best_bpd: float
    max_bpd: float
    gas_handler: bool = False

    def open_flow_bpd(self) -> float:
        """Return the rate (bpd, 60 Hz) at which the head falls to zero."""
        rates = np.linspace(self.best_bpd, 3 * self.max_bpd, 400)
        heads = polynomial(np.array(self.head_ft), rates)
        above = int(np.argmax(heads <= 0))
        return float(
            brentq(
                lambda rate: float(polynomial(np.array(self.head_ft), rate)), rates[above - 1], rates[above]
            )
        )


AN550: Final = Curve(
    "REDA AN550",
    # Published coefficients; recommended 400-700 bpd.
    (22.1654, 4.04863e-3, -7.36963e-5, 1.58516e-7, -1.80729e-10, 6.23138e-14),
    # Invented shape, scaled to the published duty: 23.0 hp for 250 stages at 55 Hz, 480 bpd, SG 0.92.
    (0.0883, 1.12e-4, -6.2e-8),
    400.0,
    550.0,
    700.0,
)

CATALOGUE: Final[tuple[Curve, ...]] = (
    AN550,
    # The rest are illustrative: no maker's curves, only shapes that obey the physics of such stages.
    Curve("Illustrative M1200", (29.5, -1.5e-3, -7.4e-6), (0.145, 1.15e-4, -3.2e-8), 800.0, 1200.0, 1500.0),
    Curve("Illustrative M2400", (36.0, -1.2e-3, -2.15e-6), (0.33, 1.4e-4, -1.95e-8), 1600.0, 2400.0, 3000.0),
    Curve(
        "Illustrative G900", (27.0, -1.8e-3, -1.15e-5), (0.14, 1.4e-4, -5.0e-8), 600.0, 900.0, 1150.0, True
    ),
)
"""Pump models of the simulated field."""


def polynomial(coefficients: Floats, rate_bpd: Floats | float) -> Floats:
    """Return sum(c[i] * rate**i) by Horner's rule; `coefficients` has the power on its first axis."""
    total = np.asarray(coefficients[-1] + np.zeros_like(rate_bpd))
    for coefficient in coefficients[-2::-1]:
        total *= rate_bpd
        total += coefficient
    return total


def head_ft(curve: Curve, stages: float, frequency_hz: float, rate_bpd: Floats | float) -> Floats:
    """Return the head (ft): H = N·(f/f0)²·Σ aᵢ·(Q·f0/f)ⁱ (affinity laws)."""
    speed = frequency_hz / RATED_FREQUENCY_HZ
    return stages * speed**2 * polynomial(np.array(curve.head_ft), np.asarray(rate_bpd) / speed)


def brake_hp(
    curve: Curve, stages: float, frequency_hz: float, rate_bpd: Floats | float, specific_gravity: float
) -> Floats:
    """Return the shaft power (hp): BHP = N·SG·(f/f0)³·Σ bᵢ·(Q·f0/f)ⁱ."""
    speed = frequency_hz / RATED_FREQUENCY_HZ
    per_stage = polynomial(np.array(curve.brake_hp), np.asarray(rate_bpd) / speed)
    return stages * specific_gravity * speed**3 * per_stage


def pressure_psi(head: Floats | float, specific_gravity: Floats | float) -> Floats:
    """Return the pressure (psi) of a head (ft) of a liquid: 0.433·SG·H."""
    return np.asarray(PSI_PER_FOOT_OF_WATER * specific_gravity * head)


def hydraulic_hp(rate_bpd: Floats | float, gain_psi: Floats | float) -> Floats:
    """Return the useful power (hp): 1.7014e-5·Q (bpd)·ΔP (psi)."""
    return np.asarray(HYDRAULIC_HP_PER_BPD_PSI * rate_bpd * gain_psi)


def flow_bpd(curve: Curve, stages: float, frequency_hz: float, head: float) -> float:
    """Return the rate (bpd) at which the pump makes `head` (ft), on the falling branch.

    Raises ValueError when the head is above what the pump can make at this frequency.
    """
    speed = frequency_hz / RATED_FREQUENCY_HZ
    rates = np.linspace(0.0, curve.open_flow_bpd() * speed, 200)
    peak = float(rates[np.argmax(head_ft(curve, stages, frequency_hz, rates))])

    def excess(rate: float) -> float:
        return float(head_ft(curve, stages, frequency_hz, rate)) - head

    if excess(peak) < 0:
        raise ValueError(
            f"{curve.model} with {stages:g} stages cannot make {head:g} ft at {frequency_hz:g} Hz"
        )
    return float(brentq(excess, peak, float(rates[-1])))
