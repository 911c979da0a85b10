"""An archive of the module: a database with days of readings in it, and an Azurite to archive them to."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from esp_archiver.reading import Question, Reader, columns_named
from esp_archiver.runs import Archive, Outcome
from esp_archiver.settings import ArchiverSettings
from esp_archiver.storage import Store, open_store
from esp_archiver.store import manifest
from esp_archiver.store.migrations import migrate
from esp_auth.store.migrations import migrate as migrate_auth
from esp_ingest.archived import ArchivedDay, settle
from esp_ingest.store import retention
from esp_ingest.store.migrations import migrate as migrate_ingest
from esp_platform.databases import ARCHIVER_OWNER, AUTH_OWNER
from esp_stack.servers.azurite import Azurite

TODAY = date(2026, 6, 1)
PUMPS = {"north": ("P-1", "P-2"), "south": ("P-3",)}

_READINGS = """
INSERT INTO ingest.telemetry (
    pump_no, time, intake_pressure_psi, motor_temp_c, vibration_x_g, running, trip_code, fault_mask,
    frozen_mask, refused_mask, clamped_mask
)
SELECT
    pump_no, at, (pump_no * 7919 + extract(epoch FROM at)::bigint) % 40000,
    CASE WHEN extract(minute FROM at) <> 7 THEN 2000 + pump_no + extract(hour FROM at)::int END,
    extract(minute FROM at)::int, extract(hour FROM at) > 1, CASE WHEN extract(minute FROM at) = 9 THEN 4 END,
    CASE WHEN extract(minute FROM at) = 11 THEN 9 END, NULL,
    CASE WHEN extract(minute FROM at) = 7 THEN 8 END, CASE WHEN extract(hour FROM at) = 5 THEN 1 END
FROM ingest.pumps, generate_series($1::timestamptz, $2::timestamptz - INTERVAL '1 second', $3) AS at
WHERE pump_id = ANY ($4)
"""


@pytest.fixture(scope="module")
def azurite(server_home: Path, request: pytest.FixtureRequest) -> Iterator[Azurite]:
    """The module's blob storage."""
    server = Azurite(server_home / f"azurite-{request.module.__name__.rpartition('.')[2]}")
    server.start()
    yield server
    server.stop()


@dataclass
class ArchiveUnderTest:
    """The archive and what surrounds it; `admin` is the database's superuser, `pool` the archiver's."""

    database: Any
    azurite: Azurite
    settings: ArchiverSettings
    admin: "asyncpg.Pool[Any]"
    pool: "asyncpg.Pool[Any]"
    store: Store
    today: date = TODAY

    async def add(self, day: date, *, every: timedelta = timedelta(minutes=1), pumps: Any = None) -> None:
        """Have ingest store a reading of each pump at every step of a day."""
        start = datetime.combine(day, time(), UTC)
        ids = (
            [pump for field_pumps in PUMPS.values() for pump in field_pumps] if pumps is None else list(pumps)
        )
        await self.ensure_partition(day)
        await self.admin.execute(_READINGS, start, start + timedelta(days=1), every, ids)

    async def ensure_partition(self, day: date) -> None:
        """Create the partition of `day` where the engine needs one, as the maintenance role does."""
        if self.database.engine == "postgres":
            await self.admin.execute("SELECT ingest.ensure_partitions($1)", [day])

    async def run(self, store: Store | None = None, **settings: Any) -> Outcome:
        """Run the archive as the worker does; `settings` replace the module's."""
        return await run(
            replace(self, settings=self.settings.model_copy(update=settings)), store or self.store
        )

    async def events(self, type_: str = "archive.verified") -> list[dict[str, Any]]:
        """Take the events that wait to be sent out of the outbox; return those of a type."""
        rows = await self.admin.fetch("DELETE FROM archiver.outbox RETURNING id, routing_key, body")
        of_type = sorted((row["id"], json.loads(row["body"])) for row in rows if row["routing_key"] == type_)
        return [event for _, event in of_type]

    async def settle(self, event: dict[str, Any]) -> Any:
        """Have ingest do what it does with `archive.verified`."""
        content = retention.Content(event["readings"], int(event["digest"]))
        archived = ArchivedDay(event["archive_id"], date.fromisoformat(event["day"]), content)
        return await settle(self.admin, self.database.engine, archived, today=self.today, keep_days=30)

    async def archived_and_dropped(self, day: date) -> None:
        """Archive what is due, and have ingest drop `day`."""
        await self.run()
        told = [event for event in await self.events() if event["day"] == day.isoformat()]
        assert await self.settle(told[-1]) is None

    async def parts(self, day: date, dataset: str = "telemetry") -> list[Any]:
        """Return the manifest's parts of a day."""
        async with self.pool.acquire() as connection:
            return await manifest.parts_of_day(connection, dataset, day)  # type: ignore[arg-type]

    async def names(self, prefix: str = "") -> list[str]:
        """Return what lies in the container."""
        return [name async for name in self.store.names(prefix)]

    async def read(
        self, pump_id: str, day: date, *, days: int = 1, channels: Any = None
    ) -> list[dict[str, Any]]:
        """Return a pump's readings from the archive."""
        since = datetime.combine(day, time(), UTC)
        question = Question(pump_id, since, since + timedelta(days=days), columns_named(channels))
        reader = Reader(self.pool, self.store)
        parts = await reader.parts(question)
        return [row async for table in reader.tables(question, parts) for row in table.to_pylist()]


async def run(archive: ArchiveUnderTest, store: Store) -> Outcome:
    """Run the archive over a connection that leads."""
    async with manifest.leading(archive.pool) as lead:
        assert lead is not None
        return await Archive(archive.pool, store, archive.settings).run(lead, archive.today)


@pytest.fixture(scope="module")
async def archive(database: Any, azurite: Azurite) -> AsyncIterator[ArchiveUnderTest]:
    """An empty archive beside an ingest schema with three pumps in two fields, on each storage engine."""
    async with opened(database, azurite) as archive:
        yield archive


class opened:  # noqa: N801 - reads as a word in `with`
    """Migrates a database, fills in assets, and opens what is needed."""

    def __init__(self, database: Any, azurite: Azurite) -> None:
        self._database, self._azurite = database, azurite

    async def __aenter__(self) -> ArchiveUnderTest:
        database = self._database
        migrate_ingest(database.url("esp_ingest_owner"), database.engine)
        migrate_auth(database.url(AUTH_OWNER), database.engine)
        migrate(database.url(ARCHIVER_OWNER), database.engine)
        settings = ArchiverSettings(
            database_url=database.url("esp_archiver"),
            blob_connection_string=self._azurite.connection_string,
            blob_container=f"archive-{database.name.replace('_', '-')}",
            blob_timeout_s=10,
            blob_retries=1,
            verify_share=0,
        )
        utc = {"timezone": "UTC"}
        self._admin = await asyncpg.create_pool(database.admin_url, min_size=1, server_settings=utc)
        self._pool = await asyncpg.create_pool(settings.database_url, min_size=1, server_settings=utc)
        self._opening = open_store(settings)
        store = await self._opening.__aenter__()
        await store.ensure()
        for field_id, pumps in PUMPS.items():
            await self._admin.execute("INSERT INTO ingest.fields VALUES ($1, $1)", field_id)
            await self._admin.execute("INSERT INTO ingest.wells VALUES ('W-' || $1, $1, 'well')", field_id)
            await self._admin.execute(
                "INSERT INTO ingest.pumps (pump_id, well_id, model, stages, expected_interval_s)"
                " SELECT pump_id, 'W-' || $1, 'AN550', 250, 10 FROM unnest($2::text[]) AS pump_id",
                field_id,
                list(pumps),
            )
        return ArchiveUnderTest(database, self._azurite, settings, self._admin, self._pool, store)

    async def __aexit__(self, *_: object) -> None:
        await self._opening.__aexit__(None, None, None)
        await self._pool.close()
        await self._admin.close()


@pytest.fixture
def new_day(request: pytest.FixtureRequest) -> date:
    """A day of the test's own, so that tests of a module do not meet."""
    return date(2024, 1, 1) + timedelta(days=sum(map(ord, request.node.name)) % 700)
