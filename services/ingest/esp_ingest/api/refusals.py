"""What was refused, over HTTP: readings in quarantine, and messages that no worker could process."""

import base64
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from esp_common.answers import BODY, Cursor, Limit, Page, Since, Until, page, position, problems
from esp_common.auth import Principal, require
from esp_common.cursors import time_field, uuid_field
from esp_common.database import Pool
from esp_common.errors import NotFound
from esp_common.messaging import Publisher
from fastapi import APIRouter, Depends, status
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from esp_ingest.api.answers import ChannelFilter, Id, IdFilter
from esp_ingest.dead_letters import DeadLetter, DeadLetters
from esp_ingest.domain.decode import JSON_TYPE
from esp_ingest.domain.readings import Reason
from esp_ingest.quarantine import Edited, Quarantine
from esp_ingest.store.lists import Lists, QuarantineFilter

MAX_EDIT_BYTES: Final = 4 * 1024 * 1024


class State(StrEnum):
    """What was done about a refused reading."""

    PENDING = "pending"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class RefusedReading(BaseModel):
    """A reading, or one channel of a reading, in quarantine, without what was sent.

    `channel` is null where the whole reading was refused.
    """

    id: UUID
    received_at: datetime
    gateway_id: str
    message_id: str | None
    pump_id: str | None
    time: datetime | None
    channel: str | None
    reason: Reason
    detail: str
    state: State
    resolved_at: datetime | None
    resolved_by: str | None


class RefusedPayload(RefusedReading):
    """A reading in quarantine with what was sent; a body that was no reading is in base64."""

    payload: dict[str, Any]


class Edit(BaseModel):
    """What to send in instead: a reading, or a body as base64 with its media type."""

    model_config = ConfigDict(extra="forbid")

    reading: dict[str, Any] | None = None
    body_base64: Base64Bytes | None = Field(None, max_length=MAX_EDIT_BYTES)
    content_type: Literal["application/json", "application/vnd.apache.arrow.stream"] = JSON_TYPE

    @model_validator(mode="after")
    def _one(self) -> "Edit":
        if (self.reading is None) == (self.body_base64 is None):
            raise ValueError("give either reading or body_base64")
        return self

    def edited(self) -> Edited:
        """Return it as it is sent."""
        if self.body_base64 is not None:
            return Edited(self.body_base64, self.content_type)
        return Edited(orjson.dumps(self.reading), JSON_TYPE)


class DeadMessage(BaseModel):
    """A dead letter, without its body."""

    id: str
    message_id: str | None
    routing_key: str
    content_type: str | None
    reason: str
    error_id: str | None
    died_at: str | None
    size_bytes: int


class DeadMessageBody(DeadMessage):
    """A dead letter with its body."""

    body_base64: str


def quarantine_router(lists: Lists, quarantine: Quarantine) -> APIRouter:
    """Return the routes of quarantine."""
    router = APIRouter(prefix="/quarantine", tags=["quarantine"])
    may_read = [Depends(require("quarantine:read"))]
    Writer = Annotated[Principal, Depends(require("quarantine:write"))]  # noqa: N806 - a type

    async def existing(id_: UUID) -> dict[str, Any]:
        refused = await lists.refused(id_)
        if refused is None:
            raise NotFound(f"no reading {id_} in quarantine")
        return refused

    @router.get("", response_model=Page[RefusedReading], dependencies=may_read, responses=problems())
    async def list_quarantine(
        reason: Reason | None = None,
        gateway_id: IdFilter = None,
        pump_id: IdFilter = None,
        channel: ChannelFilter = None,
        state: State | None = None,
        since: Since = None,
        until: Until = None,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Any:
        """Return refused readings, the last received first."""
        wanted = QuarantineFilter(reason, gateway_id, pump_id, channel, state, since, until)
        rows = await lists.quarantine(wanted, position(cursor, time_field, uuid_field), limit + 1)
        return page(rows, limit, lambda row: (row["received_at"], row["id"]))

    @router.get("/{id}", response_model=RefusedPayload, dependencies=may_read, responses=problems(404))
    async def show_quarantined(id: UUID) -> Any:  # noqa: A002 - the name the path shows
        """Return one refused reading with its payload."""
        return await existing(id)

    @router.post("/{id}/replay", response_model=RefusedPayload, responses=problems(404, 409, *BODY))
    async def replay_quarantined(id: UUID, caller: Writer, edit: Edit | None = None) -> Any:  # noqa: A002
        """Send a pending reading in again, once its cause is mended; refused anew it is pending again.

        With a body, that is sent in its place; the reading keeps what its gateway sent.
        """
        await quarantine.replay(id, caller.id, edit.edited() if edit else None)
        return await existing(id)

    @router.post("/{id}/discard", response_model=RefusedPayload, responses=problems(404, 409))
    async def discard_quarantined(id: UUID, caller: Writer) -> Any:  # noqa: A002
        """Give a pending reading up; its row stays."""
        await quarantine.discard(id, caller.id)
        return await existing(id)

    return router


def dead_letters_router(letters: DeadLetters, publisher: Publisher, pool: Pool) -> APIRouter:
    """Return the routes of dead letters."""
    router = APIRouter(prefix="/dead-letters", tags=["dead letters"])
    may_read = [Depends(require("dead-letters:read"))]
    Writer = Annotated[Principal, Depends(require("dead-letters:write"))]  # noqa: N806 - a type

    @router.get("", response_model=Page[DeadMessage], dependencies=may_read, responses=problems())
    async def list_dead_letters(limit: Limit = 100) -> Any:
        """Return the oldest dead letters. They are a queue, so what follows shows once these are settled."""
        return {"items": [message_of(letter) for letter in await letters.list(limit)], "next_cursor": None}

    @router.get("/{id}", response_model=DeadMessageBody, dependencies=may_read, responses=problems(404))
    async def show_dead_letter(id: Id) -> Any:  # noqa: A002
        """Return one dead letter with its body."""
        letter = await letters.show(id)
        return {**message_of(letter), "body_base64": base64.b64encode(letter.body).decode()}

    @router.post("/{id}/replay", status_code=status.HTTP_204_NO_CONTENT, responses=problems(404))
    async def replay_dead_letter(id: Id, caller: Writer) -> None:  # noqa: A002
        """Send a dead letter in again under its first routing key."""
        await letters.replay({id}, caller.id, publisher, pool)

    @router.post("/{id}/discard", status_code=status.HTTP_204_NO_CONTENT, responses=problems(404))
    async def discard_dead_letter(id: Id, caller: Writer) -> None:  # noqa: A002
        """Remove a dead letter for good."""
        await letters.discard({id}, caller.id, pool)

    return router


def message_of(letter: DeadLetter) -> dict[str, Any]:
    """Return what a list says of a dead letter."""
    return {
        "id": letter.id,
        "message_id": letter.message_id,
        "routing_key": letter.routing_key,
        "content_type": letter.content_type,
        "reason": letter.reason,
        "error_id": letter.error_id,
        "died_at": letter.died_at,
        "size_bytes": len(letter.body),
    }
