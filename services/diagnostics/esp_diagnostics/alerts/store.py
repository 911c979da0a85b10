"""Alert storage: writes in the caller's transaction, reads for lists."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from esp_common.database import Connection, Pool, load_queries

from esp_diagnostics.alerts.model import ALERT_COLUMNS, PUMP_OUT_OF_SERVICE, Alert, Key

_QUERIES: Final = load_queries(__package__, "alerts.sql")

Row = dict[str, Any]


class AlertStore:
    """Read and change alerts on one connection, in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def latest(self, keys: Collection[Key]) -> dict[Key, Alert]:
        """Lock `keys` and return the latest alert of each."""
        numbers = sorted(map(_number, keys))
        await self._connection.execute(_QUERIES.lock_keys, numbers)
        columns = [list(column) for column in zip(*sorted(keys), strict=True)]
        rows = await self._connection.fetch(_QUERIES.latest, *columns)
        return {alert.key: alert for alert in map(alert_of, rows)}

    async def lock(self, alert_id: UUID) -> Alert | None:
        """Lock and return one alert."""
        row = await self._connection.fetchrow(_QUERIES.lock_one, alert_id)
        return alert_of(row) if row else None

    async def due(self, now: datetime, rest_s: float, limit: int) -> list[Alert]:
        """Lock and return up to `limit` alerts that time or the service state of their pump affects."""
        rows = await self._connection.fetch(_QUERIES.due, now, rest_s, PUMP_OUT_OF_SERVICE, limit)
        return [alert_of(row) for row in rows]

    async def write(self, alerts: Iterable[Alert]) -> None:
        rows = [{**asdict(alert), "state": alert.state} for alert in alerts]
        await self._connection.execute(_QUERIES.write, orjson.dumps(rows).decode())

    async def drop(self, alert_ids: Collection[UUID]) -> None:
        """Delete alerts that cleared within their on-delay."""
        await self._connection.execute(_QUERIES.drop, list(alert_ids))

    async def log(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append log entries, given as objects with the columns of the log."""
        await self._connection.execute(_QUERIES.log, orjson.dumps(entries).decode())

    async def out_of_service(self, pump_ids: Collection[str]) -> set[str]:
        """Return the pumps of `pump_ids` that are out of service."""
        rows = await self._connection.fetch(_QUERIES.out_of_service, list(pump_ids))
        return {row["pump_id"] for row in rows}

    async def orphans(self, conditions: Collection[str]) -> list[Alert]:
        """Return active limit alerts whose condition is not in `conditions`."""
        return [alert_of(row) for row in await self._connection.fetch(_QUERIES.orphans, list(conditions))]


class FloodStore:
    """Read and change alert floods on one connection, in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def annunciated_since(self, field_ids: Collection[str], since: datetime) -> dict[str, int]:
        """Return the number of alerts of each field annunciated after `since`."""
        rows = await self._connection.fetch(_QUERIES.annunciated_since, list(field_ids), since)
        return {row["field_id"]: row["annunciated"] for row in rows}

    async def floods(self, field_ids: Collection[str] | None = None) -> set[str]:
        """Lock and return the fields that are in a flood; None: of all fields."""
        wanted = None if field_ids is None else list(field_ids)
        return {row["field_id"] for row in await self._connection.fetch(_QUERIES.floods, wanted)}

    async def begin_flood(self, field_id: str, at: datetime, alerts: int) -> bool:
        """Record the beginning of a flood; return False if another process recorded it first."""
        return bool(await self._connection.fetchval(_QUERIES.begin_flood, field_id, at, alerts))

    async def grow_flood(self, field_id: str, alerts: int) -> None:
        """Record the number of alerts in the window of a flood."""
        await self._connection.execute(_QUERIES.grow_flood, field_id, alerts)

    async def end_flood(self, field_id: str, at: datetime) -> None:
        await self._connection.execute(_QUERIES.end_flood, field_id, at)


class RuleSetStore:
    """Read and change loaded rules on one connection, in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rule_set(self) -> Row | None:
        """Return the rules in force; None: the shipped rules."""
        row = await self._connection.fetchrow(_QUERIES.rule_set)
        return dict(row) if row else None

    async def load_rule_set(self, version: str, body: str, actor: str) -> str | None:
        """Put rules in force; return the stored body instead if `version` already names different rules."""
        await self._connection.execute(_QUERIES.lock_rules)
        known: str | None = await self._connection.fetchval(_QUERIES.rule_set_body, version)
        if known is not None and known != body:
            return known
        await self._connection.execute(_QUERIES.retire_rule_set)
        await self._connection.execute(_QUERIES.load_rule_set, version, body, actor)
        return None


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Filter of the alert list. None matches any; `…_from` is inclusive, `…_to` exclusive."""

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
    """Read alerts, their logs and statistics."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, wanted: AlertFilter, after: tuple[datetime, UUID] | None, limit: int) -> list[Alert]:
        """Return up to `limit` alerts after `after`, last raised first."""
        last_raised_at, alert_id = after or (None, None)
        rows = await self._pool.fetch(_QUERIES.page, *astuple(wanted), last_raised_at, alert_id, limit)
        return [alert_of(row) for row in rows]

    async def one(self, alert_id: UUID) -> Alert | None:
        row = await self._pool.fetchrow(_QUERIES.one, alert_id)
        return alert_of(row) if row else None

    async def history(self, alert_id: UUID, after: int | None, limit: int) -> list[Row]:
        """Return up to `limit` log entries of an alert before entry `after`, newest first."""
        rows = await self._pool.fetch(_QUERIES.history, alert_id, after, limit)
        return [{**row, "detail": json.loads(row["detail"])} for row in rows]

    async def rule_sets(self) -> list[Row]:
        """Return all loaded versions of the rules, newest first."""
        return [dict(row) for row in await self._pool.fetch(_QUERIES.rule_sets)]

    async def statistics(
        self, since: datetime, until: datetime, field_id: str | None, flood_above: int
    ) -> dict[str, list[Row]]:
        """Return the rows of each part of the statistics."""
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


def alert_of(row: Any) -> Alert:
    """Return the alert of a database row."""
    columns = {name: row[name] for name in ALERT_COLUMNS}
    # orjson does not serialize asyncpg's UUID subclass.
    columns["alert_id"] = UUID(bytes=columns["alert_id"].bytes)
    if columns["finding_id"] is not None:
        columns["finding_id"] = UUID(bytes=columns["finding_id"].bytes)
    return Alert(**columns)


def _number(key: Key) -> int:
    digest = hashlib.blake2b("\0".join(("alert", *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
