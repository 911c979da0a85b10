"""HTTP routes of diagnoses, health and findings."""

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

PastFindings = Annotated[int, Query(ge=0, le=200, description="Maximum number of past findings.")]
ConditionFilter = Annotated[
    str | None, Query(max_length=64, pattern=NO_NUL, description="Only findings of this condition.")
]
SeverityFilter = Annotated[list[Severity] | None, Query(description="Only findings of these severities.")]
OpenFilter = Annotated[bool | None, Query(alias="open", description="true: open only; false: cleared only.")]


RaisedFrom = Annotated[UtcTime | None, Query(description="Raised at or after this time.")]
RaisedTo = Annotated[UtcTime | None, Query(description="Raised before this time.")]
ClearedFrom = Annotated[UtcTime | None, Query(description="Cleared at or after this time.")]
ClearedTo = Annotated[UtcTime | None, Query(description="Cleared before this time.")]
OnsetFrom = Annotated[UtcTime | None, Query(description="Onset at or after this time.")]
OnsetTo = Annotated[UtcTime | None, Query(description="Onset before this time.")]


class EvidenceItem(BaseModel):
    """Evidence for or against a condition; null `value`: missing."""

    signal: str
    what: str
    value: float | None
    unit: str
    threshold: float | None


class EvidenceLists(BaseModel):
    """Evidence for and against a condition, and missing evidence."""

    for_: list[EvidenceItem] = Field(alias="for")
    against: list[EvidenceItem]
    missing: list[EvidenceItem]


class HypothesisItem(EvidenceLists):
    """Possible condition of the pump."""

    condition: str
    confidence: float
    severity: Severity
    action: str
    since: datetime


class Finding(BaseModel):
    """Finding of a condition; null `cleared_at`: open.

    `onset`, `raised_at` and `cleared_at` are in data time; `noticed_at` is when the finding was written.
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
    """Anomaly model of a pump, and the outcome of its last training.

    `outcome` learning: `share` (0-1) of the required healthy history; `reason` gives details.
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
    """State, hypotheses and findings of a pump; values are null before the first report.

    `hypotheses` are ranked, most likely first. `path`: stages of the tree with their results. `residuals`:
    deviation of head, power and rate from the curve. `anomaly`: verdict of the detector. `silent`: no reading
    for several of the pump's intervals. `judged_since`: earlier readings are stored but not evaluated.
    `diagnosis_lag_s`: span of received readings that are not yet evaluated. While a pump is silent, or its
    diagnosis that far behind, `state` is unknown since its last reading.
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
    """Health of a pump from 0 to 100, with its terms; null: no recent data."""

    pump_id: str
    time: datetime | None
    silent: bool
    diagnosis_lag_s: float
    score: float | None
    terms: list[dict[str, Any]]


def diagnostics_router(pool: Pool, nameplates: Nameplates, policy: SilencePolicy) -> APIRouter:
    """Return the routes of diagnoses and findings; `policy`: when a pump is silent."""
    router = APIRouter(tags=["diagnostics"], dependencies=[Depends(require(READ))])
    findings, models = Findings(pool), Models(pool)

    @router.get("/pumps/{id}/diagnostics", response_model=Diagnostics, responses=problems(404))
    async def get_diagnostics(pump_id: PumpId, past: PastFindings = 20) -> Any:
        """Show the ranked hypotheses of a pump with evidence, and its findings."""
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
        """Show the health of a pump with its terms."""
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
        """List findings, last raised first."""
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
    """Return a status as of now: state and health of an old one are unknown."""
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
"""Status of a pump before the first report of a worker."""
