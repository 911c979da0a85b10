"""Quarantine: refused readings, kept with their reason until someone replays or discards them."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from esp_common.database import load_queries

from esp_ingest.domain.readings import Quarantined
from esp_ingest.store.connection import Connection

_QUERIES: Final = load_queries("esp_ingest.store", "quarantine.sql")


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of quarantine; `state` is pending, replayed or discarded."""

    id: UUID
    received_at: datetime
    gateway_id: str
    message_id: str | None
    pump_id: str | None
    time: datetime | None
    reason: str
    detail: str
    payload: dict[str, Any]
    state: str
    resolved_at: datetime | None
    resolved_by: str | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows to list; None: whatever. Received from `since` on, before `until`."""

    state: str | None = None
    reason: str | None = None
    pump_id: str | None = None
    gateway_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def page(
    connection: Connection, selection: Selection, *, after: tuple[datetime, UUID] | None = None, limit: int
) -> list[Kept]:
    """Return up to `limit` rows, newest first, that follow the one received and named as `after` says."""
    rows = await connection.fetch(_QUERIES.page, *astuple(selection), *(after or (None, None)), limit)
    return [_kept(row) for row in rows]


async def get(connection: Connection, id_: UUID) -> Kept | None:
    """Return one row, if it exists."""
    rows = await connection.fetch(_QUERIES.one, id_)
    return _kept(rows[0]) if rows else None


async def keep(connection: Connection, refused: Sequence[Quarantined]) -> int:
    """Keep refused readings; return how many were not there yet."""
    if not refused:
        return 0
    rows = [
        (q.id, q.gateway_id, q.message_id, q.pump_id, q.time, q.reason, q.detail, q.payload)
        for q in {q.id: q for q in refused}.values()
    ]
    columns = [list(map(_storable, column)) for column in zip(*rows, strict=True)]
    columns[-1] = [orjson.dumps(payload).decode() for payload in columns[-1]]
    return sum(row["is_new"] for row in await connection.fetch(_QUERIES.keep, *columns))


def _storable(value: Any) -> Any:
    """Return `value` without what text and JSON cannot hold: NUL, lone surrogates, NaN, infinity."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {_storable(key): _storable(item) for key, item in value.items()}
        case list():
            return [_storable(item) for item in value]
    return value


def _kept(row: asyncpg.Record) -> Kept:
    return Kept(**{**row, "payload": orjson.loads(row["payload"])})
