"""A migrated database of the module on each engine, with pumps in it, and the store as a worker uses it."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import asyncpg
import numpy as np
import pytest
from esp_common.contracts.channels import CHANNEL_COUNT, CHANNEL_INDEX
from esp_common.contracts.readings import RUNNING_ABSENT, TRIP_CODE_ABSENT
from esp_ingest.domain.readings import Quarantined
from esp_ingest.domain.scaling import NULL_INT
from esp_ingest.store.batch import Batch, Conflicts, FlushCounts, OnConflict, StoreResult, Tally
from esp_ingest.store.migrations import migrate
from esp_ingest.store.telemetry import Engine, TelemetryStore, prepare


def make_batch(
    keys: Sequence[tuple[int, datetime]],
    *,
    running: int = RUNNING_ABSENT,
    trip_code: int = TRIP_CODE_ABSENT,
    fault_mask: int = 0,
    frozen_mask: int = 0,
    refused_mask: int = 0,
    clamped_mask: int = 0,
    **channels: int | Sequence[int],
) -> Batch:
    """Return readings of `keys` (pump number, time) with scaled `channels`, in the order of the store."""
    n = len(keys)
    pump_no = np.array([pump for pump, _ in keys], dtype=np.int32)
    time_us = np.array([round(time.timestamp() * 1e6) for _, time in keys], dtype=np.int64)
    scaled = np.full((n, CHANNEL_COUNT), NULL_INT, dtype=np.int32)
    for name, values in channels.items():
        scaled[:, CHANNEL_INDEX[name]] = values
    order = np.lexsort((time_us, pump_no))
    return Batch(
        pump_no[order],
        time_us[order],
        scaled[order],
        np.full(n, running, dtype=np.int8),
        np.full(n, trip_code, dtype=np.int32),
        np.full(n, fault_mask, dtype=np.int32),
        np.full(n, frozen_mask, dtype=np.int32),
        np.full(n, refused_mask, dtype=np.int32),
        np.full(n, clamped_mask, dtype=np.int32),
    )


def no_conflict(conflicts: Conflicts) -> list[Quarantined]:
    """Fail: the test expects no conflict."""
    raise AssertionError(f"unexpected conflict at {conflicts.positions}")


@dataclass
class StoreUnderTest:
    """The store on one engine; `pool` is the worker's, `owner` belongs to the schema's owner."""

    engine: Engine
    database: Any
    pool: "asyncpg.Pool[Any]"
    owner: "asyncpg.Pool[Any]"
    store: TelemetryStore

    async def write(
        self,
        batch: Batch,
        *,
        quarantined: Sequence[Quarantined] = (),
        tallies: Sequence[Tally] = (),
        counts: FlushCounts | None = None,
        on_conflict: OnConflict = no_conflict,
    ) -> StoreResult:
        """Write one flush."""
        counts = counts or FlushCounts("test", 1, len(batch) + len(quarantined))
        return await self.store.write(batch, quarantined, tallies, counts, on_conflict)

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """Ask the database as the owner of the schema."""
        return await self.owner.fetch(query, *arguments)

    async def value(self, query: str, *arguments: Any) -> Any:
        """Ask the database for one value, as the owner of the schema."""
        return await self.owner.fetchval(query, *arguments)

    async def compress(self, day: datetime) -> None:
        """Move a day's chunk into the columnstore, where there is one."""
        if self.engine == "timescale":
            query = "SELECT compress_chunk(show_chunks('ingest.telemetry', newer_than => $1::timestamptz, "
            assert await self.rows(query + "older_than => $1::timestamptz + INTERVAL '1 day'))", day)


@pytest.fixture(scope="module")
async def stored(engine: str, database: Any) -> AsyncIterator[StoreUnderTest]:
    """The store on each engine in turn."""
    installed = migrate(database.url("esp_ingest_owner"))
    assert installed == engine
    utc = {"timezone": "UTC"}
    async with (
        asyncpg.create_pool(
            database.url("esp_ingest_owner"), min_size=1, max_size=6, server_settings=utc
        ) as owner,
        asyncpg.create_pool(
            database.url("esp_ingest"), min_size=1, max_size=8, init=prepare, server_settings=utc
        ) as pool,
    ):
        await owner.execute(
            """
            INSERT INTO ingest.fields VALUES ('north', 'North'), ('south', 'South');
            INSERT INTO ingest.wells VALUES ('W-1', 'north', 'One'), ('W-2', 'south', 'Two');
            INSERT INTO ingest.pumps (pump_id, well_id, model, stages, expected_interval_s)
            SELECT format('P-%s', n), CASE WHEN n % 2 = 1 THEN 'W-1' ELSE 'W-2' END, 'AN550', 250, 10
            FROM generate_series(1, 40) AS n
            """
        )
        yield StoreUnderTest(installed, database, pool, owner, TelemetryStore(pool, installed, 100_000))


_DAYS = count()


@pytest.fixture
def new_day() -> datetime:
    """A day of the test's own, well in the past, so that tests of a module do not meet."""
    return datetime(2015, 1, 1, tzinfo=UTC) + timedelta(days=next(_DAYS))


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., Batch]:
    """`make_batch`, for tests."""
    return make_batch
