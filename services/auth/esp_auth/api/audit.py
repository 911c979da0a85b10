"""The audit log over HTTP: list, export and verify."""

from datetime import datetime
from typing import Annotated, Any, Final

import structlog
from esp_common.answers import BODY, Cursor, Limit, Page, Since, Until, page, position, problems
from esp_common.auth import require
from esp_common.cursors import MAX_SERIAL, serial_field, time_field
from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from esp_auth.audit import AuditLog, ExportFormat, shown
from esp_auth.domain.chain import Head, Kind
from esp_auth.store.audit import AuditFilter

log = structlog.get_logger()


Text = Annotated[str | None, Query(max_length=500, pattern=r"^[^\x00]*$")]
Seq = Annotated[int, Field(ge=1, le=MAX_SERIAL)]
HashHex = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="HMAC-SHA256 in hexadecimal.")]

MEDIA_TYPES: Final = {ExportFormat.CSV: "text/csv; charset=utf-8", ExportFormat.JSONL: "application/jsonl"}


class AuditRecord(BaseModel):
    """One record: who did what to which object, the outcome, and its place in the chain."""

    seq: int
    time: datetime
    id: str
    service: str
    actor_id: str | None
    actor_kind: str
    action: str
    object: str
    outcome: str
    status: int | None
    source_address: str | None
    trace_id: str | None
    count: int
    detail: Any
    hash: str


class ChainHead(BaseModel):
    """Number and seal of the last record."""

    seq: Annotated[int, Field(ge=0, le=MAX_SERIAL)]
    hash: HashHex


class VerifyRequest(BaseModel, extra="forbid"):
    """Range to verify, or everything; `noted`: heads that the chain must contain."""

    from_seq: Seq | None = None
    to_seq: Seq | None = None
    noted: Annotated[list[ChainHead], Field(max_length=1000)] = []


class AuditFinding(BaseModel):
    """The fault of the records `seq` to `until_seq`."""

    kind: Kind
    seq: int
    until_seq: int
    id: str | None
    detail: str


class VerifyAnswer(BaseModel):
    """Whether the chain is intact; the first 100 findings if it is not."""

    intact: bool
    from_seq: int
    to_seq: int
    records: int
    findings_total: int
    findings: list[AuditFinding]
    head: ChainHead | None


def wanted(
    actor: Text = None,
    object: Text = None,  # noqa: A002 - the name the query shows
    action: Text = None,
    service: Text = None,
    outcome: Text = None,
    since: Since = None,
    until: Until = None,
) -> AuditFilter:
    """Return the filter for a query."""
    return AuditFilter(actor, object, action, service, outcome, since, until)


Wanted = Annotated[AuditFilter, Depends(wanted)]


def audit_router(trail: AuditLog) -> APIRouter:
    """Return the routes of the audit log."""
    router = APIRouter(prefix="/audit", tags=["audit"])
    may_read = [Depends(require("audit:read"))]
    may_verify = [Depends(require("audit:verify"))]

    @router.get("", response_model=Page[AuditRecord], dependencies=may_read, responses=problems())
    async def list_audit(wanted: Wanted, cursor: Cursor = None, limit: Limit = 100) -> Any:
        """Return audit records, newest first."""
        links = await trail.page(wanted, position(cursor, time_field, serial_field), limit + 1)
        found = page(links, limit, lambda link: [link.record.time, link.seq])
        return {**found, "items": [shown(link) for link in found["items"]]}

    @router.get(
        "/export",
        response_class=StreamingResponse,
        dependencies=may_read,
        responses={**problems(), 200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}}},
    )
    async def export_audit(wanted: Wanted, format: ExportFormat = ExportFormat.CSV) -> Any:  # noqa: A002
        """Return the matching audit records as one file, newest first."""
        name = f'attachment; filename="audit.{format}"'
        return StreamingResponse(
            trail.export(format, wanted),
            media_type=MEDIA_TYPES[format],
            headers={"Content-Disposition": name},
        )

    @router.post("/verify", response_model=VerifyAnswer, dependencies=may_verify, responses=problems(*BODY))
    async def verify_audit(request: VerifyRequest | None = None) -> Any:
        """Look for records that were changed, removed, added or moved.

        Reads every record: verify a log of millions in ranges, or with `esp-auth audit verify`.
        """
        asked = request or VerifyRequest()
        noted = [Head(head.seq, bytes.fromhex(head.hash)) for head in asked.noted]
        verification = await trail.verify(asked.from_seq, asked.to_seq, noted=noted)
        if findings := verification.verdict.findings:
            log.critical(
                "audit.not-intact", findings=len(findings), kind=findings[0].kind, seq=findings[0].seq
            )
        return verification.to_json()

    return router
