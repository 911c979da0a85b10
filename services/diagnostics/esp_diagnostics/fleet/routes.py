"""The fleet over HTTP."""

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
    """A pump as it is now.

    `severity`: the worst of its open findings and of its alerts that show, null: nothing is wrong.
    `condition`: the worst finding's. `silent`: no reading has come for several of the pump's intervals.
    `diagnosis_lag_s`: span of received readings that wait to be judged. Of a pump that is silent, or whose
    diagnosis is so far behind, `state` is unknown since its last reading and `health` null. `values`: latest.
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
    """How many pumps the field has, or all fields have: in all, out of service, by state, by severity."""

    pumps: int
    out_of_service: int
    states: dict[str, int]
    severities: dict[str, int]


class FleetPage(BaseModel):
    """Some of the fleet, the worst first; the first page has the summary."""

    items: list[FleetPump]
    next_cursor: str | None
    summary: FleetSummary | None


def fleet_router(fleet: Fleet) -> APIRouter:
    """Return the route of the fleet."""
    router = APIRouter(tags=["fleet"])

    @router.get("/fleet", response_class=Response, responses={200: {"model": FleetPage}, **problems()})
    async def get_fleet(
        request: Request,
        caller: Annotated[Principal, Depends(require(READ))],
        field_id: FieldFilter = None,
        state: Annotated[list[State] | None, Query(description="Only in one of these.")] = None,
        severity: Annotated[
            Severity | None, Query(description="Only with something as bad or worse.")
        ] = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        """Return the pumps, the worst first: by severity, then health, then id; out of service comes last."""
        found = position(cursor, _SEVERITY_PLACE, float_field, text_field)
        wanted = FleetFilter(field_id, state, severity)
        answer = await fleet.page(wanted, Place(*found) if found else None, limit, cache_rights(caller, READ))
        return respond(request, answer, JSON)

    return router
