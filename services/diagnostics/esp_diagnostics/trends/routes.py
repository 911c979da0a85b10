"""Trends and latest values over HTTP."""

from typing import Annotated, Any, Final

from esp_common.answers import UtcTime, problems
from esp_common.auth import Principal, require
from esp_common.contracts.channels import CHANNEL_INDEX, CHANNEL_NAMES
from esp_common.errors import InvalidInput
from fastapi import APIRouter, Depends, Query, Request, Response

from esp_diagnostics.common.answers import PumpId
from esp_diagnostics.common.cache import Answer
from esp_diagnostics.trends.encoding import ARROW, CSV, JSON
from esp_diagnostics.trends.media import negotiate, respond, rights_of
from esp_diagnostics.trends.resolution import Resolution
from esp_diagnostics.trends.trends import Question, Trends

READ: Final = "telemetry:read"
DEFAULT_POINTS: Final = 1000
MAX_CHANNEL_TEXT: Final = 1000

Reader = Annotated[Principal, Depends(require(READ))]
Channels = Annotated[
    list[str] | None,
    Query(
        max_length=len(CHANNEL_NAMES),
        description="Names with commas between, or the parameter repeated; none: all that were measured.",
    ),
]

_TREND: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Columns: times, and for each channel `value` (readings) or `avg`, `min`, `max`.",
        "content": {media_type: {} for media_type in (JSON, CSV, ARROW)},
    },
    304: {"description": "What the caller has (`If-None-Match`) is what it would get."},
}

_LATEST: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "`channels`: value, unit, time and whether frozen, by name.", "content": {JSON: {}}},
    304: _TREND[304],
}


def telemetry_router(trends: Trends) -> APIRouter:
    """Return the routes of what was measured."""
    router = APIRouter(tags=["telemetry"])

    @router.get("/pumps/{id}/telemetry", response_class=Response, responses={**_TREND, **problems(404, 406)})
    async def get_trend(
        request: Request,
        caller: Reader,
        pump_id: PumpId,
        start: Annotated[UtcTime, Query(alias="from", description="Begin of the span, included.")],
        end: Annotated[UtcTime, Query(alias="to", description="End of the span, not included.")],
        channels: Channels = None,
        resolution: Resolution = Resolution.AUTO,
        max_points: Annotated[int, Query(ge=1, description="Most points of a channel.")] = DEFAULT_POINTS,
    ) -> Response:
        """Return a pump's trend: readings, or buckets with each channel's mean and extremes.

        `auto` gives at most `max_points`, from stored aggregates where readings are more. Buckets cover the
        whole span, so that the first and the last may reach beyond it; times are their beginnings, UTC.
        """
        media_type = negotiate(request, (JSON, CSV, ARROW))
        question = Question(pump_id, start, end, _channels(channels), resolution, max_points)
        answer = await trends.answer(question, media_type, rights_of(caller, READ))
        return respond(request, answer, media_type)

    @router.get("/pumps/{id}/latest", response_class=Response, responses={**_LATEST, **problems(404)})
    async def get_latest(request: Request, _: Reader, pump_id: PumpId) -> Response:
        """Return the latest good value of each channel with its time, and the pump's newest state.

        Where gauges report error codes, the value is the last one that was measured.
        """
        return respond(request, Answer.of(await trends.latest(pump_id)), JSON)

    return router


def _channels(given: list[str] | None) -> tuple[str, ...]:
    """Return the channels named, in the catalogue's order; raise InvalidInput for one that is not in it."""
    names = {name.strip() for text in given or () for name in text[:MAX_CHANNEL_TEXT].split(",")} - {""}
    if unknown := sorted(names - CHANNEL_INDEX.keys()):
        raise InvalidInput(
            f"unknown channels: {', '.join(unknown)[:200]}", fix=f"known are {', '.join(CHANNEL_NAMES)}"
        )
    return tuple(name for name in CHANNEL_NAMES if name in names)
