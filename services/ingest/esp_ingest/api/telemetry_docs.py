"""`POST /api/v1/telemetry` as a route: for the documentation, and for whoever walks the routes."""

from typing import Any, Final
from uuid import UUID

from esp_common.answers import problems
from esp_common.auth import require
from esp_common.contracts.channels import CHANNELS, RUNNING, TRIP_CODE, Channel
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from esp_ingest.api.telemetry import MAX_KEY_LENGTH, PATH, PERMISSION
from esp_ingest.domain.decode import ARROW_TYPE, JSON_TYPE
from esp_ingest.domain.readings import Reason
from esp_ingest.domain.screen import MAX_REFUSALS_PER_BODY


def _described(channel: Channel) -> str:
    text = f"{channel.unit}, {channel.group}"
    return f"{text}; stored as the limit up to {channel.tolerance:g} beyond" if channel.tolerance else text


READING: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["pump_id", "time"],
    "properties": {
        "pump_id": {"type": "string", "maxLength": 64},
        "time": {"type": "string", "format": "date-time"},
        **{
            channel.name: {
                "type": ["number", "null"],
                "minimum": channel.low,
                "maximum": channel.high,
                "description": _described(channel),
            }
            for channel in CHANNELS
        },
        RUNNING: {"type": ["boolean", "null"]},
        TRIP_CODE: {"type": ["integer", "null"], "format": "int32"},
    },
    "additionalProperties": {"description": "A tag of the gateway's tag map."},
}
"""A reading as JSON schema: one pump at one instant."""

_READINGS: Final = {"type": "array", "items": READING}
_REQUEST_BODY: Final = {
    "required": True,
    "content": {
        JSON_TYPE: {
            "schema": {
                "oneOf": [
                    READING,
                    _READINGS,
                    {"type": "object", "required": ["readings"], "properties": {"readings": _READINGS}},
                ]
            }
        },
        ARROW_TYPE: {
            "schema": {
                "type": "string",
                "format": "binary",
                "description": "An Arrow IPC stream, not compressed, with the same names as columns.",
            }
        },
    },
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names the batch: sent again under the same name it changes nothing.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
}


class Rejection(BaseModel):
    """A reading (`channel` null) or one channel of it that was refused, its id in quarantine, and why."""

    index: int
    channel: str | None
    error_id: UUID
    reason: Reason
    detail: str


class Outcome(BaseModel):
    """What became of a post's readings; `accepted` counts those of which at least one channel is kept.

    More than 100 rejections are not all listed: `rejected_total` is their number, and `rest_error_id` names
    the row in quarantine that keeps the whole body for those not listed. Else neither is there.
    """

    accepted: int
    rejected: list[Rejection] = Field(max_length=MAX_REFUSALS_PER_BODY)
    rejected_total: int | None = None
    rest_error_id: UUID | None = None


class _Delegated(Response):
    """An answer that the endpoint gives by itself."""

    def __init__(self, endpoint: ASGIApp) -> None:
        super().__init__()
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)


def telemetry_router(endpoint: ASGIApp) -> APIRouter:
    """Return the endpoint as a route of an application."""
    router = APIRouter(tags=["telemetry"])

    @router.post(
        PATH.removeprefix("/api/v1"),
        status_code=202,
        response_model=Outcome,
        dependencies=[Depends(require(PERMISSION))],
        responses=problems(400, 413, 415, 429),
        openapi_extra={"requestBody": _REQUEST_BODY, "parameters": [_IDEMPOTENCY_KEY]},
        operation_id="post_telemetry",
    )
    async def post_telemetry() -> Response:
        """Take readings; answered once the broker has confirmed that it keeps them.

        202 when at least one reading was accepted, 422 with the same members when none was. A channel that
        cannot be a measurement is rejected alone, and the rest of its reading is accepted. What was rejected
        is kept in quarantine under its `error_id`. 503 says that nothing is certain: send it again.
        """
        return _Delegated(endpoint)

    return router
