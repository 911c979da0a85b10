"""Storage of destinations, routes and the log."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, time
from typing import Any, Final
from uuid import UUID

import orjson
from esp_common.database import Connection, Pool, load_queries

from esp_diagnostics.notifications.routing import Message, Route, Shift

_QUERIES: Final = load_queries(__package__, "notifications.sql")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NotificationFilter:
    """Filter of the log: None matches any; `since` inclusive, `until` exclusive."""

    field_id: str | None = None
    pump_id: str | None = None
    alert_id: UUID | None = None
    destination_id: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class RoutingStore:
    """Change destinations and routes on one connection, in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock(self) -> None:
        """Lock destinations and routes until the transaction ends."""
        await self._connection.execute(_QUERIES.lock)

    async def destination(self, id_: str) -> Row | None:
        """Return a destination with its sealed URL."""
        row = await self._connection.fetchrow(_QUERIES.destination, id_)
        return dict(row) if row else None

    async def put_destination(self, *columns: Any) -> Row:
        """Write a destination and return it without its URL."""
        (row,) = await self._connection.fetch(_QUERIES.put_destination, *columns)
        return dict(row)

    async def delete_destination(self, id_: str) -> bool:
        """Delete a destination; return False if it does not exist."""
        return bool(await self._connection.fetchval(_QUERIES.delete_destination, id_))

    async def routes_to(self, destination_id: str) -> list[str]:
        """Return the routes that use a destination."""
        return [row["route_id"] for row in await self._connection.fetch(_QUERIES.routes_to, destination_id)]

    async def unknown_destinations(self, ids: Sequence[str]) -> list[str]:
        """Return the ids that are not destinations."""
        return [row["id"] for row in await self._connection.fetch(_QUERIES.unknown_destinations, list(ids))]

    async def put_route(self, route_id: str, row: Row, actor: str) -> Row:
        """Write a route and return it."""
        shift = None if row["shift"] is None else orjson.dumps(row["shift"]).decode()
        written = await self._connection.fetchrow(
            _QUERIES.put_route,
            route_id,
            row["name"],
            row["field_ids"],
            row["least_priority"],
            row["notices"],
            shift,
            row["destination_ids"],
            row["enabled"],
            actor,
        )
        return _route_row(written)

    async def delete_route(self, id_: str) -> bool:
        """Delete a route; return False if it does not exist."""
        return bool(await self._connection.fetchval(_QUERIES.delete_route, id_))


class Routing:
    """Read destinations, routes and the log; append to the log."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def destinations(self) -> list[Row]:
        """Return all destinations, without their URLs."""
        return [dict(row) for row in await self._pool.fetch(_QUERIES.destinations)]

    async def destination(self, id_: str) -> Row | None:
        """Return a destination with its sealed URL."""
        row = await self._pool.fetchrow(_QUERIES.destination, id_)
        return dict(row) if row else None

    async def route_rows(self) -> list[Row]:
        """Return all routes as stored."""
        return [_route_row(row) for row in await self._pool.fetch(_QUERIES.routes)]

    async def route_row(self, id_: str) -> Row | None:
        """Return one route as stored."""
        row = await self._pool.fetchrow(_QUERIES.route, id_)
        return _route_row(row) if row else None

    async def routes(self) -> list[Route]:
        return [_route(row) for row in await self.route_rows()]

    async def settled(self, event_id: str) -> set[str]:
        """Return the destinations that have a message, or do not need it."""
        return {row["destination_id"] for row in await self._pool.fetch(_QUERIES.settled, event_id)}

    async def last_sent(self, alert_id: str, destination_id: str, since: datetime) -> tuple[str, str] | None:
        """Return notice and priority of the last message to a destination about an alert."""
        row = await self._pool.fetchrow(_QUERIES.last_sent, UUID(alert_id), destination_id, since)
        return (row["notice"], row["priority"]) if row else None

    async def note(
        self, message: Message, destination_id: str, outcome: str, attempts: int, reason: str | None
    ) -> None:
        """Log the outcome of a message to a destination."""
        await self._pool.execute(
            _QUERIES.note,
            message.event_id,
            destination_id,
            UUID(message.alert_id) if message.alert_id else None,
            message.pump_id,
            message.field_id,
            message.condition,
            message.priority,
            message.notice,
            message.title,
            outcome,
            attempts,
            reason,
            message.time,
        )

    async def page(
        self, wanted: NotificationFilter, after: tuple[datetime, int] | None, limit: int
    ) -> list[Row]:
        """Return up to `limit` log entries after `after`, newest first."""
        settled_at, id_ = after or (None, None)
        rows = await self._pool.fetch(_QUERIES.page, *astuple(wanted), settled_at, id_, limit)
        return [dict(row) for row in rows]


def _route_row(row: Any) -> Row:
    return {**row, "shift": json.loads(row["shift"]) if row["shift"] else None}


def _route(row: Row) -> Route:
    return Route(
        row["route_id"],
        None if row["field_ids"] is None else frozenset(row["field_ids"]),
        row["least_priority"],
        frozenset(row["notices"]),
        _shift(row["shift"]) if row["shift"] else None,
        tuple(row["destination_ids"]),
        row["enabled"],
    )


def _shift(row: Row) -> Shift:
    return Shift(
        row["time_zone"],
        frozenset(row["days"]),
        time.fromisoformat(row["begins"]),
        time.fromisoformat(row["ends"]),
    )
