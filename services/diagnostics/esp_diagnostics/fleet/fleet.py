"""Overview of the fleet, worst pump first."""

from typing import Final

import orjson
from esp_common.cursors import encode_cursor

from esp_diagnostics.common.cache import Answer, AnswerCache, cache_key
from esp_diagnostics.fleet.store import FleetFilter, FleetStore, Place, Row

_COUNTS: Final = ("states", "severities")
"""Columns of the summary that the database returns as JSON."""


class Fleet:
    """Return pages of the fleet, from the cache where possible."""

    def __init__(self, store: FleetStore, cache: AnswerCache, ttl_s: float) -> None:
        self._store = store
        self._cache = cache
        self._ttl_s = ttl_s

    async def page(self, wanted: FleetFilter, after: Place | None, limit: int, rights: str) -> Answer:
        """Return a page as JSON; the first page includes a summary of the field, or of all fields."""
        states = sorted(wanted.states or ())
        place = (after.severity_place, after.health_place, after.pump_id) if after else None
        key = cache_key(rights, "fleet", wanted.field_id, states, wanted.severity, place, limit)

        async def compute() -> bytes:
            rows = await self._store.page(wanted, after, limit + 1)
            summary = None if after else await self._store.summary(wanted.field_id)
            return _page(rows, limit, summary)

        return await self._cache.get("fleet", key, self._ttl_s, compute)


def _page(rows: list[Row], limit: int, summary: Row | None) -> bytes:
    items = rows[:limit]
    following = None
    if len(rows) > limit:
        last = items[-1]
        following = encode_cursor(last["place"], float(last["health_place"]), last["pump_id"])
    counts = {name: orjson.Fragment(summary[name] or "{}") for name in _COUNTS} if summary else {}
    document = {
        "items": [orjson.Fragment(row["item"]) for row in items],
        "next_cursor": following,
        "summary": summary and {**summary, **counts},
    }
    return orjson.dumps(document)
