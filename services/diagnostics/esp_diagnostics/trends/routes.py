"""HTTP routes of trends and latest values."""

from typing import Annotated, Any, Final

from esp_common.answers import UtcTime, problems
from esp_common.auth import Principal, require
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNEL_NAMES
from esp_common.errors import InvalidInput
from fastapi import APIRouter, Depends, Query, Request, Response

from esp_diagnostics.common.answers import PumpId
from esp_diagnostics.common.cache import Answer
from esp_diagnostics.trends.encoding import ARROW, CSV, JSON
from esp_diagnostics.trends.media import cache_rights, negotiate, respond
from esp_diagnostics.trends.resolution import Resolution
from esp_diagnostics.trends.trends import TrendRequest, Trends

READ: Final = "telemetry:read"
DEFAULT_POINTS: Final = 1000
MAX_CHANNEL_TEXT: Final = 1000

Reader = Annotated[Principal, Depends(require(READ))]
Channels = Annotated[
    list[str] | None,
    Query(
        max_length=len(CHANNEL_NAMES),
        description="Names separated by commas, or the parameter repeated. Default: all measured channels.",
    ),
]

_TREND: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Columns: times, and for each channel `value` (readings) or `avg`, `min`, `max`.",
        "content": {media_type: {} for media_type in (JSON, CSV, ARROW)},
    },
    304: {"description": "The client's copy (`If-None-Match`) is current."},
}

_LATEST: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "`channels`: value, unit, time and whether frozen, by name.", "content": {JSON: {}}},
    304: _TREND[304],
}


def telemetry_router(trends: Trends) -> APIRouter:
    """Return the routes of telemetry."""
    router = APIRouter(tags=["telemetry"])

    @router.get("/pumps/{id}/telemetry", response_class=Response, responses={**_TREND, **problems(404, 406)})
    async def get_trend(
        request: Request,
        caller: Reader,
        pump_id: PumpId,
        start: Annotated[UtcTime, Query(alias="from", description="Start of the span, inclusive.")],
        end: Annotated[UtcTime, Query(alias="to", description="End of the span, exclusive.")],
        channels: Channels = None,
        resolution: Resolution = Resolution.AUTO,
        max_points: Annotated[int, Query(ge=1, description="Maximum points per channel.")] = DEFAULT_POINTS,
    ) -> Response:
        """Show a pump's trend: readings, or buckets with mean and extremes of each channel.

        `auto` returns at most `max_points`, from stored aggregates if there are more readings. Buckets cover
        the whole span, so the first and last may extend beyond it. Times are starts of buckets, UTC.
        """
        media_type = negotiate(request, (JSON, CSV, ARROW))
        wanted = TrendRequest(pump_id, start, end, _channels(channels), resolution, max_points)
        answer = await trends.answer(wanted, media_type, cache_rights(caller, READ))
        return respond(request, answer, media_type)

    @router.get("/pumps/{id}/latest", response_class=Response, responses={**_LATEST, **problems(404)})
    async def get_latest(request: Request, _: Reader, pump_id: PumpId) -> Response:
        """Show the latest good value of each channel with its time, and the pump's newest state.

        While a gauge reports error codes, the value is the last measured one.
        """
        return respond(request, Answer.of(await trends.latest(pump_id)), JSON)

    return router


def _channels(given: list[str] | None) -> tuple[str, ...]:
    """Return the named channels in catalogue order; raise InvalidInput for unknown ones."""
    names = {name.strip() for text in given or () for name in text[:MAX_CHANNEL_TEXT].split(",")} - {""}
    if unknown := sorted(names - CHANNEL_INDEX.keys()):
        raise InvalidInput(
            f"unknown channels: {', '.join(unknown)[:200]}", fix=f"use {', '.join(CHANNEL_NAMES)}"
        )
    return tuple(name for name in CHANNEL_NAMES if name in names)
