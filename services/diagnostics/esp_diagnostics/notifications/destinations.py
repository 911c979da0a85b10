"""Destinations and routes of notices.

Messages are sent with `apprise`, which addresses e-mail, webhooks, Teams, Slack and more by URL. A URL holds
passwords and tokens, so it is stored sealed and never returned. It also names the host to connect to, so
scheme and host must be allowed.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from esp_common import audit, outbox, topology
from esp_common.contracts.events import Event
from esp_common.database import Pool
from esp_common.errors import Conflict, InvalidInput, NotFound

from esp_diagnostics.notifications.routing import TEST
from esp_diagnostics.notifications.sender import Sealer, Sender, redacted, split_url
from esp_diagnostics.notifications.store import RoutingStore
from esp_diagnostics.settings import SERVICE, DiagnosticsSettings

MAX_URL_LENGTH: Final = 2000


class Notifications:
    """Change destinations and routes for `actor`; changes are audited, without secrets."""

    def __init__(self, pool: Pool, settings: DiagnosticsSettings) -> None:
        self._pool = pool
        self._sender = Sender(settings)
        self._seal = Sealer(settings.master_key)

    async def put_destination(
        self, id_: str, *, name: str, url: str | None, enabled: bool, actor: str
    ) -> dict[str, Any]:
        """Create or change a destination; without `url` it keeps the present one.

        Raise DestinationRefused, or InvalidInput if a new destination has no URL or no master key is
        configured.
        """
        if url is not None:
            # Loading a scheme reads files, and some services search for more.
            await asyncio.to_thread(self._sender.open, url)
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            before = await store.destination(id_)
            if url is not None:
                place = (split_url(url).scheme, self._seal.close(url, id_), redacted(url))
            elif before is not None:
                place = (before["scheme"], before["sealed_url"], before["shown_url"])
            else:
                raise InvalidInput(f"new destination {id_} requires a url", fix="give its url")
            row = await store.put_destination(id_, name, *place, enabled, actor)
            detail = {"name": name, "url": place[2], "url_changed": url is not None, "enabled": enabled}
            await _audit(connection, actor, "notification-destination.changed", id_, detail)
        return row

    async def delete_destination(self, id_: str, actor: str) -> None:
        """Delete a destination; raise NotFound, or Conflict while a route uses it."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            if routes := await store.routes_to(id_):
                raise Conflict(
                    f"destination {id_} is used by {', '.join(routes)}", fix="change those routes first"
                )
            if not await store.delete_destination(id_):
                raise _no_destination(id_)
            await _audit(connection, actor, "notification-destination.deleted", id_, {})

    async def put_route(self, id_: str, row: Mapping[str, Any], actor: str) -> dict[str, Any]:
        """Create or change a route; raise InvalidInput for unknown destinations."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            if unknown := await store.unknown_destinations(row["destination_ids"]):
                raise InvalidInput(f"unknown destinations: {', '.join(unknown)}", fix="create them first")
            written = await store.put_route(id_, dict(row), actor)
            await _audit(connection, actor, "notification-route.changed", id_, row)
        return written

    async def delete_route(self, id_: str, actor: str) -> None:
        """Delete a route; raise NotFound."""
        async with self._pool.acquire() as connection, connection.transaction():
            store = RoutingStore(connection)
            await store.lock()
            if not await store.delete_route(id_):
                raise NotFound(f"no route {id_}", fix="see the list of routes")
            await _audit(connection, actor, "notification-route.deleted", id_, {})

    async def test(self, id_: str, actor: str) -> str:
        """Request a test message to a destination; return the event id of its log entry."""
        async with self._pool.acquire() as connection, connection.transaction():
            if await RoutingStore(connection).destination(id_) is None:
                raise _no_destination(id_)
            message = {
                "notice": TEST,
                "priority": "low",
                "title": "Test of this destination",
                "time": datetime.now(UTC),
                "destination_id": id_,
            }
            event = Event("alert.notice", SERVICE, id_, message)
            await outbox.enqueue(connection, event, topology.ALERTS, routing_key="alert.test.low")
            await _audit(connection, actor, "notification-destination.tested", id_, {})
        return event.id


async def _audit(connection: Any, actor: str, action: str, subject: str, data: Mapping[str, Any]) -> None:
    await audit.record(connection, source=SERVICE, actor=actor, action=action, subject=subject, data=data)


def _no_destination(id_: str) -> NotFound:
    return NotFound(f"no destination {id_}", fix="see the list of destinations")
