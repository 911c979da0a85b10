"""Operating points: present point on the curve, and predictions at other settings."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import orjson
from esp_common.errors import Conflict

from esp_diagnostics.physics.well import (
    CurveAt,
    Fluid,
    Present,
    Well,
    curves_of,
    fluid_of,
    point_of,
    shown_frequencies_hz,
)
from esp_diagnostics.physics.what_if import Setting, what_if
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.pumps.store import KnownPump
from esp_diagnostics.trends.store import Row
from esp_diagnostics.trends.trends import Trends, newest_good

MAX_AGE: Final = timedelta(minutes=15)
"""Maximum age of a value relative to the newest reading."""

CARRIED_CHANNELS: Final = ("water_cut_pct",)
"""Channels that keep their last value, because they come from well tests days apart."""

CHANNELS: Final = (
    *("frequency_hz", "intake_pressure_psi", "discharge_pressure_psi", "intake_temp_c", "flow_rate_bpd"),
    *("water_cut_pct", "wellhead_pressure_psi", "choke_pct", "active_power_kw"),
)
_JSON_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z


class OperatingPoints:
    """Return operating points as JSON."""

    def __init__(self, nameplates: Nameplates, trends: Trends) -> None:
        self._nameplates = nameplates
        self._trends = trends

    async def operating_point(self, pump_id: str) -> bytes:
        """Return the pump's curves, its point on them and the inputs; raise NotFound or Conflict."""
        pump = await self._nameplates.pump(pump_id)
        well = well_of(pump)
        rows = await self._trends.newest(pump_id)
        present, inputs = present_of(rows)
        fluid = fluid_of(well, present)
        rated_hz = well.installed.curve.rated_frequency_hz
        curves = curves_of(well, shown_frequencies_hz(present.frequency_hz, rated_hz), fluid)
        document = {
            "pump_id": pump_id,
            "time": rows[0]["time"] if rows else None,
            "running": next((row["running"] for row in rows if row["running"] is not None), None),
            "model": well.installed.curve.model,
            "stages": well.installed.stages,
            "head_factor": well.installed.head_factor,
            "flow_factor": well.installed.flow_factor,
            "calibrated_at": pump.calibrated_at,
            "present": point_of(well, present, fluid),
            "fluid": _fluid(fluid),
            "inputs": inputs,
            "assumptions": fluid.assumptions,
            "curves": curves,
            "recommended": _recommended(curves),
        }
        return orjson.dumps(document, option=_JSON_OPTIONS)

    async def what_if(self, pump_id: str, frequency_hz: float | None, choke_pct: float | None) -> bytes:
        """Return the present and the predicted point; raise NotFound, Conflict or InsufficientData."""
        well = well_of(await self._nameplates.pump(pump_id))
        present, _ = present_of(await self._trends.newest(pump_id))
        fluid = fluid_of(well, present)
        wanted = Setting(
            present.frequency_hz if frequency_hz is None else frequency_hz,
            present.choke_pct if choke_pct is None else choke_pct,
        )
        answer = what_if(well, present, fluid, point_of(well, present, fluid), wanted)
        return orjson.dumps({"pump_id": pump_id, **_shallow(answer)}, option=_JSON_OPTIONS)


def well_of(pump: KnownPump) -> Well:
    """Return the pump in its well; raise Conflict if its curve or number of stages is unknown."""
    if (well := pump.well) is None:
        raise Conflict(
            f"curve or number of stages of pump {pump.pump_id} is unknown",
            fix="PUT pumps/{id}/curve, and set the stages in the pump's nameplate",
        )
    return well


def present_of(rows: Sequence[Row]) -> tuple[Present, dict[str, dict[str, float | datetime]]]:
    """Return the latest values of `rows` (newest first), and the time of each."""
    inputs: dict[str, dict[str, float | datetime]] = {}
    for name in CHANNELS:
        row = newest_good(rows, name)
        if row is not None and (name in CARRIED_CHANNELS or rows[0]["time"] - row["time"] <= MAX_AGE):
            inputs[name] = {"value": row[name], "time": row["time"]}
    return Present(**{name: float(found["value"]) for name, found in inputs.items()}), inputs  # type: ignore[arg-type]


def _fluid(fluid: Fluid) -> dict[str, float]:
    return {
        "gravity": fluid.gravity,
        "pump_volume": fluid.pump_volume,
        "gas_void_fraction": fluid.gas_void_fraction,
    }


def _recommended(curves: Sequence[CurveAt]) -> dict[str, Any]:
    """Return the bounds of the recommended range at each frequency."""
    return {
        "frequency_hz": np.array([curve.frequency_hz for curve in curves]),
        **{
            name: np.array([getattr(curve, name) for curve in curves])
            for name in ("min_bpd", "min_head_ft", "best_bpd", "max_bpd", "max_head_ft")
        },
    }


def _shallow(answer: Any) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in ("now", "then", "assumptions", "warnings")}
