"""HTTP routes of alerts: lists, operator actions, log, statistics and rules."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from esp_common.answers import BODY, Cursor, Limit, Page, Since, Until, UtcTime, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import serial_field, time_field, uuid_field
from esp_common.database import Pool
from esp_common.errors import InvalidInput, NotFound
from esp_common.http import MAX_BODY_BYTES
from fastapi import APIRouter, Depends, Query, Request, Response

from esp_diagnostics.alerts import statistics
from esp_diagnostics.alerts.actions import AlertActions
from esp_diagnostics.alerts.model import PRIORITIES, AlertState
from esp_diagnostics.alerts.rule_sets import AlertRuleSets, load_rules, rules_text
from esp_diagnostics.alerts.rules import AlertRules
from esp_diagnostics.alerts.schemas import (
    AlertLogEntry,
    AlertRuleVersion,
    AlertStatistics,
    AlertView,
    AlertWithLog,
    Assignment,
    Comment,
    OutOfService,
    Priority,
    Remark,
    Shelving,
)
from esp_diagnostics.alerts.store import AlertFilter, AlertLists
from esp_diagnostics.alerts.transaction import document
from esp_diagnostics.common.answers import NO_NUL, FieldFilter, PumpFilter

YAML_TYPE = "application/yaml"
MAX_STATISTICS_SPAN = timedelta(days=400)

Reader = Depends(require("alerts:read"))
Writer = Annotated[Principal, Depends(require("alerts:write"))]
Name = Annotated[str | None, Query(max_length=200, pattern=NO_NUL)]
Time = Annotated[UtcTime | None, Query()]


def alerts_router(
    actions: AlertActions, rule_sets: AlertRuleSets, lists: AlertLists, pool: Pool
) -> APIRouter:
    """Return the routes of alerts and alert rules."""
    router = APIRouter(tags=["alerts"])
    _add_statistics(router, lists, pool)
    _add_lists(router, lists)
    _add_actions(router, actions)
    _add_rules(router, rule_sets, lists, pool)
    return router


def _add_lists(router: APIRouter, lists: AlertLists) -> None:
    @router.get("/alerts", dependencies=[Reader], response_model=Page[AlertView], responses=problems())
    async def list_alerts(
        field_id: FieldFilter = None,
        pump_id: PumpFilter = None,
        condition: Name = None,
        source: Annotated[Literal["finding", "limit", "platform"] | None, Query()] = None,
        state: Annotated[
            list[AlertState] | None,
            Query(description="Repeatable. Default: all states but pending, normal and closed."),
        ] = None,
        priority: Annotated[list[Priority] | None, Query(description="Repeatable.")] = None,
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
        """List alerts, last raised first. With a date or `state` the list includes past alerts."""
        dates = (cleared_from, cleared_to, acknowledged_from, acknowledged_to, closed_from, closed_to)
        wanted = AlertFilter(
            field_id,
            pump_id,
            condition,
            source,
            state or _default_states(history=any((*dates, raised_from, raised_to))),
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
        found = page(rows, limit, lambda alert: (alert.last_raised_at, alert.alert_id))
        return {**found, "items": [document(alert) for alert in found["items"]]}

    @router.get("/alerts/{id}", dependencies=[Reader], response_model=AlertWithLog, responses=problems(404))
    async def show_alert(id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Show an alert with the last hundred entries of its log."""
        alert = await lists.one(id)
        if alert is None:
            raise NotFound(f"no alert {id}", fix="see the list of alerts")
        return {**document(alert), "log": await lists.history(id, None, 100)}

    @router.get(
        "/alerts/{id}/log", dependencies=[Reader], response_model=Page[AlertLogEntry], responses=problems(404)
    )
    async def list_alert_log(id: UUID, cursor: Cursor = None, limit: Limit = 100) -> Any:  # noqa: A002
        """List the log of an alert, newest first."""
        if await lists.one(id) is None:
            raise NotFound(f"no alert {id}", fix="see the list of alerts")
        (after,) = position(cursor, serial_field) or (None,)
        rows = await lists.history(id, after, limit + 1)
        return page(rows, limit, lambda row: [row["log_id"]])


def _default_states(*, history: bool) -> list[str]:
    """Return the states listed by default: current alerts, or with dates past ones as well."""
    hidden = {AlertState.PENDING} if history else {AlertState.PENDING, AlertState.NORMAL, AlertState.CLOSED}
    return [state for state in AlertState if state not in hidden]


def _add_actions(router: APIRouter, actions: AlertActions) -> None:
    def remark(name: str, action: Callable[..., Any], meaning: str) -> None:
        async def route(id: UUID, caller: Writer, remark: Remark | None = None) -> Any:  # noqa: A002
            return document(await action(id, caller.id, remark.comment if remark else ""))

        router.add_api_route(
            f"/alerts/{{id}}/{name}",
            route,
            methods=["POST"],
            response_model=AlertView,
            operation_id=f"{name.replace('-', '_')}_alert",
            description=meaning,
            responses=problems(*BODY, 404, 409),
        )

    remark("acknowledge", actions.acknowledge, "Acknowledge an alert.")
    remark("unacknowledge", actions.unacknowledge, "Withdraw an acknowledgement.")
    remark("unshelve", actions.unshelve, "End the shelving of an alert before its time.")
    remark("return-to-service", actions.return_to_service, "Return an alert to service after maintenance.")
    remark("close", actions.close, "Close and acknowledge an alert whose condition has cleared.")

    @router.post("/alerts/{id}/shelve", response_model=AlertView, responses=problems(*BODY, 404, 409))
    async def shelve_alert(id: UUID, shelving: Shelving, caller: Writer) -> Any:  # noqa: A002
        """Shelve an alert: hide it until the given time."""
        until = shelving.end(datetime.now(UTC))
        return document(await actions.shelve(id, caller.id, until, shelving.reason))

    @router.post("/alerts/{id}/out-of-service", response_model=AlertView, responses=problems(*BODY, 404, 409))
    async def take_alert_out_of_service(id: UUID, body: OutOfService, caller: Writer) -> Any:  # noqa: A002
        """Take an alert out of service: hide it until it is returned to service."""
        return document(await actions.take_out_of_service(id, caller.id, body.reason))

    @router.post("/alerts/{id}/comments", response_model=AlertView, responses=problems(*BODY, 404))
    async def comment_alert(id: UUID, comment: Comment, caller: Writer) -> Any:  # noqa: A002
        """Add a remark to the log of an alert."""
        return document(await actions.comment(id, caller.id, comment.text))

    @router.post("/alerts/{id}/assign", response_model=AlertView, responses=problems(*BODY, 404, 409))
    async def assign_alert(id: UUID, assignment: Assignment, caller: Writer) -> Any:  # noqa: A002
        """Assign an alert to a person, or to nobody."""
        return document(await actions.assign(id, caller.id, assignment.assignee))


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
        """Show the alert load of operators; default span: the last 24 hours."""
        until = until or datetime.now(UTC)
        since = since or until - timedelta(days=1)
        if not timedelta(0) < until - since <= MAX_STATISTICS_SPAN:
            raise InvalidInput(
                f"no statistics for a span from {since:%Y-%m-%dT%H:%M} to {until:%Y-%m-%dT%H:%M}",
                fix=f"give a `from` before `to`, at most {MAX_STATISTICS_SPAN.days} days",
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


def _add_rules(router: APIRouter, rule_sets: AlertRuleSets, lists: AlertLists, pool: Pool) -> None:
    may_read = [Depends(require("rules:read"))]
    Engineer = Annotated[Principal, Depends(require("rules:write"))]  # noqa: N806 - a type

    @router.get("/alert-rules", response_model=AlertRules, dependencies=may_read, responses=problems())
    async def show_alert_rules() -> Any:
        """Show the alert rules in force."""
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
        """Download the alert rules in force as the file they were loaded from."""
        async with pool.acquire() as connection:
            text = await rules_text(connection)
        headers = {"Content-Disposition": 'attachment; filename="alert-rules.yaml"'}
        return Response(text, media_type=YAML_TYPE, headers=headers)

    @router.get(
        "/alert-rules/versions",
        response_model=list[AlertRuleVersion],
        dependencies=may_read,
        responses=problems(),
    )
    async def list_alert_rule_versions() -> Any:
        """List the loaded versions of the alert rules, newest first; empty while the shipped rules apply."""
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
        """Load alert rules: a complete YAML (or JSON) file with a new version."""
        try:
            text = (await request.body()).decode()
        except UnicodeDecodeError:
            raise InvalidInput("the body is not text in UTF-8", fix="send the rules as YAML") from None
        return await rule_sets.load(text, caller.id)
