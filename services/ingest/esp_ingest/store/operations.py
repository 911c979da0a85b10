"""The database's part in resolving refused readings and in reconciling what was sent with what is kept."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
from esp_common.database import Connection, load_queries

from esp_ingest.store.batch import Key

_QUERIES: Final = load_queries("esp_ingest.store", "operations.sql")


@dataclass(frozen=True, slots=True)
class Refused:
    """A row of quarantine, locked until the transaction ends."""

    gateway_id: str
    pump_id: str | None
    reason: str
    payload: dict[str, Any]
    state: str


async def lock_refused(connection: Connection, id_: UUID) -> Refused | None:
    """Return the row and keep others from changing it; None where there is none."""
    row = await connection.fetchrow(_QUERIES.lock_refused, id_)
    return row and Refused(**{**row, "payload": orjson.loads(row["payload"])})


async def resolve(connection: Connection, id_: UUID, state: str, actor: str) -> None:
    """Note that `actor` replayed or discarded the reading."""
    await connection.execute(_QUERIES.resolve, id_, state, actor)


async def sums(connection: Connection) -> Mapping[str, int]:
    """Return the ledger's sums and how many rows the tables hold."""
    return dict(await connection.fetchrow(_QUERIES.sums) or {})


async def stored_rows(connection: Connection, keys: Sequence[Key]) -> list[Mapping[str, Any]]:
    """Return the stored rows of `keys`, values in multiples of their resolution."""
    if not keys:
        return []
    pumps, times = (list(column) for column in zip(*keys, strict=True))
    first, last = min(times), max(times)
    return list(await connection.fetch(_QUERIES.stored_rows, pumps, times, first, last))


async def summaries(connection: Connection) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield gateway and payload of the rows that stand for many refusals, in the caller's transaction."""
    async for row in connection.cursor(_QUERIES.summaries, prefetch=1):
        yield row["gateway_id"], orjson.loads(row["payload"])


async def quarantined_ids(connection: Connection, ids: Iterable[UUID]) -> set[UUID]:
    """Return those of `ids` that quarantine has, but for those sent in again."""
    return {row["id"] for row in await connection.fetch(_QUERIES.quarantined_ids, list(ids))}
