"""Quarantine: refused readings are sent again once their cause is mended, or discarded."""

import base64
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

import orjson
from esp_common import audit, topology
from esp_common.database import Connection, Pool
from esp_common.errors import Conflict, NotFound
from esp_common.messaging import Publisher

from esp_ingest.domain.decode import JSON_TYPE
from esp_ingest.domain.keep import BODY, CONTENT_TYPE
from esp_ingest.store import operations
from esp_ingest.store.lists import Lists, QuarantineFilter

REPLAYED: Final = "replayed"
DISCARDED: Final = "discarded"
PAGE: Final = 1000


class Edited(NamedTuple):
    """What is sent in instead of what was refused."""

    body: bytes
    content_type: str


class Quarantine:
    """Resolves refused readings on behalf of `actor`, a principal's id; every resolution is audited."""

    def __init__(self, pool: Pool, publisher: Publisher) -> None:
        self._pool = pool
        self._publisher = publisher

    async def replay(self, id_: UUID, actor: str, edited: Edited | None = None) -> None:
        """Send a refused reading in again, as from its gateway; refused anew it will be pending again.

        `edited` is sent in its place, and refused it is a row of its own; the row keeps what first came.
        Raises NotFound, Conflict when it is not pending, and BrokerUnavailable, after which it still is.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            refused = await self._take(connection, id_, REPLAYED, actor, edited)
            # Under the row's lock: the worker that refuses it again waits until it is marked as replayed.
            body, content_type = edited or body_of(refused.payload)
            await self._publisher.publish(
                topology.INGEST,
                topology.telemetry_key(refused.gateway_id),
                body,
                content_type=content_type,
                # A name of its own: under the old one it would pass for a message that was seen.
                message_id=f"replay-{uuid4().hex}",
            )

    async def discard(self, id_: UUID, actor: str) -> None:
        """Give a refused reading up; its row stays. Raises NotFound, and Conflict when it is not pending."""
        async with self._pool.acquire() as connection, connection.transaction():
            await self._take(connection, id_, DISCARDED, actor)

    async def _take(
        self, connection: Connection, id_: UUID, state: str, actor: str, edited: Edited | None = None
    ) -> operations.Refused:
        refused = await operations.lock_refused(connection, id_)
        if refused is None:
            raise NotFound(f"no reading {id_} in quarantine", fix="see `esp-ingest quarantine list`")
        if refused.state != "pending":
            raise Conflict(f"reading {id_} was {refused.state} already")
        await operations.resolve(connection, id_, state, actor)
        data: dict[str, Any] = {
            "gateway_id": refused.gateway_id,
            "pump_id": refused.pump_id,
            "reason": refused.reason,
        }
        if edited is not None:
            data["edited_sha256"] = sha256(edited.body).hexdigest()
            data["edited_bytes"] = len(edited.body)
        action = f"quarantine.{state}"
        await audit.record(
            connection, source="ingest", actor=actor, action=action, subject=str(id_), data=data
        )
        return refused


async def every(lists: Lists, wanted: QuarantineFilter) -> AsyncIterator[UUID]:
    """Yield the ids of the refused readings that fit, newest first.

    One that is resolved and refused again meanwhile has become the newest, and is not met a second time.
    """
    after = None
    while rows := await lists.quarantine(wanted, after, PAGE):
        for row in rows:
            yield row["id"]
        after = (rows[-1]["received_at"], rows[-1]["id"])


def body_of(payload: dict[str, Any]) -> tuple[bytes, str]:
    """Return the message body and media type that `payload` was kept of."""
    if payload.keys() == {BODY, CONTENT_TYPE}:
        with suppress(TypeError, ValueError):  # a reading may have keys of these names
            return base64.b64decode(payload[BODY], validate=True), payload[CONTENT_TYPE] or ""
    return orjson.dumps(payload), JSON_TYPE
