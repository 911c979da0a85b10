"""Quarantine: refused readings, kept with their reason until someone replays or discards them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
from esp_common.database import Connection, load_queries

from esp_ingest.domain.readings import NONE, Quarantined, Refusals

_QUERIES: Final = load_queries("esp_ingest.store", "quarantine.sql")


class Kept(NamedTuple):
    """What became of refusals: `new` were not in quarantine before, of which `unkept` have no row.

    `filled`: gateways that have passed their limit of the day with these.
    """

    new: Refusals
    unkept: Refusals = NONE
    filled: tuple[str, ...] = ()


async def keep(
    connection: Connection, refused: Sequence[Quarantined], max_rows_per_day: int | None = None
) -> Kept:
    """Keep refused readings and channels, each once.

    `max_rows_per_day`: new rows of one gateway and UTC day; refusals beyond are only counted. With it the
    caller must be in a transaction, in which other flushes with refusals of these gateways wait.
    """
    if not refused:
        return Kept(NONE)
    rows = list({each.id: each for each in refused}.values())
    if max_rows_per_day is None:
        return Kept(_total(await _insert(connection, rows)))
    before = await _open_days(connection, {row.gateway_id for row in rows})
    kept, unkept = await _split(connection, rows, before, max_rows_per_day)
    new = await _insert(connection, kept)
    await _count(connection, new, unkept)
    missing = _sum(row.refusals for row in unkept)
    filled = sorted({row.gateway_id for row in unkept if not before[_storable(row.gateway_id)].passed})
    return Kept(_sum([_total(new), missing]), missing, tuple(filled))


class _Day(NamedTuple):
    """How many rows a gateway has been given today, and whether some were not kept already."""

    rows: int
    passed: bool


async def _open_days(connection: Connection, gateways: Iterable[str]) -> dict[str, _Day]:
    names = sorted(map(_storable, gateways))
    found = await connection.fetch(_QUERIES.open_days, names)
    return {row["gateway_id"]: _Day(row["kept_rows"], row["passed"]) for row in found}


async def _split(
    connection: Connection, rows: Sequence[Quarantined], days: Mapping[str, _Day], limit: int
) -> tuple[list[Quarantined], list[Quarantined]]:
    """Return the rows that are there already or have room today, and the others."""
    wanted = Counter(_storable(row.gateway_id) for row in rows)
    room = {gateway: max(0, limit - days[gateway].rows) for gateway in wanted}
    if all(count <= room[gateway] for gateway, count in wanted.items()):
        return list(rows), []
    known = {row["id"] for row in await connection.fetch(_QUERIES.known, [row.id for row in rows])}
    kept: list[Quarantined] = []
    unkept: list[Quarantined] = []
    for row in rows:
        gateway = _storable(row.gateway_id)
        if row.id not in known:
            room[gateway] -= 1
        (kept if row.id in known or room[gateway] >= 0 else unkept).append(row)
    return kept, unkept


async def _insert(connection: Connection, rows: Sequence[Quarantined]) -> list[Any]:
    """Insert rows; return gateway, readings and channels of those that were not there."""
    if not rows:
        return []
    values = [
        (
            *(q.id, q.gateway_id, q.message_id, q.pump_id, q.time, q.channel, q.reason, q.detail),
            *(q.rest or (None, None)),
            q.payload,
        )
        for q in rows
    ]
    columns = [list(map(_storable, column)) for column in zip(*values, strict=True)]
    columns[-1] = [orjson.dumps(payload).decode() for payload in columns[-1]]
    return [row for row in await connection.fetch(_QUERIES.keep, *columns) if row["is_new"]]


async def _count(connection: Connection, new: Sequence[Any], unkept: Sequence[Quarantined]) -> None:
    rows = Counter(row["gateway_id"] for row in new)
    readings: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    for row in unkept:
        gateway = _storable(row.gateway_id)
        readings[gateway] += row.refusals.readings
        channels[gateway] += row.refusals.channels
    gateways = sorted({*rows, *readings})
    columns = [[counts[gateway] for gateway in gateways] for counts in (rows, readings, channels)]
    await connection.execute(_QUERIES.count_day, gateways, *columns)


def _total(rows: Iterable[Any]) -> Refusals:
    return _sum((row["readings"], row["channels"]) for row in rows)


def _sum(refusals: Iterable[tuple[int, int]]) -> Refusals:
    counts = list(refusals)
    return Refusals(sum(readings for readings, _ in counts), sum(channels for _, channels in counts))


async def size(connection: Connection) -> int:
    """Return how many rows there are."""
    return int(await connection.fetchval(_QUERIES.size))


async def drop_oldest(
    connection: Connection, reason: str, before: datetime, pending_before: datetime, limit: int
) -> int:
    """Drop and count up to `limit` of the oldest rows received before `before`; return how many there were.

    Rows that are pending are dropped only if they were received before `pending_before`.
    """
    return await connection.fetchval(_QUERIES.drop_oldest, before, pending_before, limit, reason) or 0


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
