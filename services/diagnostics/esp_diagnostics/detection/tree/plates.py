"""Nameplates of many pumps as columns."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from esp_diagnostics.detection.tree.spec import PumpSpec
from esp_diagnostics.physics import gas
from esp_diagnostics.physics.arrays import Bools, Floats
from esp_diagnostics.physics.curve import Polynomial, PumpCurve
from esp_diagnostics.physics.pumps import Installed, Pumps, stack

PLACEHOLDER_PUMP: Final = Installed(PumpCurve("unknown", Polynomial((1.0, -1.0)), 0.1, 0.5), 1)
"""Placeholder curve of pumps without a known one; results based on it are dropped."""

TYPICAL_GRAVITY: Final = 0.92
"""Specific gravity in the pump until a measured rate allows an estimate."""


class PlateColumns(NamedTuple):
    """Nameplates as columns (P,), NaN where unknown."""

    pumps: Pumps
    has_curve: Bools
    rated_current_a: Floats
    rated_kw: Floats
    rated_frequency_hz: Floats
    interval_s: Floats
    casing_bore_in: Floats
    motor_od_in: Floats
    gravity: Floats
    produced: gas.Produced
    field: np.ndarray


def plate_columns(specs: Sequence[PumpSpec]) -> PlateColumns:
    """Return nameplates as columns."""

    def number(name: str, otherwise: float = np.nan) -> Floats:
        return np.array([_number(spec, name, otherwise) for spec in specs], dtype=np.float64)

    fields = {name: i for i, name in enumerate(sorted({spec.field_id or "" for spec in specs}))}
    return PlateColumns(
        pumps=stack([spec.installed or PLACEHOLDER_PUMP for spec in specs] or [PLACEHOLDER_PUMP]),
        has_curve=np.array([spec.installed is not None for spec in specs], dtype=np.bool_),
        rated_current_a=number("motor_rated_current_a"),
        rated_kw=number("motor_rated_kw"),
        rated_frequency_hz=number("motor_rated_frequency_hz", 60.0),
        interval_s=number("expected_interval_s"),
        casing_bore_in=number("casing_bore_in"),
        motor_od_in=number("motor_od_in"),
        gravity=number("mixture_gravity", TYPICAL_GRAVITY),
        produced=gas.Produced(
            number("water_cut_pct"),
            number("oil_api"),
            number("gas_oil_ratio_scf_stb"),
            number("gas_gravity", 0.75),
            number("water_gravity", 1.05),
            number("separator_efficiency", 0.0),
        ),
        field=np.array([fields[spec.field_id or ""] for spec in specs], dtype=np.intp),
    )


def _number(spec: PumpSpec, name: str, otherwise: float) -> float:
    value = getattr(spec, name) if hasattr(spec, name) else spec.extras.get(name)
    return float(value) if isinstance(value, int | float) else otherwise
