"""Where archived rows come from: what ingest, auth and diagnostics publish, read in one snapshot."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from itertools import groupby
from typing import Any, Final, Protocol

import pyarrow as pa
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.database import Connection, Pool, load_queries

from esp_archiver.domain.copied import CopiedRows, Tables
from esp_archiver.domain.datasets import FORMS, Dataset
from esp_archiver.domain.planning import Content

_FILE: Final = load_queries("esp_archiver.store", "sources.sql")
ROWS_AT_ONCE: Final = 50_000
"""Rows of one table of readings: about 20 MB."""

_RECORDS_AT_ONCE: Final = 2000
_CHANNELS: Final = ", ".join(f"coalesce({name}, 'NaN')" for name in CHANNEL_NAMES)
_TELEMETRY_ROWS: Final = _FILE.telemetry_rows.format(channels=_CHANNELS)

Take = Callable[[Callable[[], pa.Table]], Awaitable[None]]
"""Takes what makes the next table: milliseconds of work that need not hold up what the database sends."""


class Source(Protocol):
    """A dataset's rows. `days` and `contents` tell what there is, `read` hands it over."""

    @property
    def dataset(self) -> Dataset:
        """What the rows are."""

    async def days(self, connection: Connection, before: date) -> Sequence[date]:
        """Return the days before `before` of which there are rows."""

    async def contents(self, connection: Connection, day: date) -> Sequence[Content]:
        """Return what there is of a day, by field where the dataset is parted by field."""

    async def drops(self, connection: Connection, day: date) -> int:
        """Return how often the source let rows of a day go."""

    async def read(self, connection: Connection, day: date, content: Content, take: Take) -> None:
        """Hand over the rows of `content` in the dataset's order, a bounded number at a time."""


@asynccontextmanager
async def snapshot(pool: Pool) -> AsyncIterator[Connection]:
    """Yield a connection that sees the sources at one moment."""
    async with (
        pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute(_FILE.snapshot)
        yield connection


class Telemetry:
    """Readings: raw days as long as ingest has them."""

    dataset = Dataset.TELEMETRY

    async def days(self, connection: Connection, before: date) -> Sequence[date]:
        """Return the raw days before `before`."""
        return [row["day"] for row in await connection.fetch(_FILE.telemetry_days, before)]

    async def contents(self, connection: Connection, day: date) -> Sequence[Content]:
        """Return what each field has of a day."""
        rows = await connection.fetch(_FILE.telemetry_content, day)
        return [
            _field(field_id, list(pumps)) for field_id, pumps in groupby(rows, lambda row: row["field_id"])
        ]

    async def drops(self, connection: Connection, day: date) -> int:
        """Return how often ingest dropped the day."""
        return int(await connection.fetchval(_FILE.drops, day))

    async def read(self, connection: Connection, day: date, content: Content, take: Take) -> None:
        """Hand over a field's day."""
        pump_ids = [pump_id for pump_id, _ in content.pumps]
        rows, tables = CopiedRows(ROWS_AT_ONCE), Tables(pump_ids)

        async def on_data(data: bytes) -> None:
            for piece in rows.feed(data):
                await take(partial(tables.table, piece))

        await connection.copy_from_query(
            _TELEMETRY_ROWS, pump_ids, *_bounds(day), output=on_data, format="binary"
        )
        for piece in rows.finish():
            await take(partial(tables.table, piece))


def _field(field_id: str, pumps: Sequence[Any]) -> Content:
    ordered = sorted((row["pump_id"], row["readings"]) for row in pumps)
    return Content(
        field_id,
        sum(readings for _, readings in ordered),
        int(sum(row["digest"] for row in pumps)),
        tuple(ordered),
    )


class Records:
    """A dataset of records that stay where they are: the audit log, findings that are over.

    Where the service that publishes them is not installed there are none.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        columns = ", ".join(_column(field) for field in FORMS[dataset].schema)
        self._exists, self._days, self._content, self._rows = (
            _FILE[f"{dataset}_{part}"].replace("{columns}", columns)
            for part in ("exists", "days", "content", "rows")
        )

    async def days(self, connection: Connection, before: date) -> Sequence[date]:
        """Return the days before `before` that have records."""
        if not await connection.fetchval(self._exists):
            return []
        return [row["day"] for row in await connection.fetch(self._days, _midnight(before))]

    async def contents(self, connection: Connection, day: date) -> Sequence[Content]:
        """Return what a day's records come to."""
        row = await connection.fetchrow(self._content, *_bounds(day))
        return [Content("", row["rows"], int(row["digest"]))] if row and row["rows"] else []

    async def drops(self, connection: Connection, day: date) -> int:
        """Return 0: records are not dropped for being archived."""
        return 0

    async def read(self, connection: Connection, day: date, content: Content, take: Take) -> None:
        """Hand over a day's records."""
        schema = FORMS[self.dataset].schema
        held: list[dict[str, Any]] = []
        async for row in connection.cursor(self._rows, *_bounds(day), prefetch=_RECORDS_AT_ONCE):
            held.append(dict(row))
            if len(held) == _RECORDS_AT_ONCE:
                await take(partial(pa.Table.from_pylist, held, schema=schema))
                held = []
        if held:
            await take(partial(pa.Table.from_pylist, held, schema=schema))


def _column(field: Any) -> str:
    """Return a column as text where the file has a text: uuid and json among them."""
    return f"{field.name}::text AS {field.name}" if pa.types.is_string(field.type) else str(field.name)


def _bounds(day: date) -> tuple[datetime, datetime]:
    return _midnight(day), _midnight(day + timedelta(days=1))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


SOURCES: Final[Mapping[Dataset, Callable[[], Source]]] = {
    Dataset.TELEMETRY: Telemetry,
    Dataset.AUDIT: lambda: Records(Dataset.AUDIT),
    Dataset.FINDINGS: lambda: Records(Dataset.FINDINGS),
}
"""How each dataset is read."""
