"""Storage of backlogs: pending readings by pump."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from esp_common.database import Connection, load_queries

_SQL: Final = load_queries(__package__, "backlogs.sql")


class Note(NamedTuple):
    """Pending readings of a pump after `judged` and up to `until`; `body`: its state at `judged`, if any.

    `anew`: readings stored after `judged` are evaluated again without a state.
    """

    pump_id: str
    partition: int
    judged: datetime
    until: datetime
    body: bytes | None
    anew: bool = False


class Saved(NamedTuple):
    """State of a pump after its reading of `through`."""

    pump_id: str
    body: bytes
    through: datetime


class Pending(NamedTuple):
    """Backlog as stored; `body_through`: newest reading in `body`."""

    pump_id: str
    partition: int
    judged: datetime
    until: datetime
    body: bytes | None
    body_through: datetime


async def note(connection: Connection, notes: Sequence[Note]) -> None:
    """Record pending readings."""
    if anew := [each.pump_id for each in notes if each.anew]:
        await connection.execute(_SQL.forget_state, anew)
    if notes:
        await connection.execute(_SQL.note, *_columns(notes)[:-1])


async def note_judged(connection: Connection, judged: Sequence[tuple[str, datetime]]) -> None:
    """Record up to when each pump's readings are evaluated."""
    if judged:
        await connection.execute(_SQL.judged, *_columns(judged))


async def save(connection: Connection, states: Sequence[Saved]) -> None:
    """Save states to continue from after a restart."""
    if states:
        await connection.execute(_SQL.save, *_columns(states))


async def of_partition(connection: Connection, partition: int) -> list[Pending]:
    """Return the backlogs of a partition's pumps."""
    return [Pending(*row) for row in await connection.fetch(_SQL.of_partition, partition)]


async def done(connection: Connection, pump_ids: Collection[str]) -> None:
    """Delete the backlogs of pumps that are completely evaluated."""
    await connection.execute(_SQL.done, list(pump_ids))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
