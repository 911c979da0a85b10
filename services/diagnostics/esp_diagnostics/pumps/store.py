"""Pumps as diagnostics knows them: nameplates copied from ingest, and what users told besides."""

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
    """A pump with all that is known of it.

    `nameplate`: telemetry_v1.pumps' row. `extras`: what users told about well, fluid and limits. `curve`:
    the document of a curve that a user loaded, None for the nameplate's. `head_factor` and `flow_factor`:
    from the last well test, None before the first. `overrides`: its own values of the rules' parameters.
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
        """The pump's curve and stages; None where either is unknown."""
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
        """The pump in its well as the physics takes it; None where its curve or stages are unknown."""
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
        """The pump as the decision tree takes it."""
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
    """Make the copies of ingest's nameplates what they are there; return the ids that changed."""
    return [row["pump_id"] for row in await connection.fetch(_SQL.copy_nameplates)]


async def load(connection: Connection, pump_ids: Sequence[str] | None = None) -> list[KnownPump]:
    """Return the pumps that are there, by id: those with `pump_ids`, or all."""
    return [_known(row) for row in await connection.fetch(_SQL.load, pump_ids)]


async def lock(connection: Connection, pump_id: str) -> KnownPump | None:
    """Return a pump that nobody else changes until the end of the transaction; None: it is not there."""
    if await connection.fetchval(_SQL.lock, pump_id) is None:
        return None
    return (await load(connection, [pump_id]))[0]


async def change(connection: Connection, pump: KnownPump) -> None:
    """Write what users say of a pump: settings, service, curve and factors."""
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
    """Return the curve of a document, which many pumps share; None for one that no pump can have."""
    try:
        return parse_json(document.decode())
    except InvalidCurve as error:
        log.warning("pump.curve-unusable", reason=error.detail)
        return None
