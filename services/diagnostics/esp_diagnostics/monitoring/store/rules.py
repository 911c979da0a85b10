"""Storage of rules and overrides."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from esp_common.database import Connection, load_queries

_SQL: Final = load_queries(__package__, "rules.sql")


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Loaded version of the rules; `active`: in force."""

    version: str
    loaded_by: str
    loaded_at: datetime
    active: bool


@dataclass(frozen=True, slots=True)
class Override:
    """Override of a parameter for one pump."""

    parameter: str
    value: float
    set_by: str
    set_at: datetime


class RuleStore:
    """Read and change rules on one connection; changes require a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def active(self) -> str | None:
        """Return the text of the rules in force; None: the shipped rules."""
        row = await self._connection.fetchrow(_SQL.active)
        return None if row is None else str(row["body"])

    async def versions(self) -> list[RuleSet]:
        """Return all loaded versions, newest first."""
        return [RuleSet(**row) for row in await self._connection.fetch(_SQL.versions)]

    async def body(self, version: str) -> str | None:
        """Return the text of a version."""
        found: str | None = await self._connection.fetchval(_SQL.body, version)
        return found

    async def serialise(self) -> None:
        """Serialize changes of the rules."""
        await self._connection.execute(_SQL.serialise)

    async def activate(self, version: str, body: str, by: str) -> None:
        """Put a version in force."""
        await self._connection.fetchval(_SQL.retire)
        await self._connection.execute(_SQL.keep, version, body, by)

    async def retire(self) -> str | None:
        """Put the shipped rules in force; return the previous version."""
        version: str | None = await self._connection.fetchval(_SQL.retire)
        return version

    async def overrides(self, pump_id: str) -> list[Override]:
        """Return the overrides of a pump, by parameter."""
        return [Override(**row) for row in await self._connection.fetch(_SQL.overrides, pump_id)]

    async def hold_pump(self, pump_id: str) -> bool:
        """Lock a pump until the transaction ends; return whether it exists."""
        return await self._connection.fetchval(_SQL.pump_exists, pump_id) is not None

    async def override(self, pump_id: str, parameter: str, value: float, by: str) -> bool:
        """Set an override; return whether it changed."""
        done = await self._connection.fetchval(_SQL.override, pump_id, parameter, value, by)
        return done is not None

    async def drop_override(self, pump_id: str, parameter: str) -> float | None:
        """Delete an override; return its value, None if it did not exist."""
        value: float | None = await self._connection.fetchval(_SQL.drop_override, pump_id, parameter)
        return value
