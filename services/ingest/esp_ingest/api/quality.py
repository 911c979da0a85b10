"""Data quality over HTTP: how complete and how good each pump's readings were, by hour."""

from datetime import datetime
from typing import Annotated, Any

from esp_common.answers import Cursor, Limit, Page, Since, Until, page, position, problems
from esp_common.auth import require
from esp_common.cursors import text_field, time_field
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from esp_ingest.api.answers import FieldFilter, Id
from esp_ingest.asset_kinds import KINDS
from esp_ingest.assets import Assets
from esp_ingest.store.lists import Lists

Below = Annotated[float | None, Query(ge=0, le=100, description="Only scores under this.")]


class QualityHour(BaseModel):
    """One pump's hour: shares from 0 to 1 (null: nothing to judge by) and the score from 0 to 100.

    `readings` are stored, `rejected` were refused whole; `refused_channels` and `clamped_channels` are values
    of stored readings.
    """

    pump_id: str
    hour: datetime
    readings: int
    rejected: int
    refused_channels: int
    clamped_channels: int
    completeness: float | None
    validity: float | None
    uniqueness: float | None
    timeliness: float | None
    consistency: float | None
    score: float | None
    computed_at: datetime


def quality_router(lists: Lists, assets: Assets) -> APIRouter:
    """Return the routes of data quality."""
    router = APIRouter(tags=["quality"], dependencies=[Depends(require("quality:read"))])

    @router.get("/quality", response_model=Page[QualityHour], responses=problems())
    async def list_quality(
        field_id: FieldFilter = None, below: Below = None, cursor: Cursor = None, limit: Limit = 100
    ) -> Any:
        """Return each pump's newest scored hour, by pump id."""
        (after,) = position(cursor, text_field) or (None,)
        rows = await lists.latest_quality(field_id, below, after, limit + 1)
        return page(rows, limit, lambda row: [row["pump_id"]])

    @router.get("/pumps/{id}/quality", response_model=Page[QualityHour], responses=problems(404))
    async def list_quality_of_pump(
        id: Id,  # noqa: A002 - the name the path shows
        since: Since = None,
        until: Until = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """Return a pump's scored hours, newest first."""
        await assets.get(KINDS["pumps"], id)
        (after,) = position(cursor, time_field) or (None,)
        rows = await lists.quality_of(id, since, until, after, limit + 1)
        return page(rows, limit, lambda row: [row["hour"]])

    return router
