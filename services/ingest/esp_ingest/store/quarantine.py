"""Quarantine: refused readings, kept with their reason until someone replays or discards them."""

import math
from collections.abc import Sequence
from typing import Any, Final

import orjson
from esp_common.database import Connection, load_queries

from esp_ingest.domain.readings import Quarantined, Refusals

_QUERIES: Final = load_queries("esp_ingest.store", "quarantine.sql")


async def keep(connection: Connection, refused: Sequence[Quarantined]) -> Refusals:
    """Keep refused readings and channels; return how many were not there yet."""
    if not refused:
        return Refusals(0, 0)
    rows = [
        (
            *(q.id, q.gateway_id, q.message_id, q.pump_id, q.time, q.channel, q.reason, q.detail),
            *(q.rest or (None, None)),
            q.payload,
        )
        for q in {q.id: q for q in refused}.values()
    ]
    columns = [list(map(_storable, column)) for column in zip(*rows, strict=True)]
    columns[-1] = [orjson.dumps(payload).decode() for payload in columns[-1]]
    new = [row for row in await connection.fetch(_QUERIES.keep, *columns) if row["is_new"]]
    return Refusals(sum(row["readings"] for row in new), sum(row["channels"] for row in new))


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
