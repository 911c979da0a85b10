"""User settings of a pump: fluid, limits, curve and calibration by well tests.

Each change is published and audited in its own transaction.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Pool
from esp_common.errors import NotFound

from esp_diagnostics.operating_points.operating_points import CHANNELS, well_of
from esp_diagnostics.physics.calibration import Adjusted, Calibration, calibrate
from esp_diagnostics.physics.curve import PumpCurve
from esp_diagnostics.physics.curve_files import to_document
from esp_diagnostics.physics.well import Fluid, Present, fluid_of
from esp_diagnostics.pumps import store
from esp_diagnostics.pumps.store import KnownPump
from esp_diagnostics.settings import SERVICE
from esp_diagnostics.trends.resolution import Plan, Resolution, Span
from esp_diagnostics.trends.store import History

_TEST_FLUID_FACTS: Final = ("water_cut_pct", "gas_oil_ratio_scf_stb")
"""Fluid properties of a well test that apply until the next one."""


@dataclass(frozen=True, slots=True)
class WellTest:
    """Well test that ended at `time`, after `duration`; telemetry completes `values`."""

    time: datetime
    duration: timedelta
    values: Mapping[str, float]
    adjusted: Adjusted


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """Result of a calibration, with the values it is based on."""

    calibration: Calibration
    test: Present
    fluid: Fluid


class PumpSettings:
    """Read and change user settings of pumps."""

    def __init__(self, pool: Pool, history: History, on_change: Callable[[], None]) -> None:
        self._pool = pool
        self._history = history
        self._on_change = on_change

    async def change(
        self, pump_id: str, facts: Mapping[str, Any], in_service: bool | None, actor: str
    ) -> KnownPump:
        """Set facts (None removes one) and whether the pump is in service; raise NotFound."""

        def changed(pump: KnownPump) -> KnownPump:
            kept = {name: value for name, value in {**pump.extras, **facts}.items() if value is not None}
            return replace(
                pump, extras=kept, in_service=pump.in_service if in_service is None else in_service
            )

        change = {"facts": dict(facts), **({} if in_service is None else {"in_service": in_service})}
        return await self._write(pump_id, changed, "settings-changed", change, actor)

    async def set_curve(self, pump_id: str, curve: PumpCurve | None, actor: str) -> KnownPump:
        """Use this curve for the pump, or that of its nameplate (None); raise NotFound.

        Factors calibrated against another curve are removed.
        """
        document = None if curve is None else to_document(curve)

        def changed(pump: KnownPump) -> KnownPump:
            return replace(pump, curve=document, head_factor=None, flow_factor=None, calibrated_at=None)

        return await self._write(pump_id, changed, "curve-changed", {"curve": document}, actor)

    async def calibrate(self, pump_id: str, test: WellTest, actor: str) -> CalibrationResult:
        """Calibrate the pump's curve with a well test; raise NotFound, Conflict or UnusableWellTest."""
        async with self._pool.acquire() as connection:
            found = await store.load(connection, [pump_id])
        if not found:
            raise _missing(pump_id)
        fluid_facts = {name: test.values[name] for name in _TEST_FLUID_FACTS if name in test.values}
        pump = replace(found[0], extras={**found[0].extras, **fluid_facts})
        measured = await self._measured(pump_id, test)
        given = {name: value for name, value in test.values.items() if name in CHANNELS}
        present = Present(**{**measured, **given})
        well = well_of(pump)
        fluid = fluid_of(well, present)
        calibration = calibrate(well, present, fluid, test.adjusted)

        def changed(pump: KnownPump) -> KnownPump:
            return replace(
                pump,
                extras={**pump.extras, **fluid_facts},
                head_factor=calibration.head_factor,
                flow_factor=calibration.flow_factor,
                calibrated_at=test.time,
            )

        change = {
            "test": dict(test.values),
            "time": test.time,
            "adjusted": test.adjusted,
            **asdict(calibration),
        }
        await self._write(pump_id, changed, "calibrated", change, actor)
        return CalibrationResult(calibration, present, fluid)

    async def _measured(self, pump_id: str, test: WellTest) -> dict[str, float]:
        """Return the mean of each measured channel over the test."""
        span = Span(test.time - test.duration, test.time).aligned(60)
        rows = await self._history.buckets(pump_id, Plan(Resolution.MINUTE, span, 60), CHANNELS)
        means = {}
        for name in CHANNELS:
            values = [row[f"{name}_avg"] for row in rows if row[f"{name}_avg"] is not None]
            if values:
                means[name] = sum(values) / len(values)
        return means

    async def _write(
        self,
        pump_id: str,
        changed: Callable[[KnownPump], KnownPump],
        what: str,
        data: dict[str, Any],
        actor: str,
    ) -> KnownPump:
        async with self._pool.acquire() as connection, connection.transaction():
            pump = await store.lock(connection, pump_id)
            if pump is None:
                raise _missing(pump_id)
            after = changed(pump)
            if after != pump:
                await store.change(connection, after)
                event = Event(type=f"pump.{what}", source=SERVICE, subject=pump_id, data=data)
                await outbox.enqueue(connection, event, topology.EVENTS)
                await audit.record(
                    connection, source=SERVICE, actor=actor, action=f"pump-{what}", subject=pump_id, data=data
                )
        self._on_change()
        return after


def _missing(pump_id: str) -> NotFound:
    return NotFound(f"no pump {pump_id!r}", fix="see GET /api/v1/pumps")
