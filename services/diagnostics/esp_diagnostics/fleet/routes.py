"""HTTP route of the fleet overview."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from esp_common.answers import Cursor, Limit, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import float_field, integer_field, text_field
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from esp_diagnostics.common.answers import FieldFilter
from esp_diagnostics.fleet.fleet import Fleet
from esp_diagnostics.fleet.store import FleetFilter, Place
from esp_diagnostics.trends.encoding import JSON
from esp_diagnostics.trends.media import cache_rights, respond

READ: Final = "diagnostics:read"
LAST_PLACE: Final = 5
_SEVERITY_PLACE: Final = integer_field(-LAST_PLACE, LAST_PLACE)

State = Literal["unknown", "off", "starting", "running", "changing"]
Severity = Literal["info", "low", "medium", "high", "critical"]


class FleetPump(BaseModel):
    """Present state of a pump.

    `severity`: the worst of its open findings and shown alerts, null: none. `condition`: of the worst
    finding. `silent`: no reading for several of the pump's intervals. `diagnosis_lag_s`: span of received
    readings that are not yet evaluated. While a pump is silent, or its diagnosis that far behind, `state` is
    unknown since the last reading and `health` is null. `values`: latest values.
    """

    pump_id: str
    field_id: str
    well_id: str
    in_service: bool
    state: State
    since: datetime | None
    time: datetime | None
    silent: bool
    diagnosis_lag_s: float
    health: float | None
    gauge_fault: bool
    anomaly: dict[str, Any] | None
    severity: Severity | None
    condition: str | None
    findings: int
    alerts: int
    unacknowledged_alerts: int
    shelved_alerts: int
    operating_point: dict[str, Any] | None
    values: dict[str, float | None] | None


class FleetSummary(BaseModel):
    """Number of pumps of the field, or of all fields: total, out of service, by state, by severity."""

    pumps: int
    out_of_service: int
    states: dict[str, int]
    severities: dict[str, int]


class FleetPage(BaseModel):
    """Page of the fleet, worst pump first; the first page includes the summary."""

    items: list[FleetPump]
    next_cursor: str | None
    summary: FleetSummary | None


def fleet_router(fleet: Fleet) -> APIRouter:
    """Return the route of the fleet overview."""
    router = APIRouter(tags=["fleet"])

    @router.get("/fleet", response_class=Response, responses={200: {"model": FleetPage}, **problems()})
    async def get_fleet(
        request: Request,
        caller: Annotated[Principal, Depends(require(READ))],
        field_id: FieldFilter = None,
        state: Annotated[list[State] | None, Query(description="Only pumps in one of these states.")] = None,
        severity: Annotated[
            Severity | None, Query(description="Only pumps with this severity or worse.")
        ] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """List the pumps, worst first: by severity, then health, then id; out of service last."""
        found = position(cursor, _SEVERITY_PLACE, float_field, text_field)
        wanted = FleetFilter(field_id, state, severity)
        answer = await fleet.page(wanted, Place(*found) if found else None, limit, cache_rights(caller, READ))
        return respond(request, answer, JSON)

    return router
