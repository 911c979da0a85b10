"""Request and response bodies of the alert routes."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from esp_common.answers import UtcTime
from esp_common.errors import InvalidInput
from pydantic import BaseModel, Field

from esp_diagnostics.alerts.model import AlertState, TransitionKind
from esp_diagnostics.common.answers import NO_NUL, RequestBody

Text = Annotated[str, Field(max_length=2000, pattern=r"^[^\u0000]*$")]

Person = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]


class Priority(StrEnum):
    """How soon an operator has to act."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class AlertView(BaseModel):
    """One alert. Times that come from readings are in data time."""

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
    state: AlertState
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
    """Transition of an alert; `notice`: reason for the notification, if one was sent."""

    log_id: int
    time: datetime
    logged_at: datetime
    what: TransitionKind
    notice: Literal["raised", "escalated", "cleared"] | None
    priority: Priority
    state: AlertState
    actor: str | None
    detail: dict[str, Any]


class AlertWithLog(AlertView):
    """An alert with the newest entries of its log."""

    log: list[AlertLogEntry]


class Remark(RequestBody):
    """Optional remark with an operator action."""

    comment: Text = ""


class Shelving(RequestBody):
    """Duration and reason of a shelving; give `until` or `minutes`."""

    until: UtcTime | None = None
    minutes: Annotated[float, Field(gt=0, le=60 * 24 * 90)] | None = None
    reason: Annotated[Text, Field(min_length=1)]

    def end(self, now: datetime) -> datetime:
        """Return the end of the shelving; raise InvalidInput unless exactly one of the two is given."""
        if (self.until is None) == (self.minutes is None):
            raise InvalidInput("give either until or minutes", fix="say how long to shelve it")
        return self.until or now + timedelta(minutes=self.minutes or 0)


class OutOfService(RequestBody):
    """Reason for an operator action."""

    reason: Annotated[Text, Field(min_length=1)]


class Comment(RequestBody):
    """Remark on an alert."""

    text: Annotated[Text, Field(min_length=1)]


class Assignment(RequestBody):
    """Person who handles the alert; null: nobody."""

    assignee: Person | None


class TopAlert(BaseModel):
    """One of the most frequent alerts; `share` of all annunciated alerts."""

    pump_id: str | None
    condition: str
    annunciated: int
    share: float
    last_at: datetime


class ChatteringAlert(BaseModel):
    """Alert that was annunciated at least five times within an hour."""

    pump_id: str | None
    condition: str
    most_in_an_hour: int


class AlertStatistics(BaseModel):
    """Alert load of operators in a span, after ISA-18.2; `now` counts the alerts at its end."""

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


class AlertRuleVersion(BaseModel):
    """Version of the alert rules that was loaded at some time."""

    version: str
    loaded_by: str
    loaded_at: datetime
    active: bool
