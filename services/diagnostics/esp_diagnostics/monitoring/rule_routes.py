"""HTTP routes of the rules of the decision tree and of overrides."""

from datetime import datetime
from typing import Annotated, Any, Final

from esp_common.answers import BODY, problems
from esp_common.auth import Principal, require
from esp_common.errors import InvalidInput
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from esp_diagnostics.common.answers import NO_NUL, PumpId
from esp_diagnostics.detection.tree import Rules
from esp_diagnostics.detection.tree.indicators import INDICATORS
from esp_diagnostics.detection.tree.rule_parser import MAX_TEXT_LENGTH
from esp_diagnostics.detection.tree.rules import Condition, Term
from esp_diagnostics.monitoring.rules import InForce, RuleBook

YAML_TYPE: Final = "application/yaml"

Reader = Annotated[Principal, Depends(require("rules:read"))]
Writer = Annotated[Principal, Depends(require("rules:write"))]
ParameterName = Annotated[
    str, Path(alias="parameter", min_length=1, max_length=64, pattern=NO_NUL, description="Parameter name.")
]


class ParameterOut(BaseModel):
    """Number that can be set for all pumps or for one."""

    name: str
    default: float
    unit: str
    low: float
    high: float
    help: str


class TermOut(BaseModel):
    """Evidence: values at which it starts to count and counts in full, as number or parameter name."""

    indicator: str
    begins: float | str
    full: float | str
    weight: float
    says: str


class ConditionOut(BaseModel):
    """Condition and its evidence."""

    name: str
    title: str
    stage: str
    family: str
    states: list[str]
    severity: str
    action: str
    raise_above: float | str
    clear_below: float | str
    delay_min: float | str
    clear_min: float | str
    settle_h: float | str
    require: list[TermOut]
    support: list[TermOut]
    against: list[TermOut]
    explains: list[str]


class RuleSetOut(BaseModel):
    """Loaded version of the rules."""

    version: str
    loaded_by: str
    loaded_at: datetime
    active: bool


class IndicatorOut(BaseModel):
    """Indicator available as evidence."""

    name: str
    unit: str
    meaning: str


class RulesOut(BaseModel):
    """Rules in force, and the indicators available to rules."""

    version: str
    shipped: bool
    parameters: list[ParameterOut]
    conditions: list[ConditionOut]
    indicators: list[IndicatorOut]
    loaded: list[RuleSetOut]


class OverrideOut(BaseModel):
    """Override of a pump; `in_use` false: the rules in force have no such parameter."""

    parameter: str
    value: float
    default: float | None
    unit: str | None
    in_use: bool
    set_by: str
    set_at: datetime


class OverridesOut(BaseModel):
    """Overrides of a pump."""

    pump_id: str
    version: str
    overrides: list[OverrideOut]


class OverrideIn(BaseModel):
    """Override of a parameter."""

    model_config = ConfigDict(extra="forbid")

    value: float = Field(allow_inf_nan=False)


def rules_router(book: RuleBook) -> APIRouter:
    """Return the routes of the rules."""
    router = APIRouter(tags=["rules"])

    @router.get("/rules", response_model=RulesOut, responses=problems())
    async def get_rules(_: Reader) -> Any:
        """Show the rules in force, and the loaded versions."""
        return _rules(await book.in_force())

    @router.get(
        "/rules/export",
        response_class=Response,
        responses={200: {"content": {YAML_TYPE: {"schema": {"type": "object"}}}}, **problems()},
    )
    async def export_rules(_: Reader) -> Response:
        """Download the rules in force as loaded, including comments."""
        text = (await book.in_force()).rules.text
        headers = {"Content-Disposition": 'attachment; filename="rules.yaml"'}
        return Response(text, media_type=YAML_TYPE, headers=headers)

    @router.put(
        "/rules",
        response_model=RulesOut,
        responses=problems(409, *BODY),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {YAML_TYPE: {"schema": {"type": "string", "maxLength": MAX_TEXT_LENGTH}}},
            }
        },
    )
    async def put_rules(request: Request, caller: Writer) -> Any:
        """Load rules: a complete file with a new version. Every problem is reported."""
        try:
            text = (await request.body()).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidInput("the body is not text in UTF-8", fix="send the rules as YAML") from None
        if "\0" in text:
            raise InvalidInput("the body contains a NUL character", fix="send the rules as YAML")
        await book.load(text, caller.id)
        return _rules(await book.in_force())

    @router.delete("/rules", response_model=RulesOut, responses=problems())
    async def delete_rules(caller: Writer) -> Any:
        """Put the shipped rules in force again; loaded versions are kept."""
        await book.ship(caller.id)
        return _rules(await book.in_force())

    @router.get("/pumps/{id}/rule-overrides", response_model=OverridesOut, responses=problems(404))
    async def get_overrides(_: Reader, pump_id: PumpId) -> Any:
        """List the overrides of a pump."""
        return await _overrides(book, pump_id)

    @router.put(
        "/pumps/{id}/rule-overrides/{parameter}",
        response_model=OverridesOut,
        responses=problems(404, *BODY),
    )
    async def put_override(caller: Writer, pump_id: PumpId, parameter: ParameterName, own: OverrideIn) -> Any:
        """Set an override of a parameter within its bounds."""
        await book.override(pump_id, parameter, own.value, caller.id)
        return await _overrides(book, pump_id)

    @router.delete(
        "/pumps/{id}/rule-overrides/{parameter}", response_model=OverridesOut, responses=problems(404)
    )
    async def delete_override(caller: Writer, pump_id: PumpId, parameter: ParameterName) -> Any:
        """Delete an override; the common value applies again."""
        await book.drop_override(pump_id, parameter, caller.id)
        return await _overrides(book, pump_id)

    return router


async def _overrides(book: RuleBook, pump_id: str) -> OverridesOut:
    own, rules = await book.overrides(pump_id)
    found = []
    for one in own:
        known = rules.parameters.get(one.parameter)
        found.append(
            OverrideOut(
                parameter=one.parameter,
                value=one.value,
                default=known.default if known else None,
                unit=known.unit if known else None,
                in_use=known is not None,
                set_by=one.set_by,
                set_at=one.set_at,
            )
        )
    return OverridesOut(pump_id=pump_id, version=rules.version, overrides=found)


def _rules(now: InForce) -> RulesOut:
    rules: Rules = now.rules
    return RulesOut(
        version=rules.version,
        shipped=now.shipped,
        parameters=[
            ParameterOut(name=p.name, default=p.default, unit=p.unit, low=p.low, high=p.high, help=p.help)
            for p in rules.parameters.values()
        ],
        conditions=[_condition(condition) for condition in rules.conditions.values()],
        indicators=[
            IndicatorOut(name=name, unit=unit, meaning=meaning)
            for name, (unit, meaning) in INDICATORS.items()
        ],
        loaded=[
            RuleSetOut(version=s.version, loaded_by=s.loaded_by, loaded_at=s.loaded_at, active=s.active)
            for s in now.loaded
        ],
    )


_PLAIN: Final = (
    *("name", "title", "stage", "family", "severity", "action", "raise_above", "clear_below"),
    *("delay_min", "clear_min", "settle_h"),
)


def _condition(condition: Condition) -> ConditionOut:
    return ConditionOut(
        **{name: getattr(condition, name) for name in _PLAIN},
        states=list(condition.states),
        require=[_term(term) for term in condition.require],
        support=[_term(term) for term in condition.support],
        against=[_term(term) for term in condition.against],
        explains=list(condition.explains),
    )


def _term(term: Term) -> TermOut:
    return TermOut(
        indicator=term.indicator, begins=term.begins, full=term.full, weight=term.weight, says=term.says
    )
