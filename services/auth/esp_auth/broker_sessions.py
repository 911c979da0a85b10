"""End the broker connections of gateways whose key is no longer valid.

The broker authenticates a connection only when it is opened, so long-lived ones have to be checked.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import structlog
from esp_common.database import Pool
from esp_common.errors import Unavailable

from esp_auth.store.broker_sessions import BrokerSession, ended

log = structlog.get_logger()

TIMEOUT_S: Final = 10.0
REASON: Final = "the gateway's API key is no longer valid"
STUCK: Final = "a message was refused; nothing is acknowledged on this connection any more"


class BrokerSessions:
    """Manage gateways' connections through the broker's management API.

    `management_url`: its base with an administrator's credentials, `http://user:password@host:port/api`.
    """

    def __init__(self, pool: Pool, management_url: str) -> None:
        self._pool = pool
        address = httpx.URL(management_url)
        self._client = httpx.AsyncClient(
            base_url=address.copy_with(username="", password=""),
            auth=(address.username, address.password),
            timeout=TIMEOUT_S,
        )

    async def end_invalid(self) -> int:
        """Close every connection whose key was revoked, rotated or expired; return how many.

        A gateway with another valid key reconnects with it. Raises Unavailable without the broker.
        """
        try:
            sessions = await self._gateways()
            async with self._pool.acquire() as connection:
                over = await ended(connection, sessions)
            for session in over:
                await self._close(session, REASON)
        except httpx.HTTPError as error:
            raise Unavailable(f"the broker's management API does not answer: {error}") from error
        return len(over)

    async def end_stuck(self, names: Collection[str]) -> list[str]:
        """Close those of the connections `names` that are gateways' by MQTT; return their names.

        An AMQP client detects a channel error itself. Raises Unavailable without the broker.
        """
        try:
            stuck = [
                session
                for session in await self._gateways()
                if session.name in names and session.protocol.startswith("MQTT")
            ]
            for session in stuck:
                await self._close(session, STUCK)
        except httpx.HTTPError as error:
            raise Unavailable(f"the broker's management API does not answer: {error}") from error
        return [session.name for session in stuck]

    async def close(self) -> None:
        """Close the connection to the management API."""
        await self._client.aclose()

    async def _gateways(self) -> list[BrokerSession]:
        # The broker's own users (services, administrators) have no keys.
        own = {user["name"] for user in await self._get("users", "name")}
        return [
            BrokerSession(
                found["name"],
                found["user"],
                datetime.fromtimestamp(found["connected_at"] / 1000, UTC),
                found.get("protocol", ""),
            )
            for found in await self._get("connections", "name,user,connected_at,protocol")
            # A connection that is being opened has neither yet.
            if found.get("connected_at") and found.get("user") and found["user"] not in own
        ]

    async def _get(self, what: str, columns: str) -> list[dict[str, Any]]:
        answer = await self._client.get(what, params={"columns": columns})
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    async def _close(self, session: BrokerSession, reason: str) -> None:
        answer = await self._client.delete(
            f"connections/{quote(session.name, safe='')}", headers={"X-Reason": reason}
        )
        if answer.status_code != httpx.codes.NOT_FOUND:  # closed in the meantime
            answer.raise_for_status()
        log.warning("broker.session-ended", gateway_id=session.gateway_id, reason=reason)
