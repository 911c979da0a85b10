"""Sets of rules and pumps' own values of their parameters, as stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from esp_common.database import Connection, load_queries

_SQL: Final = load_queries(__package__, "rules.sql")


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A set of rules that was loaded once, and by whom; `active`: it is in force."""

    version: str
    loaded_by: str
    loaded_at: datetime
    active: bool


@dataclass(frozen=True, slots=True)
class Override:
    """A pump's own value of a parameter."""

    parameter: str
    value: float
    set_by: str
    set_at: datetime


class RuleStore:
    """Rules over one connection; what changes them belongs in a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def active(self) -> str | None:
        """Return the text in force; None: the shipped one."""
        row = await self._connection.fetchrow(_SQL.active)
        return None if row is None else str(row["body"])

    async def versions(self) -> list[RuleSet]:
        """Return the sets that were ever loaded, newest first."""
        return [RuleSet(**row) for row in await self._connection.fetch(_SQL.versions)]

    async def body(self, version: str) -> str | None:
        """Return the text that was loaded under a version."""
        found: str | None = await self._connection.fetchval(_SQL.body, version)
        return found

    async def serialise(self) -> None:
        """Wait for others who are changing the rules."""
        await self._connection.execute(_SQL.serialise)

    async def activate(self, version: str, body: str, by: str) -> None:
        """Put a set in force in place of the one that was."""
        await self._connection.fetchval(_SQL.retire)
        await self._connection.execute(_SQL.keep, version, body, by)

    async def retire(self) -> str | None:
        """Put the shipped rules in force; return the version that was."""
        version: str | None = await self._connection.fetchval(_SQL.retire)
        return version

    async def overrides(self, pump_id: str) -> list[Override]:
        """Return a pump's own values, by parameter."""
        return [Override(**row) for row in await self._connection.fetch(_SQL.overrides, pump_id)]

    async def hold_pump(self, pump_id: str) -> bool:
        """Return whether a pump is there, and keep others from changing it until the transaction ends."""
        return await self._connection.fetchval(_SQL.pump_exists, pump_id) is not None

    async def override(self, pump_id: str, parameter: str, value: float, by: str) -> bool:
        """Give a pump its own value; return whether that changed anything."""
        done = await self._connection.fetchval(_SQL.override, pump_id, parameter, value, by)
        return done is not None

    async def drop_override(self, pump_id: str, parameter: str) -> float | None:
        """Take a pump's own value away; return what it was, None if it had none."""
        value: float | None = await self._connection.fetchval(_SQL.drop_override, pump_id, parameter)
        return value
