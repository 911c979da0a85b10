"""Backups over HTTP: what there is, asking for one, drills, and the span of time that can be restored to."""

from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from operator import itemgetter
from typing import Annotated, Any
from uuid import UUID

from esp_common.answers import Cursor, Limit, Page, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import text_field, time_field, uuid_field
from esp_common.database import Pool
from esp_common.errors import NotFound
from fastapi import APIRouter, Depends, status
from pydantic import BaseModel, ConfigDict

from esp_backup.domain.modes import PROMISES, Mode
from esp_backup.domain.modes import require as require_kind
from esp_backup.domain.window import recovery_window
from esp_backup.jobs import request
from esp_backup.store import catalogue, jobs


class Kind(StrEnum):
    """A logical dump, a physical backup (full, differential, incremental), or the daily set of the rest."""

    DUMP = "dump"
    FULL = "full"
    DIFF = "diff"
    INCR = "incr"
    SET = "set"


class JobKind(StrEnum):
    """What is done: backups, reading all of them again, and restore drills."""

    DUMP = "dump"
    FULL = "full"
    DIFF = "diff"
    INCR = "incr"
    SET = "set"
    VERIFY = "verify"
    DRILL = "drill"


class JobState(StrEnum):
    """How far it is."""

    REQUESTED = "requested"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Backup(BaseModel):
    """A backup in storage. `problem`: what was found wrong with it; such a one is not restored."""

    kind: Kind
    place: str
    name: str
    started_at: datetime
    ended_at: datetime
    bytes: int
    stored_bytes: int
    detail: dict[str, Any]
    verified_at: datetime | None
    problem: str | None


class Job(BaseModel):
    """Work that was asked for, by whom, and what came of it."""

    job_id: UUID
    kind: JobKind
    state: JobState
    requested_by: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None
    result: dict[str, Any] | None


class Wanted(BaseModel):
    """Which backup to take now."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = Kind.FULL


class Requested(BaseModel):
    """The job that will do it."""

    job_id: UUID


class RecoveryHole(BaseModel):
    """A time that cannot be restored: `segments` of the log are missing, from `first_segment` on."""

    begin: datetime
    end: datetime
    first_segment: str
    segments: int


class RecoveryWindow(BaseModel):
    """From when to when the database can be put back to any moment outside `holes`; null: there is no backup.

    `rpo_seconds`: what a loss of the database when it was last looked at (`checked_at`) would have cost.
    `mode`: who takes physical backups; in mode managed only the provider knows the window. `rpo`, `rto`: what
    the mode promises, in words.
    """

    mode: Mode
    physical_by: str
    rpo: str
    rto: str

    begin: datetime | None
    end: datetime | None
    checked_at: datetime | None
    rpo_seconds: float | None
    waiting_segments: int | None
    holes: list[RecoveryHole]


def backups_router(pool: Pool, mode: Mode) -> APIRouter:
    """Return the routes of backups. `mode`: what may be asked for, and what is promised."""
    router = APIRouter(prefix="/backups", tags=["backups"])
    may_read = [Depends(require("backups:read"))]
    Writer = Annotated[Principal, Depends(require("backups:write"))]  # noqa: N806 - a type

    @router.get("", response_model=Page[Backup], dependencies=may_read, responses=problems())
    async def list_backups(kind: Kind | None = None, cursor: Cursor = None, limit: Limit = 100) -> Any:
        """Return the backups there are, newest first."""
        after = position(cursor, time_field, text_field, text_field, text_field)
        rows = await catalogue.page(pool, kind, after, limit + 1)
        return page(rows, limit, itemgetter("started_at", "kind", "place", "name"))

    @router.post(
        "", response_model=Requested, status_code=status.HTTP_202_ACCEPTED, responses=problems(400, 409, 413)
    )
    async def take_backup(wanted: Wanted, caller: Writer) -> Any:
        """Have a backup taken now; 409 when one of this kind is asked for or under way.

        Physical backups can be asked for in mode local only; elsewhere somebody else takes them.
        """
        require_kind(mode, wanted.kind)
        return {"job_id": await request(pool, wanted.kind, caller.id)}

    @router.post(
        "/drill", response_model=Requested, status_code=status.HTTP_202_ACCEPTED, responses=problems(409)
    )
    async def drill(caller: Writer) -> Any:
        """Have the newest backup restored elsewhere and checked now; the job's result is the report."""
        return {"job_id": await request(pool, "drill", caller.id)}

    @router.get(
        "/recovery-window", response_model=RecoveryWindow, dependencies=may_read, responses=problems()
    )
    async def show_recovery_window() -> Any:
        """Return the span of time that the database can be put back to."""
        archiving = await catalogue.archiving(pool)
        covered = archiving.covered_until if archiving else None
        window = recovery_window(await catalogue.physical_ends(pool), covered)
        rpo = archiving.checked_at - covered if archiving and covered else None
        promise = PROMISES[mode]
        return {
            "mode": mode,
            "physical_by": promise.physical_by,
            "rpo": promise.rpo,
            "rto": promise.rto,
            "begin": window.begin,
            "end": window.end,
            "checked_at": archiving and archiving.checked_at,
            "rpo_seconds": rpo and rpo.total_seconds(),
            "waiting_segments": archiving and archiving.waiting_segments,
            "holes": [asdict(hole) for hole in await catalogue.holes(pool)],
        }

    @router.get("/jobs", response_model=Page[Job], dependencies=may_read, responses=problems())
    async def list_jobs(
        kind: JobKind | None = None,
        state: JobState | None = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """Return what was done and is being done, the last requested first; drills with their reports."""
        after = position(cursor, time_field, uuid_field)
        rows = await jobs.page(pool, kind, state, after, limit + 1)
        return page(rows, limit, itemgetter("requested_at", "job_id"))

    @router.get("/jobs/{id}", response_model=Job, dependencies=may_read, responses=problems(404))
    async def show_job(id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Return one job."""
        job = await jobs.get(pool, id)
        if job is None:
            raise NotFound(f"no job {id}", fix="see GET /api/v1/backups/jobs")
        return job

    return router
