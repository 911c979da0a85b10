"""Pump storage: nameplates copied from ingest, and user settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import orjson
import structlog
from esp_common.database import Connection, load_queries

from esp_diagnostics.detection.tree.spec import PumpSpec
from esp_diagnostics.physics.curve import InvalidCurve, PumpCurve
from esp_diagnostics.physics.curve_files import parse_json
from esp_diagnostics.physics.pumps import Installed
from esp_diagnostics.physics.well import Well

log = structlog.get_logger()

_SQL: Final = load_queries(__package__, "pumps.sql")
_PLATE: Final = (
    *("motor_rated_kw", "motor_rated_current_a", "motor_rated_voltage_v", "motor_rated_frequency_hz"),
    *("setting_depth_ft", "expected_interval_s"),
)


@dataclass(frozen=True, slots=True)
class KnownPump:
    """Registered pump with its settings.

    `nameplate`: row of telemetry_v1.pumps. `extras`: user settings of well, fluid and limits. `curve`:
    document of a curve loaded by a user, None for the nameplate's. `head_factor` and `flow_factor`: from the
    last well test, None before the first. `overrides`: the pump's own values of rule parameters.
    """

    pump_id: str
    field_id: str
    well_id: str
    nameplate: Mapping[str, Any]
    extras: Mapping[str, Any]
    curve: Mapping[str, Any] | None
    head_factor: float | None
    flow_factor: float | None
    calibrated_at: datetime | None
    in_service: bool
    overrides: Mapping[str, float]

    @property
    def installed(self) -> Installed | None:
        """Return the pump's curve and stages; None if either is unknown."""
        document = self.curve or self.nameplate["curve"]
        if not document or not self.nameplate["stages"]:
            return None
        named = {"model": self.nameplate["model"] or "unnamed", **document}
        curve = _curve(orjson.dumps(named))
        if curve is None:
            return None
        return Installed(curve, self.nameplate["stages"], self.head_factor or 1.0, self.flow_factor or 1.0)

    @property
    def well(self) -> Well | None:
        """Return the pump in its well for the physics; None if curve or stages are unknown."""
        installed = self.installed
        if installed is None:
            return None
        return Well(
            installed,
            self.extras,
            self.nameplate["motor_rated_kw"],
            self.nameplate["motor_rated_frequency_hz"],
            self.nameplate["setting_depth_ft"],
        )

    @property
    def spec(self) -> PumpSpec:
        """Return the pump as used by the decision tree."""
        plate = {name: self.nameplate[name] for name in _PLATE}
        return PumpSpec(
            self.pump_id,
            self.field_id,
            installed=self.installed,
            extras=self.extras,
            overrides=self.overrides,
            **plate,
        )


async def copy_nameplates(connection: Connection) -> list[str]:
    """Synchronize the copies of ingest's nameplates; return the ids of changed pumps."""
    return [row["pump_id"] for row in await connection.fetch(_SQL.copy_nameplates)]


async def load(connection: Connection, pump_ids: Sequence[str] | None = None) -> list[KnownPump]:
    """Return registered pumps by id; `pump_ids` None: all."""
    return [_known(row) for row in await connection.fetch(_SQL.load, pump_ids)]


async def lock(connection: Connection, pump_id: str) -> KnownPump | None:
    """Lock a pump until the end of the transaction and return it; None if it is not registered."""
    if await connection.fetchval(_SQL.lock, pump_id) is None:
        return None
    return (await load(connection, [pump_id]))[0]


async def change(connection: Connection, pump: KnownPump) -> None:
    """Write user settings of a pump: extras, service, curve and factors."""
    await connection.execute(
        _SQL.change,
        pump.pump_id,
        orjson.dumps(pump.extras).decode(),
        pump.in_service,
        None if pump.curve is None else orjson.dumps(pump.curve).decode(),
        pump.head_factor,
        pump.flow_factor,
        pump.calibrated_at,
    )


def _known(row: Mapping[str, Any]) -> KnownPump:
    documents = {
        name: None if row[name] is None else orjson.loads(row[name])
        for name in ("nameplate", "extras", "curve", "overrides")
    }
    return KnownPump(**{**row, **documents})


@lru_cache(maxsize=1024)
def _curve(document: bytes) -> PumpCurve | None:
    """Return the curve of a document, cached since pumps share curves; None if it is invalid."""
    try:
        return parse_json(document.decode())
    except InvalidCurve as error:
        log.warning("pump.curve-unusable", reason=error.detail)
        return None
