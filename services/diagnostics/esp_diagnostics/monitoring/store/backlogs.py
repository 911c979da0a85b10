"""Readings of the past that wait to be judged, by pump."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from esp_common.database import Connection, load_queries

_SQL: Final = load_queries(__package__, "backlogs.sql")


class Note(NamedTuple):
    """Readings of a pump after `judged` and up to `until` wait; `body` is its state at `judged`, if any.

    `anew`: what is stored of them is judged again, from `judged` on and without a state.
    """

    pump_id: str
    partition: int
    judged: datetime
    until: datetime
    body: bytes | None
    anew: bool = False


class Saved(NamedTuple):
    """A pump's state after its reading of `through`."""

    pump_id: str
    body: bytes
    through: datetime


class Pending(NamedTuple):
    """A backlog as it is stored; `body_through`: the newest reading that is in `body`."""

    pump_id: str
    partition: int
    judged: datetime
    until: datetime
    body: bytes | None
    body_through: datetime


async def note(connection: Connection, notes: Sequence[Note]) -> None:
    """Store that readings wait."""
    if anew := [each.pump_id for each in notes if each.anew]:
        await connection.execute(_SQL.forget_state, anew)
    if notes:
        await connection.execute(_SQL.note, *_columns(notes)[:-1])


async def note_judged(connection: Connection, judged: Sequence[tuple[str, datetime]]) -> None:
    """Store up to when each pump's readings are judged."""
    if judged:
        await connection.execute(_SQL.judged, *_columns(judged))


async def save(connection: Connection, states: Sequence[Saved]) -> None:
    """Store states to go on from after a restart."""
    if states:
        await connection.execute(_SQL.save, *_columns(states))


async def of_partition(connection: Connection, partition: int) -> list[Pending]:
    """Return the backlogs of a partition's pumps."""
    return [Pending(*row) for row in await connection.fetch(_SQL.of_partition, partition)]


async def done(connection: Connection, pump_ids: Collection[str]) -> None:
    """Delete backlogs: everything of these pumps is judged."""
    await connection.execute(_SQL.done, list(pump_ids))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
