"""Key figures over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from esp_common.answers import Since, Until, problems
from esp_common.auth import require
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from esp_diagnostics.common.answers import FieldId, PumpId
from esp_diagnostics.kpis.kpis import Kpis

USUAL_SPAN = timedelta(days=30)


class _Figures(BaseModel):
    """Figures of a span; null where nothing is known to make them of."""

    field_id: str
    since: datetime = Field(serialization_alias="from")
    until: datetime = Field(serialization_alias="to")
    grain: Literal["hours", "days"] = Field(description="Aggregates that production and energy are made of.")
    uptime: float | None = Field(description="Share of the known time in which it ran, 0 to 1.")
    uptime_known: float = Field(description="Share of the span of which that is known, 0 to 1.")
    running_hours: float
    down_hours: float
    starts: int
    starts_per_day: float
    trips: int
    mean_time_between_trips_days: float | None
    produced_bbl: float
    deferred_bbl: float = Field(description="What standing still cost, at the usual rate.")
    usual_rate_bpd: float | None = Field(description="Median rate while it ran throughout.")
    energy_kwh: float
    kwh_per_bbl: float | None
    co2e_kg: float
    co2e_kg_per_kwh: float


class RunLife(BaseModel):
    """How long a pump has been in its well (since it was first seen running), and without a stop."""

    first_run_at: datetime | None
    days: float | None
    ended: bool = Field(description="It was pulled; else its life is censored, and goes on.")
    up_since: datetime | None
    up_days: float | None


class HealthTermOut(BaseModel):
    """Points that something costs; a value of null is not known."""

    term: str
    points: float
    value: float | None
    unit: str
    why: str


class HealthOut(BaseModel):
    """How well a pump is, 0 to 100, with the terms that make it up."""

    score: float | None
    terms: list[HealthTermOut]


class PumpKpis(_Figures):
    """Key figures of a pump."""

    pump_id: str
    run_life: RunLife
    health: HealthOut | None


class MeanLifeOut(BaseModel):
    """Mean time to failure with its 90 % confidence interval; pumps still running are censored."""

    days: float | None
    low_days: float | None
    high_days: float | None
    failures: int
    censored: int
    exposure_days: float


class PumpInField(BaseModel):
    """Key figures of a pump, in short."""

    pump_id: str
    uptime: float | None
    starts: int
    trips: int
    deferred_bbl: float
    kwh_per_bbl: float | None
    health: float | None


class FieldKpis(_Figures):
    """Key figures of a field: sums of its pumps', shares of their times together."""

    mean_life: MeanLifeOut
    health: float | None = Field(description="Mean of the pumps' scores.")
    pumps: list[PumpInField]


def kpis_router(kpis: Kpis) -> APIRouter:
    """Return the routes of key figures."""
    router = APIRouter(tags=["key figures"], dependencies=[Depends(require("diagnostics:read"))])

    @router.get("/pumps/{id}/kpis", response_model=PumpKpis, responses=problems(404))
    async def pump_kpis(id_: PumpId, since: Since = None, until: Until = None) -> Any:
        """Return a pump's uptime, run life, production, energy and health; of 30 days unless told."""
        return await kpis.of_pump(id_, *_span(since, until))

    @router.get("/fields/{id}/kpis", response_model=FieldKpis, responses=problems(404))
    async def field_kpis(id_: FieldId, since: Since = None, until: Until = None) -> Any:
        """Return a field's key figures, and those of each pump in short; of 30 days unless told."""
        return await kpis.of_field(id_, *_span(since, until))

    return router


def _span(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    until = until or datetime.now(UTC)
    return since or until - USUAL_SPAN, until
