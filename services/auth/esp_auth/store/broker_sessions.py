"""Find gateways' connections that have outlived their keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from esp_common.database import Connection, load_queries

_QUERIES: Final = load_queries("esp_auth.store", "broker_sessions.sql")


@dataclass(frozen=True, slots=True)
class BrokerSession:
    """One connection of a gateway to the broker, by the broker's name for it."""

    name: str
    gateway_id: str
    since: datetime
    protocol: str


async def ended(connection: Connection, sessions: Sequence[BrokerSession]) -> list[BrokerSession]:
    """Return those of `sessions` that no valid key justifies."""
    columns = ([s.gateway_id for s in sessions], [s.since for s in sessions])
    rows = await connection.fetch(_QUERIES.ended, *columns)
    return [sessions[row["number"] - 1] for row in rows]
