"""HTTP routes of notifications: destinations, routes and the log."""

from datetime import datetime, time
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from esp_common.answers import BODY, Cursor, Limit, Page, Since, Until, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import serial_field, time_field
from esp_common.errors import NotFound
from fastapi import APIRouter, Depends, Path, Query, status
from pydantic import BaseModel, Field, SecretStr, field_serializer, field_validator

from esp_diagnostics.common.answers import NO_NUL, FieldFilter, PumpFilter, RequestBody
from esp_diagnostics.notifications.destinations import MAX_URL_LENGTH, Notifications
from esp_diagnostics.notifications.store import NotificationFilter, Routing

SLUG = r"^[a-z0-9][a-z0-9-]{0,63}$"

Id = Annotated[str, Path(alias="id", pattern=SLUG)]
Slug = Annotated[str, Field(pattern=SLUG)]
Title = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
Outcome = Literal["sent", "failed", "repeated", "unrouted"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Priority = Literal["low", "medium", "high", "critical"]
NoticeKind = Literal["raised", "escalated", "cleared", "flood"]
Reader = Depends(require("notifications:read"))
Writer = Annotated[Principal, Depends(require("notifications:write"))]


class DestinationIn(RequestBody):
    """Destination to write; without `url` it keeps the present one."""

    name: Title
    url: Annotated[SecretStr, Field(min_length=4, max_length=MAX_URL_LENGTH)] | None = Field(
        default=None, description="URL for apprise, including passwords and tokens; never returned."
    )
    enabled: bool = True


class Destination(BaseModel):
    """Destination; `shown_url`: its URL without secrets."""

    destination_id: str
    name: str
    scheme: str
    shown_url: str
    enabled: bool
    changed_by: str
    changed_at: datetime


class ShiftIn(RequestBody):
    """Shift of a person on duty; a shift that ends before it begins spans midnight."""

    time_zone: Annotated[str, Field(max_length=64)]
    days: Annotated[tuple[Day, ...], Field(min_length=1)] = DAYS
    begins: time
    ends: time

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"unknown time zone {name}; use a name like Europe/Oslo") from None
        return name

    @field_validator("begins", "ends")
    @classmethod
    def _local(cls, clock: time) -> time:
        if clock.tzinfo is not None:
            raise ValueError("give local time of time_zone, without an offset")
        return clock

    @field_serializer("begins", "ends")
    def _clock(self, clock: time) -> str:
        return clock.isoformat("minutes" if not clock.second and not clock.microsecond else "auto")


class RouteIn(RequestBody):
    """Route: which messages go to which destinations."""

    name: Title
    field_ids: Annotated[list[Title], Field(max_length=1000)] | None = Field(
        default=None, description="Only messages of these fields; null: all, including platform messages."
    )
    least_priority: Priority = "medium"
    notices: Annotated[tuple[NoticeKind, ...], Field(min_length=1)] = ("raised", "escalated", "flood")
    shift: ShiftIn | None = Field(default=None, description="Only during this shift; null: always.")
    destination_ids: Annotated[list[Slug], Field(min_length=1, max_length=50)]
    enabled: bool = True


class RouteOut(RouteIn):
    """Route with its last change."""

    route_id: str
    changed_by: str
    changed_at: datetime


class Notification(BaseModel):
    """Outcome of a message; empty destination: no route matched."""

    notification_id: int
    event_id: str
    destination_id: str
    alert_id: UUID | None
    pump_id: str | None
    field_id: str | None
    condition: str | None
    priority: str | None
    notice: str
    title: str
    outcome: Outcome
    attempts: int
    reason: str | None
    happened_at: datetime
    settled_at: datetime


class TestMessage(BaseModel):
    """Requested test message; its log entry has this event id."""

    event_id: str


def notifications_router(notifications: Notifications, routing: Routing) -> APIRouter:
    """Return the routes of destinations, routes and the log."""
    router = APIRouter(prefix="/notifications", tags=["notifications"])
    _add_destinations(router, notifications, routing)
    _add_routes(router, notifications, routing)

    @router.get("", dependencies=[Reader], response_model=Page[Notification], responses=problems())
    async def list_notifications(
        field_id: FieldFilter = None,
        pump_id: PumpFilter = None,
        alert_id: UUID | None = None,
        destination_id: Annotated[str | None, Query(pattern=SLUG)] = None,
        outcome: Outcome | None = None,
        since: Since = None,
        until: Until = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """List the outcomes of messages, newest first."""
        wanted = NotificationFilter(field_id, pump_id, alert_id, destination_id, outcome, since, until)
        rows = await routing.page(wanted, position(cursor, time_field, serial_field), limit + 1)
        return page(rows, limit, lambda row: (row["settled_at"], row["notification_id"]))

    return router


def _add_destinations(router: APIRouter, notifications: Notifications, routing: Routing) -> None:
    @router.get(
        "/destinations", dependencies=[Reader], response_model=list[Destination], responses=problems()
    )
    async def list_destinations() -> Any:
        """List all destinations."""
        return await routing.destinations()

    @router.get(
        "/destinations/{id}", dependencies=[Reader], response_model=Destination, responses=problems(404)
    )
    async def show_destination(id_: Id) -> Any:
        """Show a destination."""
        row = await routing.destination(id_)
        if row is None:
            raise NotFound(f"no destination {id_}", fix="see the list of destinations")
        return row

    @router.put("/destinations/{id}", response_model=Destination, responses=problems(*BODY))
    async def put_destination(id_: Id, destination: DestinationIn, caller: Writer) -> Any:
        """Create or change a destination."""
        url = destination.url.get_secret_value() if destination.url else None
        return await notifications.put_destination(
            id_, name=destination.name, url=url, enabled=destination.enabled, actor=caller.id
        )

    @router.delete("/destinations/{id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(404, 409))
    async def delete_destination(id_: Id, caller: Writer) -> None:
        """Delete a destination that no route uses."""
        await notifications.delete_destination(id_, caller.id)

    @router.post(
        "/destinations/{id}/test",
        status_code=status.HTTP_202_ACCEPTED,
        response_model=TestMessage,
        responses=problems(404),
    )
    async def test_destination(id_: Id, caller: Writer) -> Any:
        """Send a test message to a destination."""
        return {"event_id": await notifications.test(id_, caller.id)}


def _add_routes(router: APIRouter, notifications: Notifications, routing: Routing) -> None:
    @router.get("/routes", dependencies=[Reader], response_model=list[RouteOut], responses=problems())
    async def list_routes() -> Any:
        """List all routes."""
        return [_as_answer(row) for row in await routing.route_rows()]

    @router.get("/routes/{id}", dependencies=[Reader], response_model=RouteOut, responses=problems(404))
    async def show_route(id_: Id) -> Any:
        """Show a route."""
        row = await routing.route_row(id_)
        if row is None:
            raise NotFound(f"no route {id_}", fix="see the list of routes")
        return _as_answer(row)

    @router.put("/routes/{id}", response_model=RouteOut, responses=problems(*BODY))
    async def put_route(id_: Id, route: RouteIn, caller: Writer) -> Any:
        """Create or change a route."""
        row = route.model_dump(mode="json")
        if route.shift is not None:
            row["shift"]["days"] = sorted(DAYS.index(day) for day in set(route.shift.days))
        return _as_answer(await notifications.put_route(id_, row, caller.id))

    @router.delete("/routes/{id}", status_code=status.HTTP_204_NO_CONTENT, responses=problems(404))
    async def delete_route(id_: Id, caller: Writer) -> None:
        """Delete a route."""
        await notifications.delete_route(id_, caller.id)


def _as_answer(row: dict[str, Any]) -> dict[str, Any]:
    shift = row["shift"]
    return {**row, "shift": shift and {**shift, "days": [DAYS[day] for day in shift["days"]]}}
