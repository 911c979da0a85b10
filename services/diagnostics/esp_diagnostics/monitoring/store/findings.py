"""Storage of findings."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from esp_common.database import Connection, Pool, load_queries

_SQL: Final = load_queries(__package__, "findings.sql")
_DOCUMENTS: Final = ("evidence", "path")

Row = dict[str, Any]


class NewFinding(NamedTuple):
    """New finding; `evidence` and `path` as JSON text."""

    finding_id: UUID
    pump_id: str
    field_id: str
    condition: str
    kind: str
    severity: str
    confidence: float
    onset: datetime
    raised_at: datetime
    rule_version: str
    evidence: str
    path: str
    action: str


class Change(NamedTuple):
    """Present values of a finding."""

    finding_id: UUID
    severity: str
    peak_severity: str
    confidence: float
    evidence: str
    path: str
    action: str


class Clearing(NamedTuple):
    """End of a finding."""

    finding_id: UUID
    cleared_at: datetime


@dataclass(frozen=True, slots=True)
class FindingFilter:
    """Filter of findings: None matches any; `…_from` is inclusive, `…_to` exclusive."""

    field_id: str | None = None
    pump_id: str | None = None
    condition: str | None = None
    severities: Sequence[str] | None = None
    is_open: bool | None = None
    raised_from: datetime | None = None
    raised_to: datetime | None = None
    cleared_from: datetime | None = None
    cleared_to: datetime | None = None
    onset_from: datetime | None = None
    onset_to: datetime | None = None


async def open_findings(connection: Connection, pump_ids: Iterable[str]) -> list[Row]:
    """Return open findings: id, pump, condition, severities, confidence, onset and raised_at."""
    return [dict(row) for row in await connection.fetch(_SQL.open_findings, list(pump_ids))]


async def last_cleared(
    connection: Connection, pump_ids: Iterable[str], since: datetime
) -> dict[tuple[str, str], datetime]:
    """Return when each (pump, condition) last cleared, if after `since`."""
    rows = await connection.fetch(_SQL.last_cleared, list(pump_ids), since)
    return {(row["pump_id"], row["condition"]): row["cleared_at"] for row in rows}


async def open_at(connection: Connection, pump_ids: Sequence[str], at: Sequence[datetime]) -> list[Row]:
    """Return the findings open at each pump's given time, in the columns of `open_findings`."""
    return [dict(row) for row in await connection.fetch(_SQL.open_at, list(pump_ids), list(at))]


async def cleared_by(
    connection: Connection, pump_ids: Sequence[str], at: Sequence[datetime]
) -> dict[tuple[str, str], datetime]:
    """Return when each (pump, condition) last cleared before the pump's given time."""
    rows = await connection.fetch(_SQL.cleared_by, list(pump_ids), list(at))
    return {(row["pump_id"], row["condition"]): row["cleared_at"] for row in rows}


async def found_after(connection: Connection, pump_ids: Sequence[str], at: Sequence[datetime]) -> list[Row]:
    """Return the findings raised after each pump's given time: pump, condition, onset and cleared_at."""
    return [dict(row) for row in await connection.fetch(_SQL.found_after, list(pump_ids), list(at))]


async def raise_new(connection: Connection, found: Sequence[NewFinding]) -> set[UUID]:
    """Write findings; return the ids of those without an open finding of the same pump and condition."""
    if not found:
        return set()
    columns = [list(column) for column in zip(*found, strict=True)]
    return {row["finding_id"] for row in await connection.fetch(_SQL["raise"], *columns)}


async def change(connection: Connection, changes: Sequence[Change]) -> None:
    """Update findings."""
    if changes:
        await connection.execute(_SQL.change, *(list(column) for column in zip(*changes, strict=True)))


async def clear(connection: Connection, clearings: Sequence[Clearing]) -> set[UUID]:
    """Clear findings; return the ids of those that were open."""
    if not clearings:
        return set()
    columns = [list(column) for column in zip(*clearings, strict=True)]
    return {row["finding_id"] for row in await connection.fetch(_SQL.clear, *columns)}


class Findings:
    """List findings."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, wanted: FindingFilter, after: tuple[datetime, UUID] | None, limit: int) -> list[Row]:
        """Return up to `limit` findings after `after`, last raised first."""
        raised_at, finding_id = after or (None, None)
        rows = await self._pool.fetch(_SQL.page, *astuple(wanted), raised_at, finding_id, limit)
        return [
            {name: orjson.loads(value) if name in _DOCUMENTS else value for name, value in row.items()}
            for row in rows
        ]
