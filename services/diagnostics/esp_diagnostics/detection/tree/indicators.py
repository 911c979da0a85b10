"""Indicators evaluated by the rules, each a number with a unit."""

from typing import Final, NamedTuple

import numpy as np

from esp_diagnostics.detection.tree.baseline import Compared
from esp_diagnostics.detection.tree.signals import FEATURES, PLACE, Physics, channel, unbalance_pct
from esp_diagnostics.physics.arrays import Floats

_IN_PERCENT: Final = {
    "intake_pressure",
    "discharge_pressure",
    "pressure_gain",
    "current",
    "active_power",
    "vibration",
    "wellhead_pressure",
    "flow_rate",
    "casing_pressure",
    "volts_per_hertz",
    "leakage",
    "virtual_flow",
    "gain_per_kw",
}
_AS_IT_IS: Final = {
    "winding_rise": (1.0, "°C"),
    "intake_temp": (1.0, "°C"),
    "wellhead_temp": (1.0, "°C"),
    "power_factor": (100.0, "% points"),
    "unbalance": (1.0, "% points"),
    "insulation": (1.0, "decades"),
    "head_residual": (100.0, "% points"),
    "power_residual": (100.0, "% points"),
}
_RESTLESS: Final = (
    "intake_pressure",
    "discharge_pressure",
    "pressure_gain",
    "current",
    "active_power",
    "volts_per_hertz",
    "vibration",
    "wellhead_pressure",
)

INDICATORS: Final[dict[str, tuple[str, str]]] = {
    **{
        name: (
            "%" if name in _IN_PERCENT else _AS_IT_IS[name][1],
            f"{name.replace('_', ' ')} relative to its baseline",
        )
        for name in FEATURES
    },
    **{
        f"{name}_unrest": ("×", f"short-term spread of {name.replace('_', ' ')} relative to its baseline")
        for name in _RESTLESS
    },
    "intake_pressure_trend": ("%", "intake pressure relative to its last hours"),
    "pressure_gain_trend": ("%", "pressure gain relative to its last hours"),
    "vibration_per_head": ("", "rise of vibration per percent of pressure gain lost"),
    "settling": ("", "1 while the well returns to normal after a start or change"),
    "heat_excess": ("%", "winding rise not explained by the current"),
    "voltage_swing": ("%", "short-term spread of volts per hertz"),
    "current_of_rated": ("%", "current relative to nameplate"),
    "load": ("%", "motor load relative to nameplate"),
    "power_of_normal": ("%", "active power relative to its baseline"),
    "unbalance_now": ("%", "largest deviation of a phase current from their mean"),
    "lowest_phase": ("%", "lowest phase current relative to their mean"),
    "insulation_now": ("MΩ", "insulation resistance"),
    "leakage_now": ("mA", "leakage current"),
    "motor_temp": ("°C", "winding temperature"),
    "vibration_now": ("g", "vibration"),
    "shut_off_share": ("%", "head relative to shut-off head"),
    "flow_of_min": ("%", "rate relative to the recommended minimum at this frequency"),
    "flow_of_max": ("%", "rate relative to the recommended maximum at this frequency"),
    "flow_residual": ("%", "virtual rate over surface rate, relative to its baseline"),
    "void_fraction": ("%", "gas void fraction at the intake"),
    "turpin": ("", "Turpin's Φ at the intake"),
    "cooling_velocity": ("ft/s", "velocity of the liquid past the motor"),
    "starts_today": ("", "starts in the last 24 hours"),
    "since_start": ("h", "time since the last start"),
    "since_change": ("h", "time since the last start or change of frequency or choke"),
    "frequency": ("Hz", "output frequency"),
    "supply_peers": ("", "other pumps of the field with a swinging supply"),
    "gauge_bad": ("", "1 while the downhole gauge is unreliable"),
    "anomaly": ("×", "score of the anomaly detector over its threshold"),
}
"""Unit and meaning of each indicator, in the order of their columns."""

NAMES: Final = tuple(INDICATORS)
COLUMN: Final = {name: place for place, name in enumerate(NAMES)}

_SCALE: Final = np.array([100.0 if n in _IN_PERCENT else _AS_IT_IS[n][0] for n in FEATURES])
_OF_NORMAL: Final = np.array([name in _IN_PERCENT for name in FEATURES])
_UNREST: Final = [PLACE[name] for name in _RESTLESS]

SIGNIFICANT_FROM: Final = 2.0
SIGNIFICANT_TO: Final = 4.0
"""Standard deviations at which a change starts to count, and counts in full."""


class IndicatorInputs(NamedTuple):
    """Further inputs of m pumps; each (m,), NaN where unknown."""

    starts_today: Floats
    since_start_h: Floats
    since_change_h: Floats
    supply_peers: Floats
    gauge_bad: Floats
    anomaly: Floats
    rated_current_a: Floats
    swing_pct: Floats
    fast: Floats
    slow: Floats


@np.errstate(divide="ignore", invalid="ignore")
def indicators(seen: Physics, values: Floats, compared: Compared, context: IndicatorInputs) -> Floats:
    """Return (m, indicators) in the order `NAMES`, NaN where missing."""
    current_now = ~np.isnan(seen.signals)
    gate = np.clip(
        (np.abs(compared.sigmas) - SIGNIFICANT_FROM) / (SIGNIFICANT_TO - SIGNIFICANT_FROM), 0.0, 1.0
    )
    per = np.where(_OF_NORMAL, np.abs(compared.normal), 1.0)
    change = np.where(current_now, compared.change * gate / per * _SCALE, np.nan)
    unrest = np.where(current_now, compared.unrest, np.nan)[:, _UNREST]
    moving = np.where(current_now, (context.fast - context.slow) / per * _SCALE, np.nan)
    phases = np.stack([channel(values, f"current_{phase}_a") for phase in "abc"], axis=1)
    current = channel(values, "motor_current_a")
    rest = [
        moving[:, PLACE["intake_pressure"]],
        moving[:, PLACE["pressure_gain"]],
        _per_head(change),
        _settling(change, moving, context.since_change_h),
        _heat_excess(compared, gate, current_now),
        context.swing_pct,
        100.0 * current / context.rated_current_a,
        100.0 * seen.load,
        100.0 * (1.0 + compared.change / compared.normal)[:, PLACE["active_power"]],
        unbalance_pct(values),
        100.0 * phases.min(axis=1) / phases.mean(axis=1),
        channel(values, "insulation_resistance_mohm"),
        channel(values, "leakage_current_ma"),
        channel(values, "motor_temp_c"),
        seen.signals[:, PLACE["vibration"]],
        100.0 * seen.shut_off_share,
        100.0 * seen.fraction_of_min,
        100.0 * seen.fraction_of_max,
        _flow_residual(change),
        100.0 * seen.void_fraction,
        seen.turpin,
        seen.cooling_ft_s,
        context.starts_today,
        context.since_start_h,
        context.since_change_h,
        channel(values, "frequency_hz"),
        context.supply_peers,
        context.gauge_bad,
        context.anomaly,
    ]
    return np.column_stack([change, unrest, *rest])


def _flow_residual(change: Floats) -> Floats:
    """Return rQ relative to its baseline (%): (1 + virtual)/(1 + surface) − 1, both as changes."""
    virtual, surface = change[:, PLACE["virtual_flow"]], change[:, PLACE["flow_rate"]]
    return np.asarray(100.0 * ((100.0 + virtual) / np.maximum(100.0 + surface, 5.0) - 1.0))


SETTLES_WITHIN_H: Final = 48.0
RETURNING_PCT: Final = 0.4


def _settling(change: Floats, moving: Floats, since_change_h: Floats) -> Floats:
    """Return 1 where intake pressure is off its baseline and returning, soon after a change."""
    off, trend = change[:, PLACE["intake_pressure"]], moving[:, PLACE["intake_pressure"]]
    back = (off * trend < 0.0) & (np.abs(trend) > RETURNING_PCT)
    return np.asarray(back & (since_change_h < SETTLES_WITHIN_H), dtype=np.float64)


def _per_head(change: Floats) -> Floats:
    """Return vibration rise over pressure gain loss, both in % of baseline; NaN without a loss."""
    lost = -change[:, PLACE["pressure_gain"]]
    return np.where(lost > 1.0, change[:, PLACE["vibration"]] / np.where(lost > 1.0, lost, 1.0), np.nan)


def _heat_excess(compared: Compared, gate: Floats, known: np.ndarray) -> Floats:
    """Return the winding rise in excess of that explained by copper loss, which is proportional to I² (%)."""
    rise, current = PLACE["winding_rise"], PLACE["current"]
    ratio = 1.0 + compared.change / compared.normal
    excess = 100.0 * (ratio[:, rise] / np.maximum(ratio[:, current], 0.3) ** 2 - 1.0) * gate[:, rise]
    return np.where(known[:, rise] & known[:, current], excess, np.nan)
