"""Indicators: what the rules look at, each a number with a unit that an engineer can read."""

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
            f"{name.replace('_', ' ')} from its normal",
        )
        for name in FEATURES
    },
    **{
        f"{name}_unrest": ("×", f"short-term spread of {name.replace('_', ' ')} over its normal one")
        for name in _RESTLESS
    },
    "intake_pressure_trend": ("%", "intake pressure now against its last hours"),
    "pressure_gain_trend": ("%", "pressure gain now against its last hours"),
    "vibration_per_head": ("", "rise of vibration for each percent of pressure gain lost"),
    "settling": ("", "whether the well still returns to normal after a start or change"),
    "heat_excess": ("%", "winding rise beyond what the current explains"),
    "voltage_swing": ("%", "short-term spread of volts per hertz"),
    "current_of_rated": ("%", "current of nameplate current"),
    "load": ("%", "motor load of nameplate"),
    "power_of_normal": ("%", "active power of its normal"),
    "unbalance_now": ("%", "largest departure of a phase current from their mean"),
    "lowest_phase": ("%", "lowest phase current of the mean of the three"),
    "insulation_now": ("MΩ", "insulation resistance"),
    "leakage_now": ("mA", "leakage current"),
    "motor_temp": ("°C", "winding temperature"),
    "vibration_now": ("g", "vibration"),
    "shut_off_share": ("%", "head of the head at shut-off"),
    "flow_of_min": ("%", "rate of the least recommended one at this frequency"),
    "flow_of_max": ("%", "rate of the greatest recommended one at this frequency"),
    "flow_residual": ("%", "rate by head against rate at the surface, from its normal"),
    "void_fraction": ("%", "free gas in what enters the pump"),
    "turpin": ("", "Turpin's number of the intake"),
    "cooling_velocity": ("ft/s", "velocity of the liquid past the motor"),
    "starts_today": ("", "starts in the last 24 hours"),
    "since_start": ("h", "time since the last start"),
    "since_change": ("h", "time since the last start or change of frequency or choke"),
    "frequency": ("Hz", "output frequency"),
    "supply_peers": ("", "other pumps of the field whose supply swings too"),
    "gauge_bad": ("", "whether the downhole gauge is not to be believed"),
    "anomaly": ("×", "score of the anomaly detector over its threshold"),
}
"""Unit and meaning of every indicator, in the order of their columns."""

NAMES: Final = tuple(INDICATORS)
COLUMN: Final = {name: place for place, name in enumerate(NAMES)}

_SCALE: Final = np.array([100.0 if n in _IN_PERCENT else _AS_IT_IS[n][0] for n in FEATURES])
_OF_NORMAL: Final = np.array([name in _IN_PERCENT for name in FEATURES])
_UNREST: Final = [PLACE[name] for name in _RESTLESS]

SIGNIFICANT_FROM: Final = 2.0
SIGNIFICANT_TO: Final = 4.0
"""Standard deviations between which a change begins to count, and counts in full."""


class Context(NamedTuple):
    """What else is known of m pumps; each (m,), NaN where it is not."""

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
def indicators(seen: Physics, values: Floats, compared: Compared, context: Context) -> Floats:
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
    """Return rQ against its normal (%): (1 + virtual)/(1 + surface) − 1, both as changes from normal."""
    virtual, surface = change[:, PLACE["virtual_flow"]], change[:, PLACE["flow_rate"]]
    return np.asarray(100.0 * ((100.0 + virtual) / np.maximum(100.0 + surface, 5.0) - 1.0))


SETTLES_WITHIN_H: Final = 48.0
RETURNING_PCT: Final = 0.4


def _settling(change: Floats, moving: Floats, since_change_h: Floats) -> Floats:
    """Return 1 where intake pressure is off its normal and on its way back, not long after a change."""
    off, trend = change[:, PLACE["intake_pressure"]], moving[:, PLACE["intake_pressure"]]
    back = (off * trend < 0.0) & (np.abs(trend) > RETURNING_PCT)
    return np.asarray(back & (since_change_h < SETTLES_WITHIN_H), dtype=np.float64)


def _per_head(change: Floats) -> Floats:
    """Return vibration's rise over the pressure gain's fall, both in % of normal; NaN where nothing fell."""
    lost = -change[:, PLACE["pressure_gain"]]
    return np.where(lost > 1.0, change[:, PLACE["vibration"]] / np.where(lost > 1.0, lost, 1.0), np.nan)


def _heat_excess(compared: Compared, gate: Floats, known: np.ndarray) -> Floats:
    """Return the winding's rise over what copper loss, which goes with I², makes of its normal one (%)."""
    rise, current = PLACE["winding_rise"], PLACE["current"]
    ratio = 1.0 + compared.change / compared.normal
    excess = 100.0 * (ratio[:, rise] / np.maximum(ratio[:, current], 0.3) ** 2 - 1.0) * gate[:, rise]
    return np.where(known[:, rise] & known[:, current], excess, np.nan)
