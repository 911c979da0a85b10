"""Alert rules as data: priorities, delays, suppression and channel limits, in one YAML file.

`alert_rules.yaml` beside this module holds the shipped rules. Validation reports every problem of a file.
"""

from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, Self

import yaml
from esp_common.errors import InvalidInput
from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from esp_diagnostics.alerts.model import SEVERITIES, Handling
from esp_diagnostics.detection.limit_rules import Delay, Limit, Name, PumpState, RulesPart

MAX_RULES_BYTES: Final = 256 * 1024
PRIORITY_NONE: Final = "none"
"""Priority of a condition that raises no alert."""

_DAY_S: Final = 86_400

Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
PriorityOrNone = Literal["none", "low", "medium", "high", "critical"]


class AlertRulesInvalid(InvalidInput):
    """Rules that fail validation; `fields` holds every problem with its place."""

    code, title = "alert-rules-invalid", "Alert rules invalid"


class ConditionPolicy(RulesPart):
    """Treatment of one condition; None takes the value of the default policy."""

    priority: PriorityOrNone | None = Field(default=None, description="none: no alert. Omitted: by severity.")
    on_delay_s: Delay | None = Field(
        default=None, description="Seconds the condition must be active before the alert is raised."
    )
    off_delay_s: Delay | None = Field(
        default=None, description="Seconds the condition must be clear before the alert clears."
    )
    suppress_in_states: frozenset[PumpState] | None = Field(
        default=None, description="States of the pump in which the alert is suppressed."
    )
    suppress_under: frozenset[Name] | None = Field(
        default=None,
        description="Conditions of the same pump that explain this one and suppress its alert.",
    )


class Flood(RulesPart):
    """Bounds of an alert flood: alerts of one field within a window."""

    begins_above: Annotated[int, Field(ge=1)] = 10
    ends_below: Annotated[int, Field(ge=1)] = 5
    window_s: Annotated[float, Field(gt=0, le=_DAY_S)] = 600.0

    @model_validator(mode="after")
    def _ends_lower(self) -> Self:
        if self.ends_below > self.begins_above:
            raise ValueError("ends_below must not be more than begins_above")
        return self


class AlertRules(RulesPart):
    """All alert rules."""

    version: Version
    by_severity: Mapping[Literal["info", "low", "medium", "high", "critical"], PriorityOrNone]
    default: ConditionPolicy = ConditionPolicy()
    conditions: Mapping[Name, ConditionPolicy] = Field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    flood: Flood = Flood()
    shelve_longest_s: Annotated[float, Field(gt=0, le=90 * _DAY_S)] = _DAY_S
    rest_s: Annotated[float, Field(ge=0, le=90 * _DAY_S)] = _DAY_S

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if missing := [severity for severity in SEVERITIES if severity not in self.by_severity]:
            raise ValueError(f"by_severity lacks {', '.join(missing)}")
        names = [limit.name for limit in self.limits]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"limits named twice: {', '.join(twice)}")
        return self

    def policy(self, condition: str) -> ConditionPolicy:
        """Return the policy of `condition`, completed from the default policy."""
        limit = next((limit for limit in self.limits if limit.condition == condition), None)
        if limit is not None:
            # LimitWatch applies a limit's delays in data time; applying them here would count them twice.
            return ConditionPolicy(
                priority=limit.priority,
                on_delay_s=0.0,
                off_delay_s=0.0,
                suppress_in_states=limit.suppress_in_states,
                suppress_under=limit.suppress_under,
            )
        own = self.conditions.get(condition, ConditionPolicy())
        said = own.model_dump(exclude_none=True)
        return ConditionPolicy.model_validate({**self.default.model_dump(exclude_none=True), **said})

    def handling(self, condition: str, severity: str) -> Handling | None:
        """Return the handling of an alert of `condition` with `severity`; None: no alert."""
        policy = self.policy(condition)
        priority = policy.priority or self.by_severity[severity]  # type: ignore[index]
        if priority == PRIORITY_NONE:
            return None
        return Handling(priority, policy.on_delay_s or 0.0, policy.off_delay_s or 0.0)


def suppression(
    rules: AlertRules, condition: str, pump_state: str | None, conditions: Collection[str]
) -> str | None:
    """Return the reason to suppress an alert of `condition` now, if any.

    `conditions`: active conditions of the same pump.
    """
    policy = rules.policy(condition)
    if pump_state in (policy.suppress_in_states or ()):
        return f"state {pump_state}"
    explaining = sorted((policy.suppress_under or frozenset()).intersection(conditions) - {condition})
    return f"condition {explaining[0]}" if explaining else None


def load_alert_rules(text: str) -> AlertRules:
    """Parse rules from YAML (or JSON) text; raise AlertRulesInvalid with every problem."""
    if len(text.encode()) > MAX_RULES_BYTES:
        raise AlertRulesInvalid(f"alert rules exceed {MAX_RULES_BYTES} bytes")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise AlertRulesInvalid(f"alert rules are not valid YAML: {error}") from None
    try:
        return AlertRules.model_validate(document)
    except ValidationError as error:
        problems = [{"where": [str(part) for part in e["loc"]], "what": e["msg"]} for e in error.errors()]
        what = "; ".join(
            f"{'.'.join(problem['where']) or 'rules'}: {problem['what']}" for problem in problems
        )
        raise AlertRulesInvalid(
            what[:2000], fields=problems, fix="see alert-rules/export for an example"
        ) from None


@cache
def shipped_alert_rules() -> AlertRules:
    """Return the shipped rules."""
    return load_alert_rules(shipped_text())


@cache
def shipped_text() -> str:
    """Return the text of the shipped rules."""
    return files(__package__).joinpath("alert_rules.yaml").read_text(encoding="utf-8")


def limits_of(
    rules: AlertRules, pump_id: str, field_id: str | None, numbers: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, float]:
    """Return the value of each limit of a pump, in the unit of its channel, by limit name.

    `numbers`: nameplate values and settings of the pump; `own`: limits of this pump alone (None: no limit).
    """
    found = {}
    for limit in rules.limits:
        if limit.pumps is not None and pump_id not in limit.pumps:
            continue
        if limit.fields is not None and field_id not in limit.fields:
            continue
        value = own[limit.name] if limit.name in own else _value(limit, numbers)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[limit.name] = float(value)
    return found


def _value(limit: Limit, numbers: Mapping[str, Any]) -> float | None:
    factor = limit.high if limit.high is not None else limit.low
    assert factor is not None  # noqa: S101 - validated
    if limit.of is None:
        return factor
    base = numbers.get(limit.of)
    return factor * base if isinstance(base, int | float) and not isinstance(base, bool) else None
