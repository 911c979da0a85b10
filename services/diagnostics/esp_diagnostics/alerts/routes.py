"""Alerts over HTTP: lists, acts, the log of each, statistics, and the rules."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from esp_common.answers import BODY, Cursor, Limit, Page, Since, Until, UtcTime, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import serial_field, time_field, uuid_field
from esp_common.database import Pool
from esp_common.errors import InvalidInput, NotFound
from esp_common.http import MAX_BODY_BYTES
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from esp_diagnostics.alerts import statistics
from esp_diagnostics.alerts.lifecycle import PRIORITIES, State, What
from esp_diagnostics.alerts.rules import AlertRules
from esp_diagnostics.alerts.store import AlertFilter, AlertLists
from esp_diagnostics.alerts.transitions import Alerts, document, load_rules, rules_text
from esp_diagnostics.common.answers import NO_NUL, FieldFilter, PumpFilter

YAML_TYPE = "application/yaml"
LONGEST_STATISTICS = timedelta(days=400)

Reader = Depends(require("alerts:read"))
Writer = Annotated[Principal, Depends(require("alerts:write"))]
Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\u0000]*$")]
Person = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
Name = Annotated[str | None, Query(max_length=200, pattern=NO_NUL)]
Time = Annotated[UtcTime | None, Query()]


class Priority(StrEnum):
    """How soon an operator has to act."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Alert(BaseModel):
    """An alert as it stands; of the times, those of the readings where readings tell of it."""

    alert_id: UUID
    pump_id: str | None
    field_id: str | None
    condition: str
    subject: str
    source: Literal["finding", "limit", "platform"]
    title: str
    action: str
    finding_id: UUID | None
    severity: str
    priority: Priority
    state: State
    active: bool
    acknowledged: bool
    occurrences: int
    raised_at: datetime
    last_raised_at: datetime
    cleared_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    shelved_until: datetime | None
    shelved_by: str | None
    shelve_reason: str | None
    suppressed_by: str | None
    out_of_service_by: str | None
    out_of_service_reason: str | None
    assignee: str | None
    closed_at: datetime | None
    closed_by: str | None
    updated_at: datetime


class AlertLogEntry(BaseModel):
    """Something that happened to an alert; `notice`: why people were told, if they were."""

    log_id: int
    time: datetime
    logged_at: datetime
    what: What
    notice: Literal["raised", "escalated", "cleared"] | None
    priority: Priority
    state: State
    actor: str | None
    detail: dict[str, Any]


class AlertWithLog(Alert):
    """An alert with the newest entries of its log."""

    log: list[AlertLogEntry]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Remark(_Body):
    """What may be said with an act."""

    comment: Text = ""


class Shelving(_Body):
    """For how long an alert is hidden, and why; give one of the two times."""

    until: UtcTime | None = None
    minutes: Annotated[float, Field(gt=0, le=60 * 24 * 90)] | None = None
    reason: Annotated[Text, Field(min_length=1)]

    def end(self, now: datetime) -> datetime:
        """Return until when; raise InvalidInput unless one of the times is given."""
        if (self.until is None) == (self.minutes is None):
            raise InvalidInput("give either until or minutes", fix="say how long to shelve it")
        return self.until or now + timedelta(minutes=self.minutes or 0)


class Reason(_Body):
    """Why something is done."""

    reason: Annotated[Text, Field(min_length=1)]


class Comment(_Body):
    """A remark."""

    text: Annotated[Text, Field(min_length=1)]


class Assignment(_Body):
    """Whose it is to see to; null: nobody's."""

    assignee: Person | None


class TopAlert(BaseModel):
    """One of the most frequent alerts; `share` of all annunciated ones."""

    pump_id: str | None
    condition: str
    annunciated: int
    share: float
    last_at: datetime


class ChatteringAlert(BaseModel):
    """An alert annunciated five times or more within an hour."""

    pump_id: str | None
    condition: str
    most_in_an_hour: int


class AlertStatistics(BaseModel):
    """What operators had to bear in a span, after ISA-18.2; `now` counts what there is at its end."""

    since: datetime = Field(serialization_alias="from")
    until: datetime = Field(serialization_alias="to")
    operators: int
    annunciated: int
    per_operator_hour: float
    load: Literal["acceptable", "manageable", "overload"]
    most_in_ten_minutes: int
    ten_minutes_above_flood: int
    floods: int
    flood_share: float
    priorities: dict[str, int]
    priority_shares: dict[str, float]
    recommended_shares: dict[str, float]
    top: list[TopAlert]
    chattering: list[ChatteringAlert]
    acknowledged: int
    mean_to_acknowledge_s: float | None
    p95_to_acknowledge_s: float | None
    now: dict[str, int]


class RuleSet(BaseModel):
    """Rules that were loaded."""

    version: str
    loaded_by: str
    loaded_at: datetime
    active: bool


def alerts_router(alerts: Alerts, lists: AlertLists, pool: Pool) -> APIRouter:
    """Return the routes of alerts and their rules."""
    router = APIRouter(tags=["alerts"])
    _add_statistics(router, lists, pool)
    _add_lists(router, lists)
    _add_acts(router, alerts)
    _add_rules(router, alerts, lists, pool)
    return router


def _add_lists(router: APIRouter, lists: AlertLists) -> None:
    @router.get("/alerts", dependencies=[Reader], response_model=Page[Alert], responses=problems())
    async def list_alerts(
        field_id: FieldFilter = None,
        pump_id: PumpFilter = None,
        condition: Name = None,
        source: Annotated[Literal["finding", "limit", "platform"] | None, Query()] = None,
        state: Annotated[
            list[State] | None,
            Query(description="May be repeated; none: all but pending, normal and closed."),
        ] = None,
        priority: Annotated[list[Priority] | None, Query(description="May be repeated.")] = None,
        active: bool | None = None,
        acknowledged: bool | None = None,
        assignee: Name = None,
        acknowledged_by: Name = None,
        raised_from: Time = None,
        raised_to: Time = None,
        cleared_from: Time = None,
        cleared_to: Time = None,
        acknowledged_from: Time = None,
        acknowledged_to: Time = None,
        closed_from: Time = None,
        closed_to: Time = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """Return alerts, the last raised first. With a date or `state` also those that are over."""
        dates = (cleared_from, cleared_to, acknowledged_from, acknowledged_to, closed_from, closed_to)
        wanted = AlertFilter(
            field_id,
            pump_id,
            condition,
            source,
            state or _shown(history=any((*dates, raised_from, raised_to))),
            priority,
            active,
            acknowledged,
            assignee,
            acknowledged_by,
            raised_from,
            raised_to,
            *dates,
        )
        rows = await lists.page(wanted, position(cursor, time_field, uuid_field), limit + 1)
        found = page(rows, limit, lambda alarm: (alarm.last_raised_at, alarm.alert_id))
        return {**found, "items": [document(alarm) for alarm in found["items"]]}

    @router.get("/alerts/{id}", dependencies=[Reader], response_model=AlertWithLog, responses=problems(404))
    async def show_alert(id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Return an alert with the last hundred entries of its log."""
        alarm = await lists.one(id)
        if alarm is None:
            raise NotFound(f"no alert {id}", fix="see the list of alerts")
        return {**document(alarm), "log": await lists.history(id, None, 100)}

    @router.get(
        "/alerts/{id}/log", dependencies=[Reader], response_model=Page[AlertLogEntry], responses=problems(404)
    )
    async def list_alert_log(id: UUID, cursor: Cursor = None, limit: Limit = 100) -> Any:  # noqa: A002
        """Return what happened to an alert, the newest first."""
        if await lists.one(id) is None:
            raise NotFound(f"no alert {id}", fix="see the list of alerts")
        (after,) = position(cursor, serial_field) or (None,)
        rows = await lists.history(id, after, limit + 1)
        return page(rows, limit, lambda row: [row["log_id"]])


def _shown(*, history: bool) -> list[str]:
    """Return the states that a list has without a wish: what is there, or for dates all that ever was."""
    hidden = {State.PENDING} if history else {State.PENDING, State.NORMAL, State.CLOSED}
    return [state for state in State if state not in hidden]


def _add_acts(router: APIRouter, alerts: Alerts) -> None:
    def remark(name: str, act: Callable[..., Any], meaning: str) -> None:
        async def route(id: UUID, caller: Writer, remark: Remark | None = None) -> Any:  # noqa: A002
            return document(await act(id, caller.id, remark.comment if remark else ""))

        router.add_api_route(
            f"/alerts/{{id}}/{name}",
            route,
            methods=["POST"],
            response_model=Alert,
            operation_id=f"{name.replace('-', '_')}_alert",
            description=meaning,
            responses=problems(*BODY, 404, 409),
        )

    remark("acknowledge", alerts.acknowledge, "Say that you have seen it.")
    remark("unacknowledge", alerts.unacknowledge, "Take back an acknowledgement.")
    remark("unshelve", alerts.unshelve, "Annunciate it again before its shelving ends.")
    remark("return-to-service", alerts.return_to_service, "Annunciate it again after maintenance.")
    remark("close", alerts.close, "End an alert whose condition is gone, acknowledged.")

    @router.post("/alerts/{id}/shelve", response_model=Alert, responses=problems(*BODY, 404, 409))
    async def shelve_alert(id: UUID, shelving: Shelving, caller: Writer) -> Any:  # noqa: A002
        """Hide an alert for a while; it comes back by itself."""
        until = shelving.end(datetime.now(UTC))
        return document(await alerts.shelve(id, caller.id, until, shelving.reason))

    @router.post("/alerts/{id}/out-of-service", response_model=Alert, responses=problems(*BODY, 404, 409))
    async def take_alert_out_of_service(id: UUID, why: Reason, caller: Writer) -> Any:  # noqa: A002
        """Hide an alert until it is returned to service."""
        return document(await alerts.take_out_of_service(id, caller.id, why.reason))

    @router.post("/alerts/{id}/comments", response_model=Alert, responses=problems(*BODY, 404))
    async def comment_alert(id: UUID, comment: Comment, caller: Writer) -> Any:  # noqa: A002
        """Add a remark to the alert's log."""
        return document(await alerts.comment(id, caller.id, comment.text))

    @router.post("/alerts/{id}/assign", response_model=Alert, responses=problems(*BODY, 404, 409))
    async def assign_alert(id: UUID, assignment: Assignment, caller: Writer) -> Any:  # noqa: A002
        """Make an alert somebody's to see to."""
        return document(await alerts.assign(id, caller.id, assignment.assignee))


def _add_statistics(router: APIRouter, lists: AlertLists, pool: Pool) -> None:
    @router.get(
        "/alerts/statistics", dependencies=[Reader], response_model=AlertStatistics, responses=problems()
    )
    async def alert_statistics(
        field_id: FieldFilter = None,
        since: Since = None,
        until: Until = None,
        operators: Annotated[int, Query(ge=1, le=1000, description="Operators who share the alerts.")] = 1,
    ) -> Any:
        """Return how many alerts operators had to bear, of what kind; the last 24 hours unless told."""
        until = until or datetime.now(UTC)
        since = since or until - timedelta(days=1)
        if not timedelta(0) < until - since <= LONGEST_STATISTICS:
            raise InvalidInput(
                f"a span from {since:%Y-%m-%dT%H:%M} to {until:%Y-%m-%dT%H:%M} has no statistics",
                fix=f"give a `from` before `to`, at most {LONGEST_STATISTICS.days} days",
            )
        async with pool.acquire() as connection:
            rules = await load_rules(connection)
        parts = await lists.statistics(since, until, field_id, rules.flood.begins_above)
        return _statistics(parts, since, until, operators)


def _statistics(
    parts: dict[str, list[dict[str, Any]]], since: datetime, until: datetime, operators: int
) -> dict[str, Any]:
    (rate,), (seen,), (floods,), (now,) = (parts[name] for name in ("rate", "acknowledged", "floods", "now"))
    span_s = (until - since).total_seconds()
    counts = {row["priority"]: row["annunciated"] for row in parts["priorities"]}
    per_hour = statistics.per_operator_hour(rate["annunciated"], span_s, operators)
    return {
        "since": since,
        "until": until,
        "operators": operators,
        "annunciated": rate["annunciated"],
        "per_operator_hour": per_hour,
        "load": statistics.load(per_hour),
        "most_in_ten_minutes": rate["most_in_ten_minutes"],
        "ten_minutes_above_flood": rate["slots_above"],
        "floods": floods["floods"],
        "flood_share": floods["seconds"] / span_s,
        "priorities": {name: counts.get(name, 0) for name in PRIORITIES},
        "priority_shares": statistics.shares(counts),
        "recommended_shares": statistics.RECOMMENDED_SHARES,
        "top": parts["top"],
        "chattering": parts["chattering"],
        "acknowledged": seen["acknowledged"],
        "mean_to_acknowledge_s": seen["mean_s"],
        "p95_to_acknowledge_s": seen["p95_s"],
        "now": now,
    }


def _add_rules(router: APIRouter, alerts: Alerts, lists: AlertLists, pool: Pool) -> None:
    may_read = [Depends(require("rules:read"))]
    Engineer = Annotated[Principal, Depends(require("rules:write"))]  # noqa: N806 - a type

    @router.get("/alert-rules", response_model=AlertRules, dependencies=may_read, responses=problems())
    async def show_alert_rules() -> Any:
        """Return the rules in force."""
        async with pool.acquire() as connection:
            return await load_rules(connection)

    @router.get(
        "/alert-rules/export",
        dependencies=may_read,
        response_class=Response,
        responses={
            200: {"content": {YAML_TYPE: {"schema": {"$ref": "#/components/schemas/AlertRules"}}}},
            **problems(),
        },
    )
    async def export_alert_rules() -> Response:
        """Return the rules in force as the file they were loaded from."""
        async with pool.acquire() as connection:
            text = await rules_text(connection)
        headers = {"Content-Disposition": 'attachment; filename="alert-rules.yaml"'}
        return Response(text, media_type=YAML_TYPE, headers=headers)

    @router.get(
        "/alert-rules/versions", response_model=list[RuleSet], dependencies=may_read, responses=problems()
    )
    async def list_alert_rule_versions() -> Any:
        """Return which rules were loaded, by whom, the last first; none: only those that ship."""
        return await lists.rule_sets()

    @router.put(
        "/alert-rules",
        response_model=AlertRules,
        responses=problems(*BODY, 409),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {YAML_TYPE: {"schema": {"type": "string", "maxLength": MAX_BODY_BYTES}}},
            }
        },
    )
    async def load_alert_rule_set(request: Request, caller: Engineer) -> Any:
        """Put rules in force: a whole YAML (or JSON) file with a version of its own."""
        try:
            text = (await request.body()).decode()
        except UnicodeDecodeError:
            raise InvalidInput("the body is not text in UTF-8", fix="send the rules as YAML") from None
        return await alerts.load_rules(text, caller.id)
