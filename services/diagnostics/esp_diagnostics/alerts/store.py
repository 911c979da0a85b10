"""Alerts in the database: written in the transaction of whoever changes them, and read for lists."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from esp_common.database import Connection, Pool, load_queries

from esp_diagnostics.alerts.lifecycle import ALARM_COLUMNS, PUMP_OUT_OF_SERVICE, Alarm, Key

_QUERIES: Final = load_queries(__package__, "alerts.sql")

Row = dict[str, Any]


class AlertStore:
    """Reads and changes alerts on one connection, in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def latest(self, keys: Collection[Key]) -> dict[Key, Alarm]:
        """Lock `keys` and return the last alert of each that had one."""
        numbers = sorted(map(_number, keys))
        await self._connection.execute(_QUERIES.lock_keys, numbers)
        columns = [list(column) for column in zip(*sorted(keys), strict=True)]
        rows = await self._connection.fetch(_QUERIES.latest, *columns)
        return {alarm.key: alarm for alarm in map(alarm_of, rows)}

    async def lock(self, alert_id: UUID) -> Alarm | None:
        """Return one alert, locked."""
        row = await self._connection.fetchrow(_QUERIES.lock_one, alert_id)
        return alarm_of(row) if row else None

    async def due(self, now: datetime, rest_s: float, limit: int) -> list[Alarm]:
        """Return up to `limit` alerts to which time or their pump's service has done something, locked."""
        rows = await self._connection.fetch(_QUERIES.due, now, rest_s, PUMP_OUT_OF_SERVICE, limit)
        return [alarm_of(row) for row in rows]

    async def write(self, alarms: Iterable[Alarm]) -> None:
        """Write alerts as they are."""
        rows = [{**asdict(alarm), "state": alarm.state} for alarm in alarms]
        await self._connection.execute(_QUERIES.write, orjson.dumps(rows).decode())

    async def drop(self, alert_ids: Collection[UUID]) -> None:
        """Forget alerts that ended before they were any."""
        await self._connection.execute(_QUERIES.drop, list(alert_ids))

    async def log(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add entries to the log: objects with its columns."""
        await self._connection.execute(_QUERIES.log, orjson.dumps(entries).decode())

    async def out_of_service(self, pump_ids: Collection[str]) -> set[str]:
        """Return those of `pump_ids` that are out of service."""
        rows = await self._connection.fetch(_QUERIES.out_of_service, list(pump_ids))
        return {row["pump_id"] for row in rows}

    async def annunciated_since(self, field_ids: Collection[str], since: datetime) -> dict[str, int]:
        """Return how many alerts of each field were annunciated after `since`."""
        rows = await self._connection.fetch(_QUERIES.annunciated_since, list(field_ids), since)
        return {row["field_id"]: row["annunciated"] for row in rows}

    async def floods(self, field_ids: Collection[str] | None = None) -> set[str]:
        """Return the fields (of those given) that are in a flood, locked."""
        wanted = None if field_ids is None else list(field_ids)
        return {row["field_id"] for row in await self._connection.fetch(_QUERIES.floods, wanted)}

    async def begin_flood(self, field_id: str, at: datetime, alarms: int) -> bool:
        """Note that a flood began; False when somebody else just did."""
        return bool(await self._connection.fetchval(_QUERIES.begin_flood, field_id, at, alarms))

    async def grow_flood(self, field_id: str, alarms: int) -> None:
        """Note how many alarms there were in the window of a flood."""
        await self._connection.execute(_QUERIES.grow_flood, field_id, alarms)

    async def end_flood(self, field_id: str, at: datetime) -> None:
        """Note that a flood is over."""
        await self._connection.execute(_QUERIES.end_flood, field_id, at)

    async def rule_set(self) -> Row | None:
        """Return the rules that are in force; None: those that ship."""
        row = await self._connection.fetchrow(_QUERIES.rule_set)
        return dict(row) if row else None

    async def load_rule_set(self, version: str, body: str, actor: str) -> str | None:
        """Put rules in force unless `version` names others already: then return those."""
        await self._connection.execute(_QUERIES.lock_rules)
        known: str | None = await self._connection.fetchval(_QUERIES.rule_set_body, version)
        if known is not None and known != body:
            return known
        await self._connection.execute(_QUERIES.retire_rule_set)
        await self._connection.execute(_QUERIES.load_rule_set, version, body, actor)
        return None

    async def orphans(self, conditions: Collection[str]) -> list[Alarm]:
        """Return active alerts of limits that are not among `conditions`."""
        return [alarm_of(row) for row in await self._connection.fetch(_QUERIES.orphans, list(conditions))]


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts: None is any; of two dates the first is included, the second not."""

    field_id: str | None = None
    pump_id: str | None = None
    condition: str | None = None
    source: str | None = None
    states: Sequence[str] | None = None
    priorities: Sequence[str] | None = None
    active: bool | None = None
    acknowledged: bool | None = None
    assignee: str | None = None
    acknowledged_by: str | None = None
    raised_from: datetime | None = None
    raised_to: datetime | None = None
    cleared_from: datetime | None = None
    cleared_to: datetime | None = None
    acknowledged_from: datetime | None = None
    acknowledged_to: datetime | None = None
    closed_from: datetime | None = None
    closed_to: datetime | None = None


class AlertLists:
    """Reads the lists."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, wanted: AlertFilter, after: tuple[datetime, UUID] | None, limit: int) -> list[Alarm]:
        """Return up to `limit` alerts, last raised first, that come after `after`."""
        last_raised_at, alert_id = after or (None, None)
        rows = await self._pool.fetch(_QUERIES.page, *astuple(wanted), last_raised_at, alert_id, limit)
        return [alarm_of(row) for row in rows]

    async def one(self, alert_id: UUID) -> Alarm | None:
        """Return one alert."""
        row = await self._pool.fetchrow(_QUERIES.one, alert_id)
        return alarm_of(row) if row else None

    async def history(self, alert_id: UUID, after: int | None, limit: int) -> list[Row]:
        """Return up to `limit` entries of an alert's log, newest first, that come after entry `after`."""
        rows = await self._pool.fetch(_QUERIES.history, alert_id, after, limit)
        return [{**row, "detail": json.loads(row["detail"])} for row in rows]

    async def rule_sets(self) -> list[Row]:
        """Return which rules were ever loaded, the last first."""
        return [dict(row) for row in await self._pool.fetch(_QUERIES.rule_sets)]

    async def statistics(
        self, since: datetime, until: datetime, field_id: str | None, flood_above: int
    ) -> dict[str, list[Row]]:
        """Return the rows of each part of the statistics of a span."""
        span = (since, until, field_id)
        arguments: dict[str, tuple[Any, ...]] = {
            "rate": (*span, flood_above),
            "top": span,
            "priorities": span,
            "chattering": span,
            "acknowledged": span,
            "floods": span,
            "now": (until, field_id),
        }
        async with self._pool.acquire() as connection:
            return {
                name: [dict(row) for row in await connection.fetch(_QUERIES[f"statistics_{name}"], *given)]
                for name, given in arguments.items()
            }


def alarm_of(row: Any) -> Alarm:
    """Return the alarm of a row."""
    columns = {name: row[name] for name in ALARM_COLUMNS}
    # asyncpg's own kind of UUID is not written as JSON.
    columns["alert_id"] = UUID(bytes=columns["alert_id"].bytes)
    if columns["finding_id"] is not None:
        columns["finding_id"] = UUID(bytes=columns["finding_id"].bytes)
    return Alarm(**columns)


def _number(key: Key) -> int:
    digest = hashlib.blake2b("\0".join(("alert", *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
