"""Bringing readings back into the database for a while, into a table of their own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pyarrow as pa
from esp_common.database import Connection

from esp_archiver.domain.datasets import FORMS, Dataset
from esp_archiver.reading import Question, Reader, columns_named
from esp_archiver.store import runs as store
from esp_archiver.store.runs import Restore

_COLUMNS = FORMS[Dataset.TELEMETRY].schema.names


async def bring_back(lead: Connection, reader: Reader, restore: Restore) -> int:
    """Fill the table of a restore that was begun; return how many readings it has.

    Raises Unavailable, NotFound or Damaged when the archive cannot be read.
    """
    total = 0
    for pump_id in restore.pump_ids:
        question = Question(pump_id, restore.since, restore.until, columns_named(None))
        async for rows in _rows(reader, question, restore.restore_id):
            await store.put_restored(lead, ("restore_id", *_COLUMNS), rows)
            total += len(rows)
    return total


async def _rows(
    reader: Reader, question: Question, restore_id: UUID
) -> AsyncIterator[Sequence[tuple[Any, ...]]]:
    async for table in reader.tables(question, await reader.parts(question)):
        yield await asyncio.to_thread(_records, table, restore_id)


def _records(table: pa.Table, restore_id: UUID) -> list[tuple[Any, ...]]:
    columns = [table.column(name).to_pylist() for name in _COLUMNS]
    return [(restore_id, *row) for row in zip(*columns, strict=True)]
