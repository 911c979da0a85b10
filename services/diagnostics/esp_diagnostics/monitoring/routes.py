"""What pumps suffer from, over HTTP: diagnoses, health, and the findings of all times."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from esp_common.answers import Cursor, Limit, Page, UtcTime, page, position, problems
from esp_common.auth import require
from esp_common.cursors import time_field, uuid_field
from esp_common.database import Pool
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from esp_diagnostics.common.answers import NO_NUL, FieldFilter, PumpFilter, PumpId
from esp_diagnostics.monitoring.store import states
from esp_diagnostics.monitoring.store.findings import FindingFilter, Findings
from esp_diagnostics.monitoring.store.models import Models
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.pumps.store import KnownPump
from esp_diagnostics.silence.rules import SilencePolicy

READ: Final = "diagnostics:read"

State = Literal["unknown", "off", "starting", "running", "changing"]
Severity = Literal["info", "low", "medium", "high", "critical"]
Kind = Literal["tree", "anomaly"]

PastFindings = Annotated[int, Query(ge=0, le=200, description="Most findings of the past.")]
ConditionFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only those of this condition.")
]
SeverityFilter = Annotated[list[Severity] | None, Query(description="Only those of one of these severities.")]
OpenFilter = Annotated[bool | None, Query(alias="open", description="true: only open; false: only cleared.")]


RaisedFrom = Annotated[UtcTime | None, Query(description="Only those raised at or after this time.")]
RaisedTo = Annotated[UtcTime | None, Query(description="Only those raised before this time.")]
ClearedFrom = Annotated[UtcTime | None, Query(description="Only those cleared at or after this time.")]
ClearedTo = Annotated[UtcTime | None, Query(description="Only those cleared before this time.")]
OnsetFrom = Annotated[UtcTime | None, Query(description="Only those that began at or after this time.")]
OnsetTo = Annotated[UtcTime | None, Query(description="Only those that began before this time.")]


class EvidenceItem(BaseModel):
    """Something that speaks for or against a condition, or would if it were known (`value` null)."""

    signal: str
    what: str
    value: float | None
    unit: str
    threshold: float | None


class EvidenceLists(BaseModel):
    """What speaks for a condition, against it, and what is missing to say."""

    for_: list[EvidenceItem] = Field(alias="for")
    against: list[EvidenceItem]
    missing: list[EvidenceItem]


class HypothesisItem(EvidenceLists):
    """A condition that the pump may suffer from."""

    condition: str
    confidence: float
    severity: Severity
    action: str
    since: datetime


class Finding(BaseModel):
    """A condition that a pump was found to suffer from; `cleared_at` null: it still does.

    `onset`, `raised_at` and `cleared_at` are by the readings' clock; `noticed_at` is when it was written.
    """

    finding_id: UUID
    pump_id: str
    field_id: str
    condition: str
    kind: Kind
    severity: Severity
    peak_severity: Severity
    confidence: float
    onset: datetime
    raised_at: datetime
    noticed_at: datetime
    updated_at: datetime
    cleared_at: datetime | None
    rule_version: str
    evidence: EvidenceLists
    path: list[str]
    action: str


class Training(BaseModel):
    """A pump's model of its healthy past, and what came of the last attempt to make one.

    `outcome` learning: `share` (0-1) of the healthy history that a model needs is there; `reason` says more.
    """

    version: int | None
    trained_at: datetime | None
    trained_from: datetime | None
    trained_to: datetime | None
    samples: int | None
    metrics: dict[str, float]
    tried_at: datetime | None
    outcome: Literal["trained", "learning", "failed"] | None
    reason: str | None
    share: float | None


class Diagnostics(BaseModel):
    """What a pump suffers from, why, and what to do; everything null where nothing was reported yet.

    `hypotheses` are ranked, likeliest first. `path` is the way through the tree. `residuals`: how far head,
    power and rate are from the curve. `anomaly`: the detector's verdict. `silent`: no reading has come for
    several of the pump's intervals. `judged_since`: readings before that time are stored and not judged, if
    there are any. `diagnosis_lag_s`: span of received readings that wait to be judged. Of a
    pump that is silent, or whose diagnosis is so far behind, `state` is unknown since its last reading.
    """

    pump_id: str
    field_id: str
    time: datetime | None
    state: State
    since: datetime | None
    silent: bool
    judged_since: datetime | None
    diagnosis_lag_s: float
    gauge_fault: bool
    hypotheses: list[HypothesisItem]
    path: list[str]
    operating_point: dict[str, float | None]
    residuals: dict[str, float | None]
    anomaly: dict[str, Any] | None
    model: Training
    rule_version: str | None
    findings: list[Finding]


class PumpHealth(BaseModel):
    """A pump's health from 0 to 100, with the terms that make it up; null: nothing recent to judge by."""

    pump_id: str
    time: datetime | None
    silent: bool
    diagnosis_lag_s: float
    score: float | None
    terms: list[dict[str, Any]]


def diagnostics_router(pool: Pool, nameplates: Nameplates, policy: SilencePolicy) -> APIRouter:
    """Return the routes of diagnoses and findings; `policy`: when a pump counts as silent."""
    router = APIRouter(tags=["diagnostics"], dependencies=[Depends(require(READ))])
    findings, models = Findings(pool), Models(pool)

    @router.get("/pumps/{id}/diagnostics", response_model=Diagnostics, responses=problems(404))
    async def get_diagnostics(pump_id: PumpId, past: PastFindings = 20) -> Any:
        """Return what the pump suffers from now, ranked and with evidence, and what it was found to have."""
        pump = await nameplates.pump(pump_id)
        found = _current(await states.status(pool, pump_id), pump, policy)
        known = await findings.page(FindingFilter(pump_id=pump_id), None, past) if past else []
        return {
            **found,
            "pump_id": pump_id,
            "field_id": pump.field_id,
            "model": await models.described(pump_id),
            "findings": known,
        }

    @router.get("/pumps/{id}/health", response_model=PumpHealth, responses=problems(404))
    async def get_health(pump_id: PumpId) -> Any:
        """Return how well the pump is, and why."""
        pump = await nameplates.pump(pump_id)
        found = _current(await states.status(pool, pump_id), pump, policy)
        return {
            "pump_id": pump_id,
            **{name: found[name] for name in ("time", "silent", "diagnosis_lag_s")},
            "score": found["health"],
            "terms": found["health_terms"],
        }

    @router.get("/findings", response_model=Page[Finding], responses=problems())
    async def list_findings(
        field_id: FieldFilter = None,
        pump_id: PumpFilter = None,
        condition: ConditionFilter = None,
        severity: SeverityFilter = None,
        is_open: OpenFilter = None,
        raised_from: RaisedFrom = None,
        raised_to: RaisedTo = None,
        cleared_from: ClearedFrom = None,
        cleared_to: ClearedTo = None,
        onset_from: OnsetFrom = None,
        onset_to: OnsetTo = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """Return findings, the last raised first."""
        wanted = FindingFilter(
            field_id,
            pump_id,
            condition,
            severity,
            is_open,
            raised_from,
            raised_to,
            cleared_from,
            cleared_to,
            onset_from,
            onset_to,
        )
        after = position(cursor, time_field, uuid_field)
        rows = await findings.page(wanted, (after[0], after[1]) if after else None, limit + 1)
        return page(rows, limit, lambda row: [row["raised_at"], row["finding_id"]])

    return router


def _current(found: Mapping[str, Any], pump: KnownPump, policy: SilencePolicy) -> dict[str, Any]:
    """Return a status as it is to be shown now: an old one says nothing of what the pump does."""
    if found["time"] is None:
        return {**_NOTHING_SAID, **{name: found[name] for name in ("judged_since", "diagnosis_lag_s")}}
    oldest = datetime.now(UTC) - timedelta(seconds=policy.after_s(pump.spec.expected_interval_s))
    shown = {**found, "silent": found["received"] < oldest}
    if found["time"] < oldest:
        shown |= {"state": "unknown", "since": found["time"], "health": None, "health_terms": []}
    return shown


_NOTHING_SAID: Final[Mapping[str, Any]] = {
    "time": None,
    "state": "unknown",
    "since": None,
    "silent": True,
    "gauge_fault": False,
    "hypotheses": [],
    "path": [],
    "operating_point": {},
    "residuals": {},
    "health": None,
    "health_terms": [],
    "anomaly": None,
    "rule_version": None,
}
"""Of a pump of which no worker has said anything yet."""
