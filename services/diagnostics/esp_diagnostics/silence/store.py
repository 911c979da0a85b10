"""Storage of reporting and silent pumps and gateways."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from esp_common.database import Connection, load_queries

from esp_diagnostics.silence.rules import Reporting

_SQL: Final = load_queries(__package__, "silence.sql")


class Gateway(NamedTuple):
    """Gateway with its pumps."""

    gateway_id: str
    field_id: str
    pump_ids: Sequence[str]


class GatewayActivity(NamedTuple):
    """Time since which a gateway is silent, and its last return."""

    gateway_id: str
    silent_since: datetime | None
    returned_at: datetime | None


class PumpActivity(NamedTuple):
    """Newest reading and silence of a pump."""

    pump_id: str
    received: datetime
    silent_since: datetime | None
    covered_by: str | None


class SilenceStore:
    """Read and record silence on one connection, in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def try_lock(self) -> bool:
        """Return whether this process may check; no other may until the transaction ends."""
        return bool(await self._connection.fetchval(_SQL.turn))

    async def reporting(self) -> list[Reporting]:
        """Return the pumps in service that have reported."""
        return [Reporting(*row) for row in await self._connection.fetch(_SQL.reporting)]

    async def stored(self, after: Mapping[str, datetime]) -> dict[str, datetime]:
        """Return the newest stored reading of each pump after its given time."""
        rows = await self._connection.fetch(_SQL.stored, list(after), list(after.values()))
        return {row["pump_id"]: row["time"] for row in rows}

    async def gateways(self) -> list[Gateway]:
        """Return the gateways with pumps."""
        return [Gateway(*row) for row in await self._connection.fetch(_SQL.gateways)]

    async def gateway_activity(self) -> dict[str, GatewayActivity]:
        """Return the recorded activity of gateways."""
        rows = await self._connection.fetch(_SQL.gateway_activity)
        return {row["gateway_id"]: GatewayActivity(*row) for row in rows}

    async def ended(self) -> list[tuple[str, str | None]]:
        """Return pumps (with their field) recorded as silent that are no longer monitored."""
        return [(row["pump_id"], row["field_id"]) for row in await self._connection.fetch(_SQL.ended)]

    async def record_pumps(self, pumps: Sequence[PumpActivity]) -> None:
        """Record the activity of pumps."""
        if pumps:
            await self._connection.execute(_SQL.record_pumps, *_columns(pumps))

    async def forget_pumps(self, pump_ids: Collection[str]) -> None:
        """Delete the activity of pumps."""
        await self._connection.execute(_SQL.forget_pumps, list(pump_ids))

    async def record_gateways(self, gateways: Sequence[GatewayActivity]) -> None:
        """Record the activity of gateways."""
        if gateways:
            await self._connection.execute(_SQL.record_gateways, *_columns(gateways))

    async def shown(self, pump_ids: Collection[str]) -> list[Any]:
        """Return the last known state and health of pumps."""
        return list(await self._connection.fetch(_SQL.shown, list(pump_ids)))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
