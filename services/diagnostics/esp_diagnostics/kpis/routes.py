"""HTTP routes of key figures."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from esp_common.answers import Since, Until, problems
from esp_common.auth import require
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from esp_diagnostics.common.answers import FieldId, PumpId
from esp_diagnostics.kpis.kpis import Kpis

DEFAULT_SPAN = timedelta(days=30)


class _Figures(BaseModel):
    """Figures of a span; null where data are missing."""

    field_id: str
    since: datetime = Field(serialization_alias="from")
    until: datetime = Field(serialization_alias="to")
    grain: Literal["hours", "days"] = Field(description="Aggregates used for production and energy.")
    uptime: float | None = Field(description="Share of the known time in which the pump ran, 0 to 1.")
    uptime_known: float = Field(description="Share of the span with known state, 0 to 1.")
    running_hours: float
    down_hours: float
    starts: int
    starts_per_day: float
    trips: int
    mean_time_between_trips_days: float | None
    produced_bbl: float
    deferred_bbl: float = Field(description="Production lost while stopped, at the usual rate.")
    usual_rate_bpd: float | None = Field(description="Median rate during uninterrupted running.")
    energy_kwh: float
    kwh_per_bbl: float | None
    co2e_kg: float
    co2e_kg_per_kwh: float


class RunLife(BaseModel):
    """Time since a pump was first seen running in its well, and since its last stop."""

    first_run_at: datetime | None
    days: float | None
    ended: bool = Field(description="True if the pump was pulled; else its life is censored.")
    up_since: datetime | None
    up_days: float | None


class HealthTermOut(BaseModel):
    """Points deducted for one cause; null `value`: unknown."""

    term: str
    points: float
    value: float | None
    unit: str
    why: str


class HealthOut(BaseModel):
    """Health of a pump, 0 to 100, with the terms that make it up."""

    score: float | None
    terms: list[HealthTermOut]


class PumpKpis(_Figures):
    """Key figures of a pump."""

    pump_id: str
    run_life: RunLife
    health: HealthOut | None


class MeanLifeOut(BaseModel):
    """Mean time to failure with its 90 % confidence interval; installed pumps are censored."""

    days: float | None
    low_days: float | None
    high_days: float | None
    failures: int
    censored: int
    exposure_days: float


class PumpInField(BaseModel):
    """Summary of a pump's key figures."""

    pump_id: str
    uptime: float | None
    starts: int
    trips: int
    deferred_bbl: float
    kwh_per_bbl: float | None
    health: float | None


class FieldKpis(_Figures):
    """Key figures of a field: sums over its pumps, shares of their total time."""

    mean_life: MeanLifeOut
    health: float | None = Field(description="Mean of the pumps' scores.")
    pumps: list[PumpInField]


def kpis_router(kpis: Kpis) -> APIRouter:
    """Return the routes of key figures."""
    router = APIRouter(tags=["key figures"], dependencies=[Depends(require("diagnostics:read"))])

    @router.get("/pumps/{id}/kpis", response_model=PumpKpis, responses=problems(404))
    async def pump_kpis(id_: PumpId, since: Since = None, until: Until = None) -> Any:
        """Show uptime, run life, production, energy and health of a pump; default span: 30 days."""
        return await kpis.of_pump(id_, *_span(since, until))

    @router.get("/fields/{id}/kpis", response_model=FieldKpis, responses=problems(404))
    async def field_kpis(id_: FieldId, since: Since = None, until: Until = None) -> Any:
        """Show key figures of a field and a summary of each pump; default span: 30 days."""
        return await kpis.of_field(id_, *_span(since, until))

    return router


def _span(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    until = until or datetime.now(UTC)
    return since or until - DEFAULT_SPAN, until
